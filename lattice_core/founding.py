"""A network's founding without a chain: the facts that `Bridge.open` would bring of everyone in the config, in its order.

For those who study what follows and not the chain: they come one by one, so that millions of users need no memory.
"""

from collections.abc import Iterator

from lattice_core import census
from lattice_core.config import Config
from lattice_core.events import AccountOpened, Bonded, Deposited, Event, FaucetGranted, NodeRegistered, OfferPosted
from lattice_core.state import KINDS


def founding(config: Config, t_ns: int = 0) -> Iterator[Event]:
    """Accounts, their deposits and faucet credit, and then nodes, each with its bond and its offers."""
    for user in census.each_user(config):
        yield AccountOpened(t_ns, user.account, user.key, user.cluster)
    for first, population in zip(census.first_accounts(config), config.users, strict=True):
        if nlai := population.budget.deposit_nlai:
            yield from (Deposited(t_ns, first + ordinal, nlai) for ordinal in range(population.count))
    for first, population in zip(census.first_accounts(config), config.users, strict=True):
        if nlai := population.budget.faucet_nlai:
            yield from (FaucetGranted(t_ns, first + ordinal, nlai) for ordinal in range(population.count))
    models = tuple(config.models)
    for entry in census.nodes(config):
        p, kind = entry.population, KINDS.index(entry.population.kind)
        yield NodeRegistered(t_ns, entry.node, entry.key, kind, entry.cluster, entry.owner, p.slots, p.queue)
        yield Bonded(t_ns, entry.node, p.bond_nlai)
        for model in p.models:
            yield OfferPosted(t_ns, entry.node, models.index(model), p.price.input_nlai, p.price.output_nlai)
