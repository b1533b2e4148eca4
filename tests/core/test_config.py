"""The config: what it takes, what it refuses and in which words, and that its bounds keep the rules' arithmetic in int64."""

import json
import math
import re
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from lattice_core.capacity import mean_tokens, offered_output_tok_s, up_share
from lattice_core.config import Config, ConfigError, parse, revise, schema
from lattice_core.config.network import PRESETS, NodePopulation, TokenLaw
from lattice_core.config.quantities import MAX_DURATION_NS
from lattice_core.hardware import CATALOGUE, MAX_SLOTS, MAX_STEP_NS
from lattice_core.pricing import fee_nlai
from lattice_core.streams import AVAILABILITY, TOKENS, entity_key, normal, uniform
from lattice_core.units import DAY_NS, HOUR_NS, MAX_PRICE_NLAI, MAX_SUPPLY_NLAI, MAX_TOKENS, MINUTE_NS, NANO, PPM

ASSUMPTIONS = Path(__file__).parents[2] / "docs" / "assumptions.md"

DATA: dict[str, Any] = {
    "version": 1,
    "name": "town",
    "seed": 7,
    "models": {
        "chat-1.5b": {
            "kind": "llm",
            "context": 4096,
            "reference": {
                "ttft": "1s",
                "itl": "30ms",
                "prefill_tok_s": 1000,
                "output_tok": 300,
                "price_input": 0.2,
                "price_output": 1,
            },
            "weights": {"seed": 1},
        },
    },
    "nodes": [
        {
            "name": "lab",
            "count": 2,
            "kind": "llm",
            "models": ["chat-1.5b"],
            "hardware": {"a": "7ms", "b": "1.45ms", "prefill_tok_s": 1000},
            "slots": 4,
            "queue": 8,
            "price": {"input": 0.1, "output": 0.9},
            "bond": 200,
            "availability": {"on": "1h", "off": "10m"},
            "failures": {"mtbf": "1d", "mttr": "5m"},
            "network_delay": "5ms",
        },
        {
            "name": "office",
            "count": 3,
            "models": ["chat-1.5b"],
            "hardware": {"a": "5ms", "b": "1ms", "prefill_tok_s": 2000},
            "slots": 2,
            "price": {"input": 0.1, "output": 0.8},
            "bond": 150,
            "cluster": "clinic",
            "availability": {"diurnal": {"start": "8h", "up": "10h", "jitter": "1h"}},
        },
    ],
    "users": [
        {
            "name": "chat",
            "count": 20,
            "model": {"chat-1.5b": 1},
            "workload": {
                "modulated": {"requests_per_day": 5000, "hourly": [1] * 24, "bursts": [{"cv": 0.5, "period": "5m"}]},
                "scale": 2,
            },
            "tokens": {"prompt": {"median": 200, "sigma": 0.5}, "output": {"median": 300, "sigma": 0.3}, "max_tokens": 1000},
            "budget": {"deposit": 2, "wallet": 5, "top_up": 1, "faucet": 0.5},
            "patience": {"median": "30s", "sigma": 0.4},
            "deadline": "2m",
            "max_fee": 0.01,
            "privacy": "public",
            "retries": 1,
        },
        {
            "name": "nurses",
            "count": 5,
            "model": "chat-1.5b",
            "workload": {"trace": "ward.csv"},
            "tokens": {"max_tokens": 500},
            "budget": {"deposit": 1},
            "privacy": "cluster",
            "cluster": "clinic",
        },
    ],
    "clusters": [{"name": "clinic"}],
    "economics": {"split": {"burn": 0.02}, "supply": {"genesis": 1000000}},
    "routing": {"policy": "power_of_two", "breaker": {"open": "20s"}, "weights": {"bond": 0.5}},
    "reputation": {"history": 10},
    "chain": {"epoch": "10m"},
    "sim": {"epochs": 6},
    "live": {"listen": "127.0.0.1:0", "launch": {"lab": 1}},
}

Dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)

type Steps = tuple[str | int, ...]


def text(data: object) -> str:
    return yaml.dump(data, Dumper=Dumper, sort_keys=False)


def paths(data: Any, path: Steps = ()) -> Iterator[Steps]:
    """Paths of everything in `data` but the root."""
    items: Any = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from paths(value, (*path, key))


def at(path: Steps) -> Any:
    """What stands at a path of DATA."""
    value: Any = DATA
    for step in path:
        value = value[step]
    return value


def put(data: Any, path: Steps, value: object) -> Any:
    """A copy of `data` with `value` at `path`."""
    whole = deepcopy(data)
    parent = whole
    for step in path[:-1]:
        parent = parent[step]
    parent[path[-1]] = value
    return whole


def words(path: Steps, data: Any = DATA) -> str:
    """The path as an error writes it: items of a list by name."""
    out = []
    for step in path:
        data = data[step]
        out.append(data.get("name", str(step)) if isinstance(data, dict) and isinstance(step, int) else str(step))
    return ".".join(out)


def error(source: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(source, "town.yaml", overrides)
    return str(caught.value)


def attempt(source: str, *overrides: str) -> tuple[Config | None, str]:
    """The config, or why there is none."""
    try:
        return parse(source, "town.yaml", overrides), ""
    except ConfigError as refusal:
        return None, str(refusal)


TOWN = parse(text(DATA), "town.yaml")
PATHS = list(paths(DATA))
MAPPINGS = [path for path in PATHS if isinstance(at(path), dict)]

# Reading


def test_quantities_become_integers_in_the_units_their_names_say() -> None:
    lab, chat = TOWN.nodes[0], TOWN.users[0]
    assert (TOWN.chain.epoch_ns, lab.network_delay_ns, lab.hardware.b_ns) == (10 * MINUTE_NS, 5_000_000, 1_450_000)
    assert (lab.bond_nlai, lab.price.output_nlai, chat.max_fee_nlai) == (200 * NANO, 900_000_000, 10_000_000)
    assert TOWN.economics.split.burn_ppm == 20_000


@given(ns=st.integers(1, MAX_DURATION_NS), nlai=st.integers(1, MAX_SUPPLY_NLAI), ppm=st.integers(0, PPM))
def test_every_quantity_is_written_as_it_is_read(ns: int, nlai: int, ppm: int) -> None:
    user = TOWN.users[1].model_copy(update={"deadline_ns": ns, "max_fee_nlai": nlai})
    split = TOWN.economics.split.model_copy(update={"burn_ppm": ppm})
    economics = TOWN.economics.model_copy(update={"split": split})
    config = TOWN.model_copy(update={"users": [TOWN.users[0], user], "economics": economics})
    assert parse(config.canonical(), "canonical") == config


@settings(max_examples=15)
@given(st.randoms(use_true_random=False))
def test_the_hash_does_not_depend_on_the_order_of_keys(random: Any) -> None:
    def shuffled(data: Any) -> Any:
        if isinstance(data, list):
            return [shuffled(item) for item in data]
        if isinstance(data, dict):
            return {key: shuffled(data[key]) for key in random.sample(sorted(data), len(data))}
        return data

    assert parse(text(shuffled(DATA)), "town.yaml").sha256() == TOWN.sha256()


def test_models_are_numbered_by_name_so_that_a_config_read_from_its_dump_is_the_same_network() -> None:
    data = put(DATA, ("models", "a-model"), DATA["models"]["chat-1.5b"])
    config = parse(text(data), "town.yaml")
    assert list(config.models) == list(parse(config.canonical(), "canonical").models) == ["a-model", "chat-1.5b"]


def test_every_change_of_a_value_changes_the_hash() -> None:
    assert revise(TOWN, {"routing.weights.bond": 0.25}).sha256() != TOWN.sha256()


def test_yaml_is_read_without_the_surprises_of_its_first_version() -> None:
    assert TOWN.nodes[0].availability.on_ns == HOUR_NS
    assert parse(text(DATA), "town.yaml", ["users.chat.workload={poisson: {requests_per_day: 1e3}}"]).users[0].workload.poisson
    assert "seed: must be an integer" in error(text(DATA), "seed=1_000")
    assert "name: must be a name" in error(text(DATA).replace("name: town", "name: yes1 no"))


PROFILE = """
format: lattice-hardware
version: 1
models:
  chat-1.5b: {a: 7ms, b: 1.5ms, prefill_tok_s: 900, prefill_beside_tok_s: 400, chunk_tok: 32, slots: 8}
"""


def test_a_measured_profile_gives_its_figures_to_the_nodes_that_name_it() -> None:
    read = {"nets/mine.yaml": PROFILE}.__getitem__
    measured = parse(text(DATA), "town.yaml", ["nodes.lab.hardware={profile: nets/mine.yaml}"], files=read)
    figures = "{a: 7ms, b: 1.5ms, prefill_tok_s: 900, prefill_beside_tok_s: 400, chunk_tok: 32}"
    stated = parse(text(DATA), "town.yaml", [f"nodes.lab.hardware={figures}"])
    for name in ("a_ns", "b_ns", "prefill_tok_s", "prefill_beside_tok_s", "chunk_tok"):
        assert getattr(measured.nodes[0].profile("chat-1.5b"), name) == getattr(stated.nodes[0].profile("chat-1.5b"), name)
    assert parse(measured.canonical(), "again") == measured


@pytest.mark.parametrize(
    ("profile", "said"),
    [
        ("[]", "mine.yaml: must be what `lattice node profile` writes: format: lattice-hardware, version: 1, models"),
        (PROFILE.replace("version: 1", "version: 2"), "mine.yaml: must be what `lattice node profile` writes"),
        (PROFILE.replace("b: 1.5ms, ", ""), "mine.yaml: models.chat-1.5b: must have a, b, prefill_tok_s; missing: b"),
        (PROFILE.replace("chat-1.5b", "other"), "nodes.lab.hardware: must be {a, b, prefill_tok_s} to serve chat-1.5b, not a"),
        (PROFILE.replace("7ms", "-7ms"), "hardware.models.chat-1.5b.a: "),
        (PROFILE.replace("chunk_tok: 32", "chunk_tok: 0"), "hardware.models.chat-1.5b.chunk_tok: "),
    ],
)
def test_a_profile_that_does_not_fit_is_refused_in_one_line(profile: str, said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        parse(text(DATA), "town.yaml", ["nodes.lab.hardware={profile: mine.yaml}"], files=lambda file: profile)


def test_a_gguf_is_found_beside_the_yaml_that_names_it() -> None:
    named = text({**DATA, "models": {"chat-1.5b": {**DATA["models"]["chat-1.5b"], "weights": {"gguf": "chat.gguf"}}}})
    weights = parse(named, "town.yaml", base="nets").models["chat-1.5b"].weights
    assert weights is not None
    assert (weights.gguf, weights.variant) == ("nets/chat.gguf", "int8")


def test_a_trace_is_found_beside_the_yaml_that_names_it_or_from_the_current_folder_in_an_override() -> None:
    assert parse(text(DATA), "town.yaml", base="nets").users[1].workload.trace == "nets/ward.csv"
    assert parse(text(DATA), "town.yaml", base="/nets").users[1].workload.trace == "/nets/ward.csv"
    assert parse(text(DATA), "town.yaml", ["users.nurses.workload.trace=b.csv"], "nets").users[1].workload.trace == "b.csv"
    assert parse(text(DATA), "town.yaml", ["users.1.workload={trace: b.csv}"], "nets").users[1].workload.trace == "b.csv"


# Overrides


@settings(max_examples=30)
@given(st.sampled_from(PATHS))
def test_an_override_with_the_value_that_stands_there_changes_nothing(path: Steps) -> None:
    value = at(path)
    if words(path) != "nodes.lab.name":
        override = f"{words(path)}={json.dumps(value)}"
        assert parse(text(DATA), "town.yaml", [override]) == TOWN
        assert parse(text(DATA), "town.yaml", [f"{'.'.join(map(str, path))}={json.dumps(value)}"]) == TOWN


@given(epochs=st.integers(1, 1000), deposit=st.integers(0, 10**6), reference=st.floats(1e-6, 1e6))
def test_overrides_and_revisions_agree(epochs: int, deposit: int, reference: float) -> None:
    changes = {"sim.epochs": epochs, "users.chat.budget.deposit": deposit / 100, "nodes.0.hardware.prefill_tok_s": reference}
    overrides = [f"{path}={value!r}" for path, value in changes.items()]
    config = parse(text(DATA), "town.yaml", overrides)
    assert config == revise(TOWN, changes)
    assert (config.sim.epochs, config.nodes[0].hardware.prefill_tok_s) == (epochs, reference)


def test_an_override_replaces_a_mapping_whole_and_makes_what_is_missing() -> None:
    config = parse(text(DATA), "town.yaml", ["routing={explore: 0.5}", "reputation.audit_rate=0.1"])
    assert config.routing.policy == "score_sampled"
    assert (config.routing.explore, config.reputation.audit_rate, config.reputation.history) == (0.5, 0.1, 10)


def test_an_override_reaches_a_model_whose_name_has_dots() -> None:
    assert parse(text(DATA), "town.yaml", ["models.chat-1.5b.context=2048"]).models["chat-1.5b"].context_tok == 2048


# Refusing

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([10**400, -(10**400)]),
    st.floats(),
    st.text(max_size=8),
    st.just([]),
    st.just({}),
    st.just({"x": 1}),
    st.just([[]]),
)


@given(st.sampled_from(PATHS), SCALARS)
def test_any_value_anywhere_is_refused_in_lines_that_name_the_file_or_taken_by_the_schema_too(
    path: Steps, value: object
) -> None:
    data = put(DATA, path, value)
    config, refusal = attempt(text(data))
    assert all(line.startswith("town.yaml: ") for line in refusal.splitlines())
    if config is not None:
        assert revise(config, {}) == config
        assert accepts(schema(), data, schema())
        assert accepts(schema(), config.document(), schema())


@given(st.sampled_from([p for p in PATHS if isinstance(p[-1], str) and p[:1] != ("clusters",)]))
def test_a_value_of_a_shape_that_no_key_takes_is_refused_by_its_key(path: Steps) -> None:
    refusal = error(text(put(DATA, path, [[{}]])))
    named = words(path) if path[-1] != "name" else words(path[:-1]).rpartition(".")[0]
    assert f"town.yaml: {named}" in refusal, refusal


@given(st.sampled_from([(), *MAPPINGS]), st.sampled_from(["cuont", "on", "x y", "épée"]))
def test_an_unknown_key_is_refused_by_its_path(path: Steps, key: str) -> None:
    if words(path).endswith(("models", "launch", "model", "availability")):
        return
    refusal = error(text(put(DATA, (*path, key), 1)))
    assert refusal.startswith(f"town.yaml: {'.'.join(filter(None, [words(path), key]))}: unknown key; ")
    assert "allowed: " in refusal


@given(st.text())
def test_no_text_whatever_raises_anything_but_a_config_error(noise: str) -> None:
    with pytest.raises(ConfigError, match=r"^noise\.yaml: "):
        parse(noise, "noise.yaml")


@given(st.text(), st.text())
def test_no_override_whatever_raises_anything_but_a_config_error(path: str, value: str) -> None:
    config, refusal = attempt(text(DATA), f"{path}={value}")
    assert config is not None or refusal.startswith(("--set", "town.yaml: "))


REFUSALS = """
users.chat.cuont=3
  --set: users.chat.cuont: unknown key; did you mean count? allowed: name, count, model, workload, tokens, budget, patience,
  deadline, max_fee, privacy, cluster, retries
nodes.lab.count=many
  --set: nodes.lab.count: must be an integer, not "many"
nodes.lab.count=0
  --set: nodes.lab.count: must be greater than or equal to 1, not 0
nodes.lab.count=true
  --set: nodes.lab.count: must be an integer, not true
nodes.lab.price.output=-1
  --set: nodes.lab.price.output: must be LAI per million tokens as a number; more than 0, at most 1000, not -1
nodes.lab.price.input=.inf
  --set: nodes.lab.price.input: must be LAI per million tokens as a number; 0 or more, at most 1000, not Infinity
nodes.lab.models=[gpt]
  --set: nodes.lab.models: must be of chat-1.5b, not gpt
nodes.lab.hardware=toaster
  --set: nodes.lab.hardware: must be one of server-gpu, home-gpu, cpu-2-cores, {a, b, prefill_tok_s} or
  {profile: FILE}, not {"name": "toaster"}
nodes.lab.hardware=home-gpu
  --set: nodes.lab.hardware: must be {a, b, prefill_tok_s} to serve chat-1.5b, not home-gpu
nodes.lab.hardware={name: cpu-2-cores, chunk_tok: 32}
  --set: nodes.lab.hardware: prefill_beside_tok_s and chunk_tok go with a, b and prefill_tok_s,
  not {"name": "cpu-2-cores", "chunk_tok": 32}
nodes.lab.hardware.chunk_tok=0
  --set: nodes.lab.hardware.chunk_tok: must be greater than or equal to 1, not 0
nodes.lab.availability=never
  --set: nodes.lab.availability: must be always, diurnal, {diurnal: {start, up, jitter}} or {on, off}, not "never"
nodes=[]
  --set: nodes: must have at least 1 item(s), not []
nodes.shop.count=1
  --set nodes.shop.count: nodes: must go on with lab, office, or a number below 2, not shop
nodes.lab.count.x=1
  --set nodes.lab.count.x: nodes.lab.count is 2 and has no keys; set it whole
users=[]
  --set: users: must have at least 1 item(s), not []
users.chat.model=gpt
  --set: users.chat.model: must be of chat-1.5b, not gpt
users.chat.budget={}
  --set: users.chat.budget: must hold a deposit, faucet credit, or a wallet with a top_up, not {}
users.chat.budget=null
  --set: users.chat.budget: must be a mapping of deposit, wallet, top_up, withdraw_above, faucet
  (What each of them can spend), not null
users.chat.deadline=5 minutes
  --set: users.chat.deadline: must be a duration such as 250ms, 10s, 5m, 1h or 2d, or seconds; more than 0, at most 3650d,
  not "5 minutes"
users.chat.workload={}
  --set: users.chat.workload: must have exactly one of poisson, modulated, preset, trace, not {}
users.chat.workload={preset: azure}
  --set: users.chat.workload.preset: must be one of azure-2023-code, not "azure"
users.chat.workload={trace: a.csv, sessions: {turns: 2, spread: 0}}
  --set: users.chat.workload: must have no sessions beside a trace, which brings its own,
  not {"trace": "a.csv", "sessions": {"turns": 2, "spread": 0}}
users.chat.workload.stretch=0
  --set: users.chat.workload.stretch: must be greater than or equal to 0.001, not 0
users.chat.workload.modulated.bursts={cv: 1, period: 1m}
  --set: users.chat.workload.modulated.bursts: must be a list (Random bursts, each over periods of its own; their factors
  multiply), not {"cv": 1, "period": "1m"}
users.chat.workload.modulated.bursts.0.silent=0.3
  town.yaml: users.chat.workload.modulated.bursts.0: silent must be at most 0.2, which alone has this cv,
  not {"cv": 0.5, "period": "5m", "silent": 0.3}
users.chat.tokens.prompt={sigma: 1}
  --set: users.chat.tokens.prompt: must be a number of tokens, {median, sigma} or {quantiles}, not {"sigma": 1}
users.chat.tokens.prompt={quantiles: {share: [0, 0.5], tok: [1, 2]}}
  --set: users.chat.tokens.prompt.quantiles: must have as many share as tok, share from 0 to 1, neither ever falling,
  not {"share": [0, 0.5], "tok": [1, 2]}
users.chat.tokens={max_tokens: 9}
  --set: users.chat.tokens: must have prompt and output unless the workload is a trace or a preset
users.chat.tokens.max_tokens=4096
  --set: users.chat.tokens.max_tokens: must be at most 4095 to fit chat-1.5b, not 4096
users.chat.privacy=local
  town.yaml: users.chat.cluster: must be one of clinic when privacy is local, not null
users.nurses.cluster=ward
  --set: users.nurses.cluster: must be one of clinic, not ward
users.nurses.name=lab
  town.yaml: nodes and users: each name must be used once, not 2 times lab
economics.peg=usd
  --set: economics.peg: must be 'lai', not "usd"
economics.supply.genesis=500
  --set: economics.supply.genesis: must cover all bonds, budgets and registrations, 1010.20404 LAI, not 500
economics.split.burn=1.5
  --set: economics.split.burn: must be a share from 0 to 1, not 1.5
routing.policy=best
  --set: routing.policy: must be argmax, cheapest, least_in_flight, peak_ewma, power_of_two, price_weighted, random,
  round_robin, score_all, score_sampled, sticky, or one's own as module:Name, not "best"
routing.explore=.nan
  --set: routing.explore: must be a finite number, not NaN
sim.epochs=1000000
  --set: sim.epochs: must be at most 525600 (3650d in all), not 1000000
live.launch.shop=1
  --set: live.launch.shop: must be named like a population of nodes (lab, office)
models.chat-1.5b.weights={seed: 1, pull: smollm2-135m}
  --set: models.chat-1.5b.weights: must have exactly one of seed, pull, gguf, folder,
  not {"seed": 1, "pull": "smollm2-135m"}
models.chat-1.5b.weights=null
  --set: models.chat-1.5b.weights: must say where live mode gets the weights to launch lab, not null
nodes.lab.kind=agent
  --set: nodes.lab.kind: must be llm to serve chat-1.5b, not agent
version=2
  --set: version: must be 1, not 2
version=true
  --set: version: must be 1, not true
seed
  --set seed: must be PATH=VALUE, such as sim.epochs=3
seed=[1
  --set seed: line 1: must be YAML: expected ',' or ']', but got '<stream end>'
seed={a: 1, a: 2}
  --set seed: line 1: must be YAML: duplicate key a
seed=*a
  --set seed: line 1: must be YAML: aliases are not allowed
chain.url=node
  --set: chain.url: must be an http or https URL, not "node"
chain.backend=ganache
  --set: chain.backend: must be 'py-evm', 'revm' or 'rpc', not "ganache"
economics.faucet.budget=1
  --set: economics.faucet.budget: must cover what users are granted at the start, 10 LAI, not 1
economics.bonds.thaw=1h
  --set: economics.bonds.thaw: must be at least slashing.appeal, 259200 s, not 3600 s
economics.bonus.returned=1
  --set: economics.bonus.returned: must be a share from 0 to less than 1, not 1
"""
"""An override, and on the indented lines after it what it is answered."""

TABLE = [(m[1], " ".join(m[2].split())) for m in re.finditer(r"^(\S.*)\n((?:  .*\n)+)", REFUSALS, re.MULTILINE)]


@pytest.mark.parametrize(("override", "line"), TABLE, ids=[override for override, _ in TABLE])
def test_bad_input_is_refused_in_one_clear_line(override: str, line: str) -> None:
    assert error(text(DATA), override) == line


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("", f"town.yaml: must be a mapping with the keys {', '.join(schema()['properties'])}, not null"),
        ("name: x", "town.yaml: version: must be 1, not null"),
        ("name: x\nname: y", "town.yaml: line 2: must be YAML: duplicate key name"),
        ("name: [x", "town.yaml: line 1: must be YAML: expected ',' or ']', but got '<stream end>'"),
        ("a: &a [*a]", "town.yaml: line 1: must be YAML: aliases are not allowed"),
        ("1: x", "town.yaml: line 1: must be YAML: the key 1 must be text"),
        ("[" * 5000, "town.yaml: line 1: must be YAML: nested deeper than 50"),
        ("x: !!python/name:os.system", "town.yaml: line 1: must be YAML: could not determine a constructor for the tag "
         "'tag:yaml.org,2002:python/name:os.system'"),
    ],
)  # fmt: skip
def test_a_text_that_is_no_config_is_refused_in_one_clear_line(source: str, line: str) -> None:
    assert error(source) == line


def test_a_population_without_a_budget_is_told_what_a_budget_is() -> None:
    data = deepcopy(DATA)
    del data["users"][0]["budget"]
    wanted = "a mapping of deposit, wallet, top_up, withdraw_above, faucet (What each of them can spend)"
    assert error(text(data)) == f"town.yaml: users.chat.budget: missing; must be {wanted}"


def test_many_errors_are_cut_to_a_few_lines() -> None:
    refusal = error(text(DATA | {f"key{n}": n for n in range(9)})).splitlines()
    assert len(refusal) == 6
    assert refusal[-1] == "town.yaml: and 4 more"


# Bounds


def test_every_product_of_the_rules_fits_int64_at_the_largest_values_that_are_allowed() -> None:
    int64 = 2**63 - 1
    largest = f"{MAX_PRICE_NLAI // NANO}"
    config = revise(
        TOWN,
        {
            "nodes.lab.price": {"input": largest, "output": largest},
            "nodes.lab.hardware": {"a": "1s", "b": "1s", "prefill_tok_s": 1},
            "nodes.lab.slots": MAX_SLOTS,
            "economics.supply.genesis": f"{MAX_SUPPLY_NLAI // NANO}",
            "chain.epoch": "1d",
            "sim.epochs": 3650,
            "users.chat.deadline": "3650d",
            "models.chat-1.5b.context": MAX_TOKENS,
            "models.chat-1.5b.reference.ttft": "3650d",
            "models.chat-1.5b.reference.itl": "1s",
            "models.chat-1.5b.reference.output_tok": MAX_TOKENS,
        },
    )
    price, profile = config.nodes[0].price, config.nodes[0].profile("chat-1.5b")
    exact = -(-(price.input_nlai + price.output_nlai) * MAX_TOKENS // PPM)
    assert (price.input_nlai + price.output_nlai) * MAX_TOKENS + PPM <= int64
    assert fee_nlai(price.input_nlai, price.output_nlai, MAX_TOKENS, MAX_TOKENS) == exact
    assert fee_nlai.py_func(price.input_nlai, price.output_nlai, MAX_TOKENS, MAX_TOKENS) == exact  # type: ignore[attr-defined]
    assert (profile.a_ns + profile.b_ns * MAX_SLOTS) * MAX_TOKENS <= int64
    assert config.economics.supply.genesis_nlai <= int64
    assert config.sim.epochs * config.chain.epoch_ns + config.users[0].deadline_ns <= int64
    assert config.models["chat-1.5b"].reference.knee_ns <= int64


@pytest.mark.parametrize(
    "change",
    [
        {"nodes.lab.price.output": "1000.000000001"},
        {"nodes.lab.hardware.a": "1.1s"},
        {"nodes.lab.slots": MAX_SLOTS + 1},
        {"economics.supply.genesis": "9000000000.000000001"},
        {"models.chat-1.5b.context": MAX_TOKENS + 1},
        {"users.chat.deadline": "3651d"},
        {"seed": 2**63},
    ],
    ids=str,
)
def test_a_value_just_above_its_bound_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        revise(TOWN, change)


def test_every_catalogue_profile_is_within_the_bounds_and_names_its_source() -> None:
    for profiles in CATALOGUE.values():
        for profile in profiles.values():
            assert 0 < profile.a_ns <= MAX_STEP_NS
            assert 0 < profile.b_ns <= MAX_STEP_NS
            assert profile.prefill_tok_s > 0
            assert profile.source


# Schema and documents


def accepts(part: dict[str, Any], value: Any, whole: dict[str, Any]) -> bool:
    """Whether a JSON schema takes a value: as much of the standard as the config's schema uses."""
    if "$ref" in part:
        part = whole["$defs"][part["$ref"].rpartition("/")[2]]
    if "anyOf" in part:
        return any(accepts(option, value, whole) for option in part["anyOf"])
    if "const" in part or "enum" in part:
        return value in part.get("enum", [part.get("const")])
    match part["type"]:
        case "object":
            keys, named = part.get("properties", {}), part.get("patternProperties", {})
            return (
                isinstance(value, dict)
                and set(part.get("required", ())) <= set(value)
                and all(
                    accepts(keys[key], item, whole)
                    if key in keys
                    else any(re.search(pattern, key) and accepts(inner, item, whole) for pattern, inner in named.items())
                    or isinstance(part.get("additionalProperties"), dict)
                    for key, item in value.items()
                )
            )
        case "array":
            size = isinstance(value, list) and part.get("minItems", 0) <= len(value) <= part.get("maxItems", math.inf)
            return size and all(accepts(part["items"], item, whole) for item in value)
        case "string":
            return isinstance(value, str) and re.search(part.get("pattern", ""), value) is not None
        case "integer" | "number":
            kind = int if part["type"] == "integer" else int | float
            above = part.get("minimum", -math.inf), part.get("exclusiveMinimum", -math.inf)
            below = part.get("maximum", math.inf), part.get("exclusiveMaximum", math.inf)
            right = isinstance(value, kind) and not isinstance(value, bool)
            return right and above[0] <= value <= below[0] and above[1] < value < below[1]
        case "boolean":
            return isinstance(value, bool)
        case "null":
            return value is None
    raise AssertionError(part)


def defaults(part: dict[str, Any], whole: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """(key, default) of every leaf of the schema that has a default other than absence."""
    if "$ref" in part:
        part = whole["$defs"][part["$ref"].rpartition("/")[2]]
    for option in part.get("anyOf", ()):
        yield from defaults(option, whole, path)
    for key, inner in part.get("properties", {}).items():
        name = f"{path}.{key}".lstrip(".")
        if inner.get("default") not in (None, [], {}) and not isinstance(inner["default"], dict):
            yield name, inner["default"]
        yield from defaults(inner, whole, name)
    if "items" in part:
        yield from defaults(part["items"], whole, f"{path}[]")
    for inner in part.get("patternProperties", {}).values():
        yield from defaults(inner, whole, f"{path}.*")


def test_the_assumptions_page_lists_every_default_as_it_is_with_a_source_and_no_other() -> None:
    rows = re.findall(r"^\| `(.+?)` \| (.+?) \| (.+?) \|$", ASSUMPTIONS.read_text(encoding="utf-8"), re.MULTILINE)

    def shown(value: object) -> str:
        if value == [1.0] * 24:
            return "24 equal weights"
        if isinstance(value, bool):
            return str(value).lower()
        return f"{value:g}" if isinstance(value, int | float) else str(value)

    assert {key: default for key, default, _ in rows} == {key: shown(value) for key, value in defaults(schema(), schema())}
    assert len({key for key, _, _ in rows}) == len(rows)


# Expectations


@given(median=st.integers(1, 4000), sigma=st.floats(0, 2), most=st.integers(1, 5000))
def test_the_mean_of_a_cut_off_length_is_that_of_its_draws(median: int, sigma: float, most: int) -> None:
    key = entity_key("lengths", 0)
    draws = [min(float(most), median * math.exp(sigma * normal(1, TOKENS, key, n))) for n in range(1_000)]
    spread = math.sqrt(sum((x - sum(draws) / 1_000) ** 2 for x in draws)) / 1_000
    assert mean_tokens(TokenLaw(median=median, sigma=sigma), most) == pytest.approx(
        sum(draws) / 1_000, abs=6 * spread + 0.005 * most
    )


@given(
    share=st.lists(st.floats(0, 1), max_size=6),
    tok=st.lists(st.floats(0.5, 4000), min_size=8, max_size=8),
    most=st.integers(1, 5000),
)
def test_the_mean_of_a_length_by_quantiles_is_that_of_its_law(share: list[float], tok: list[float], most: int) -> None:
    shares = [0.0, *sorted(share), 1.0]
    law = TokenLaw.model_validate({"quantiles": {"share": shares, "tok": sorted(tok)[: len(shares)]}})
    assert law.quantiles is not None
    at = (np.arange(100_000) + 0.5) / 100_000
    drawn = np.exp(np.interp(at, shares, np.log(law.quantiles.tok)))
    assert mean_tokens(law, most) == pytest.approx(np.minimum(drawn, most).mean(), rel=1e-3, abs=0.1)


def test_a_preset_loads_the_nodes_as_its_rate_and_its_answers_do() -> None:
    chat = {"workload": {"preset": "azure-2023-code", "scale": 0.5, "stretch": 2.0}, "tokens": {"max_tokens": 2000}}
    users = revise(TOWN, {f"users.chat.{key}": value for key, value in chat.items()}).users[0]
    fitted = PRESETS["azure-2023-code"]
    expected = fitted.modulated.requests_per_day / 86_400 / 4 * mean_tokens(fitted.output, 2000)
    assert offered_output_tok_s(users, next(iter(users.model)), 3) == pytest.approx(expected)


@given(start=st.integers(0, 24), up=st.integers(0, 24), jitter=st.integers(0, 24), hour=st.floats(0, 24))
def test_the_share_of_households_that_are_up_is_that_of_their_draws(start: int, up: int, jitter: int, hour: float) -> None:
    diurnal = {"start": f"{start}h", "up": f"{up}h", "jitter": f"{jitter}h"}
    home: NodePopulation = revise(TOWN, {"nodes.office.availability.diurnal": diurnal}).nodes[1]
    shifts = [(2 * uniform(1, AVAILABILITY, entity_key("office", n), 0) - 1) * jitter for n in range(400)]
    drawn = sum((hour - start - shift) % 24 < up for shift in shifts) / 400
    edge = any(math.isclose((hour - start - end) % 24, 0, abs_tol=1e-6) for end in (0, up, 24)) and jitter == 0
    assert edge or up_share(home, hour) == pytest.approx(drawn, abs=0.13)


def test_failures_and_absences_multiply() -> None:
    assert up_share(TOWN.nodes[0], 12) == pytest.approx(60 / 70 * DAY_NS / (DAY_NS + 5 * MINUTE_NS))


@pytest.mark.parametrize("value", [math.nan, 1j, object(), {1: 2}, {(1, 2): 3}, b"x"], ids=lambda value: type(value).__name__)
def test_a_revision_with_something_that_no_yaml_holds_is_refused(value: object) -> None:
    with pytest.raises(ConfigError, match=r"^--set: chain\.epoch"):
        revise(TOWN, {"chain.epoch": value})


def test_a_config_is_frozen_and_equal_to_itself_after_a_copy() -> None:
    assert Config.model_validate(TOWN.document()) == TOWN
    with pytest.raises(ValueError, match="frozen"):
        TOWN.seed = 3
