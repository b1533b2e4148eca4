"""A small network on py-evm for the tests: who acts in it, and how a chunk is written."""

from typing import NamedTuple

import numpy as np

from lattice_core.batch import Chunk
from lattice_core.chain.abi import keccak
from lattice_core.chain.contracts import Genesis, Network, deploy
from lattice_core.chain.pyevm import PyEvm
from lattice_core.split import Rates
from lattice_core.units import MAX_SUPPLY_NLAI

NEXUS = 1
RATES = Rates(burn_ppm=10_000, treasury_ppm=40_000, auditors_ppm=20_000, delegators_ppm=50_000, treasury_ceiling_nlai=10**18)


class Actors(NamedTuple):
    """Addresses that send transactions."""

    deployer: bytes
    owner: bytes
    holder: bytes
    oracle: bytes
    stranger: bytes


def address(name: str) -> bytes:
    return keccak(name.encode())[-20:]


def actors(chain: PyEvm) -> Actors:
    return Actors(*chain.accounts()[:5])


def start(rates: Rates = RATES, users: int = 0, nodes: int = 0, supply_nlai: int = MAX_SUPPLY_NLAI) -> tuple[Network, Actors]:
    """A deployed network whose holder has approved everything, with so many users and nodes registered."""
    chain = PyEvm()
    who = actors(chain)
    network = deploy(chain, Genesis(who.owner, who.holder, supply_nlai, MAX_SUPPLY_NLAI, rates, {NEXUS: who.oracle}))
    for contract in (network.users, network.nodes):
        network.token.approve(who.holder, contract.address, MAX_SUPPLY_NLAI).raise_for_revert()
    identities = [keccak(b"user %d" % i) for i in range(users)]
    network.users.register(who.holder, identities, [address(f"owner {i}") for i in range(users)]).raise_for_revert()
    operators = [address(f"operator {i}") for i in range(nodes)]
    network.nodes.register(who.holder, operators, [0] * nodes, [bytes(32)] * nodes, [0] * nodes).raise_for_revert()
    return network, who


def chunk(
    users: dict[int, tuple[int, int]], nodes: dict[int, tuple[int, int]], nexus: int = NEXUS, epoch: int = 0, number: int = 0
) -> Chunk:
    """A chunk from {id: (purchased, faucet)} of debits and of grosses."""

    def columns(entries: dict[int, tuple[int, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        purchased, faucet = zip(*entries.values(), strict=True) if entries else ((), ())
        return np.array(list(entries), np.int64), np.array(purchased, np.int64), np.array(faucet, np.int64)

    return Chunk(nexus, epoch, number, *columns(users), *columns(nodes))
