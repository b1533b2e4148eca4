"""What no single section of a config can see: names that must exist and fit, sums that must stay in bounds."""

from collections import Counter
from collections.abc import Iterable, Iterator

from lattice_core.config.network import Config
from lattice_core.config.quantities import MAX_DURATION_NS
from lattice_core.hardware import CATALOGUE
from lattice_core.registration import FREE, Joins, join
from lattice_core.units import MAX_SUPPLY_NLAI, to_lai, to_s


def conflicts(config: Config) -> list[str]:
    """Lines that begin with a dotted key: of the first stage that finds any, as later stages build on earlier ones."""
    return next((lines for stage in _STAGES if (lines := list(stage(config)))), [])


def _names(config: Config) -> Iterator[str]:
    clusters = [cluster.name for cluster in config.clusters]
    populations = [*(nodes.name for nodes in config.nodes), *(users.name for users in config.users)]
    for key, names in (("clusters", clusters), ("nodes and users", populations)):
        for name, count in Counter(names).items():
            if count > 1:
                yield f"{key}: each name must be used once, not {count} times {name}"


def _clusters(config: Config) -> Iterator[str]:
    names = [cluster.name for cluster in config.clusters]
    for key, populations in (("nodes", config.nodes), ("users", config.users)):
        for population in populations:
            if population.cluster is not None and population.cluster not in names:
                yield f"{key}.{population.name}.cluster: must be one of {_list(names)}, not {population.cluster}"
    for users in config.users:
        if users.privacy != "public" and users.cluster is None:
            yield f"users.{users.name}.cluster: must be one of {_list(names)} when privacy is {users.privacy}, not null"


def _nodes(config: Config) -> Iterator[str]:
    for nodes in config.nodes:
        at = f"nodes.{nodes.name}"
        if len(set(nodes.models)) < len(nodes.models):
            yield f"{at}.models: must name each model once, not {_list(nodes.models)}"
        for model in nodes.models:
            if model not in config.models:
                yield f"{at}.models: must be of {_list(config.models)}, not {model}"
            elif config.models[model].kind != nodes.kind:
                yield f"{at}.kind: must be {config.models[model].kind} to serve {model}, not {nodes.kind}"
            elif nodes.hardware.known is not None and model not in nodes.hardware.known:
                fit = [*(name for name, profiles in CATALOGUE.items() if model in profiles), "{a, b, prefill_tok_s}"]
                held = nodes.hardware.name or f"a profile of {_list(nodes.hardware.known)}"
                yield f"{at}.hardware: must be {' or '.join(fit)} to serve {model}, not {held}"


def _users(config: Config) -> Iterator[str]:
    for users in config.users:
        at = f"users.{users.name}"
        home = None if users.privacy == "public" else users.cluster
        served = {model for nodes in config.nodes if nodes.cluster == home for model in nodes.models}
        for model in users.model:
            if model not in config.models:
                yield f"{at}.model: must be of {_list(config.models)}, not {model}"
            elif model not in served:
                where = "in the public network" if home is None else f"in cluster {home}"
                yield f"{at}.model: must be one that nodes serve {where} ({_list(sorted(served))}), not {model}"
            elif users.tokens.max_tokens >= config.models[model].context_tok:
                most = config.models[model].context_tok - 1
                yield f"{at}.tokens.max_tokens: must be at most {most} to fit {model}, not {users.tokens.max_tokens}"
        if users.workload.trace is None and (users.prompt is None or users.output is None):
            yield f"{at}.tokens: must have prompt and output unless the workload is a trace or a preset"


def _live(config: Config) -> Iterator[str]:
    names = [nodes.name for nodes in config.nodes]
    for name, count in config.live.launch.items():
        if name not in names:
            yield f"live.launch.{name}: must be named like a population of nodes ({_list(names)})"
            continue
        most = config.population(name).count
        if count > most:
            yield f"live.launch.{name}: must be at most {most}, the count of that population, not {count}"
        for model in config.population(name).models:
            if config.models[model].weights is None:
                yield f"models.{model}.weights: must say where live mode gets the weights to launch {name}, not null"


def _chain(config: Config) -> Iterator[str]:
    thaw_ns, appeal_ns = config.economics.bonds.thaw_ns, config.economics.slashing.appeal_ns
    if thaw_ns < appeal_ns:
        yield f"economics.bonds.thaw: must be at least slashing.appeal, {to_s(appeal_ns):g} s, not {to_s(thaw_ns):g} s"
    if config.granted_nlai > config.faucet_budget_nlai:
        needed, given = (f"{to_lai(nlai):.9g}" for nlai in (config.granted_nlai, config.faucet_budget_nlai))
        yield f"economics.faucet.budget: must cover what users are granted at the start, {needed} LAI, not {given}"


def _sums(config: Config) -> Iterator[str]:
    if config.sim.epochs * config.chain.epoch_ns > MAX_DURATION_NS:
        yield f"sim.epochs: must be at most {MAX_DURATION_NS // config.chain.epoch_ns} (3650d in all), not {config.sim.epochs}"
    bonds_nlai = sum(nodes.count * nodes.bond_nlai for nodes in config.nodes)
    funds_nlai = sum(users.count * users.budget.total_nlai for users in config.users)
    ungranted_nlai = config.faucet_budget_nlai - config.granted_nlai
    needed_nlai = bonds_nlai + funds_nlai + ungranted_nlai + _joins_nlai(config)
    genesis_nlai = config.economics.supply.genesis_nlai
    if needed_nlai > genesis_nlai:
        needed, given = (f"{to_lai(nlai):.9g}" for nlai in (needed_nlai, genesis_nlai))
        yield f"economics.supply.genesis: must cover all bonds, budgets and registrations, {needed} LAI, not {given}"


def _joins_nlai(config: Config) -> int:
    """What all nodes burn to join at the start."""
    terms, price, burned_nlai = config.economics.registration, FREE, 0
    for _ in range(sum(nodes.count for nodes in config.nodes)):
        paid_nlai, price = join(Joins(terms.floor_nlai, terms.rise_ppm, 1), price, 0)
        burned_nlai += paid_nlai
        if burned_nlai > MAX_SUPPLY_NLAI:
            break
    return burned_nlai


_STAGES = (_names, _clusters, _nodes, _users, _live, _chain, _sums)


def _list(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
