"""A small network on py-evm for the tests: who acts in it, and how a chunk is written."""

from typing import NamedTuple

import numpy as np

from lattice_core.batch import Chunk
from lattice_core.chain.abi import keccak
from lattice_core.chain.contracts import Network
from lattice_core.chain.contracts.nodes import NodeTerms
from lattice_core.chain.contracts.slashing import SlashTerms
from lattice_core.chain.contracts.tokenomics import BonusTerms
from lattice_core.chain.deployment import Genesis, Roles, deploy
from lattice_core.chain.keys import Key
from lattice_core.chain.port import Chain
from lattice_core.chain.pyevm import PyEvm
from lattice_core.split import Rates
from lattice_core.units import MAX_SUPPLY_NLAI, PPM

NEXUS = 1
RATES = Rates(burn_ppm=10_000, treasury_ppm=40_000, auditors_ppm=20_000, delegators_ppm=50_000, treasury_ceiling_nlai=10**18)
EPOCH_S = 3_600
DAY_S = 86_400
JOIN = NodeTerms(floor_nlai=0, rise_ppm=0, half_life_s=DAY_S, thaw_s=7 * DAY_S)
BONUS = BonusTerms(per_day_nlai=0, returned_ppm=900_000, window_s=DAY_S)
SLASHING = SlashTerms(equivocation_ppm=PPM // 2, proposal_ppm=PPM // 10, reporter_ppm=PPM // 10, appeal_window_s=3 * DAY_S)


class Actors(NamedTuple):
    """Addresses that send transactions."""

    deployer: bytes
    owner: bytes
    holder: bytes
    oracle: bytes
    stranger: bytes


def key(name: str) -> Key:
    """The key of anyone with a name."""
    return Key(keccak(name.encode()))


def address(name: str) -> bytes:
    return key(name).address


def actors() -> Actors:
    return Actors(*(address(name) for name in Actors._fields))


def start(
    rates: Rates = RATES,
    users: int = 0,
    nodes: int = 0,
    supply_nlai: int = MAX_SUPPLY_NLAI,
    *,
    chain: Chain | None = None,
    join: NodeTerms = JOIN,
    bonus: BonusTerms = BONUS,
    budget_nlai: int = 10**18,
    cap_nlai: int = MAX_SUPPLY_NLAI,
    collection_epochs: int = 10,
) -> tuple[Network, Actors]:
    """A deployed network whose holder has approved everything, with so many users (`owner i`) and nodes (`operator i`, whose
    key also signs answers) registered. The holder is registrar and faucet.
    """
    chain = chain or PyEvm()
    who = actors()
    genesis = Genesis(
        roles=Roles(who.deployer, who.owner, registrar=who.holder, faucet=who.holder, oracles={NEXUS: who.oracle}),
        holder=who.holder,
        supply_nlai=supply_nlai,
        cap_nlai=cap_nlai,
        epoch_s=EPOCH_S,
        grace_epochs=2,
        collection_epochs=collection_epochs,
        rates=rates,
        nodes=join,
        bonus=bonus,
        slashing=SLASHING,
        status_window_s=EPOCH_S,
    )
    network = deploy(chain, genesis)
    for contract in (network.users, network.nodes, network.tokenomics):
        network.token.approve(who.holder, contract.address, MAX_SUPPLY_NLAI).raise_for_revert()
    network.tokenomics.set_budget(who.owner, budget_nlai, DAY_S).raise_for_revert()
    identities = [keccak(b"user %d" % i) for i in range(users)]
    owners = [address(f"owner {i}") for i in range(users)]
    for rows in (slice(first, first + 200) for first in range(0, users, 200)):
        network.users.register(who.holder, NEXUS, identities[rows], owners[rows]).raise_for_revert()
    operators = [address(f"operator {i}") for i in range(nodes)]
    if nodes:
        network.nodes.register(who.holder, operators, operators, [0] * nodes, [0] * nodes).raise_for_revert()
    return network, who


def go_to(network: Network, time_s: int) -> None:
    """Let the chain's time reach `time_s`, if it has not."""
    now_s = network.chain.block().timestamp_s
    if time_s > now_s:
        network.chain.advance_block(time_s - now_s)


def end(network: Network, epoch: int) -> None:
    """Let an epoch end, so that its batch may settle it."""
    go_to(network, network.clock.epochs().end_s(epoch))


def chunk(
    users: dict[int, tuple[int, int]], nodes: dict[int, tuple[int, int]], nexus: int = NEXUS, epoch: int = 0, number: int = 0
) -> Chunk:
    """A chunk from {id: (purchased, faucet)} of debits and of grosses."""

    def columns(entries: dict[int, tuple[int, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        purchased, faucet = zip(*entries.values(), strict=True) if entries else ((), ())
        return np.array(list(entries), np.int64), np.array(purchased, np.int64), np.array(faucet, np.int64)

    return Chunk(nexus, epoch, number, *columns(users), *columns(nodes))


def endow_and_grant(network: Network, holder: bytes, users: list[int], amounts_nlai: list[int]) -> None:
    """Faucet credit, out of a treasury that first gets as much."""
    network.tokenomics.endow(holder, sum(amounts_nlai)).raise_for_revert()
    network.tokenomics.grant_faucet(holder, users, amounts_nlai).raise_for_revert()
