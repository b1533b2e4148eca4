"""Who a config's populations consist of. A row's index is the kernel's and the chain's id of that node or user."""

from collections.abc import Iterator
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lattice_core.config import Config, NodePopulation, UserPopulation
from lattice_core.streams import entity_key

NOBODY = -1


class NodeEntry(NamedTuple):
    """A node: `cluster` 0 is the public network, others count from 1 in the config's order.

    The k-th node of a private cluster belongs to the cluster's k-th user, who may keep requests local to it; `owner` is that
    user's account, or −1.
    """

    node: int
    population: NodePopulation
    ordinal: int
    key: int
    cluster: int
    owner: int


class UserEntry(NamedTuple):
    """A user, who is an account of his own."""

    account: int
    population: UserPopulation
    ordinal: int
    key: int
    cluster: int


def nodes(config: Config) -> list[NodeEntry]:
    """Every node, population by population."""
    owners = {cluster: _accounts_of(config, cluster) for cluster in range(1, 1 + len(config.clusters))}
    entries = []
    members = ((p, ordinal) for p in config.nodes for ordinal in range(p.count))
    for i, (p, ordinal) in enumerate(members):
        cluster = _cluster(config, p.cluster)
        owner = next(owners[cluster], NOBODY) if cluster else NOBODY
        entries.append(NodeEntry(i, p, ordinal, entity_key(f"node/{p.name}", ordinal), cluster, owner))
    return entries


def users(config: Config) -> list[UserEntry]:
    """Every user, population by population."""
    return list(each_user(config))


def each_user(config: Config) -> Iterator[UserEntry]:
    """The same, one by one."""
    for first, p in zip(first_accounts(config), config.users, strict=True):
        cluster = _cluster(config, p.cluster)
        for ordinal in range(p.count):
            yield UserEntry(first + ordinal, p, ordinal, entity_key(f"user/{p.name}", ordinal), cluster)


def members(config: Config) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Each account's population, as an index of the config's, and its user's ordinal there."""
    counts = [population.count for population in config.users]
    return np.repeat(np.arange(len(counts)), counts), np.concatenate([np.arange(count) for count in counts])


def _accounts_of(config: Config, cluster: int) -> Iterator[int]:
    for first, p in zip(first_accounts(config), config.users, strict=True):
        if _cluster(config, p.cluster) == cluster:
            yield from range(first, first + p.count)


def first_accounts(config: Config) -> Iterator[int]:
    """The account of each user population's first user."""
    first = 0
    for population in config.users:
        yield first
        first += population.count


def identity(key: int) -> bytes:
    """The 32 bytes by which the chain knows an entity before it has an id."""
    return blake2b(key.to_bytes(8, "big"), digest_size=32, person=b"lattice.identity").digest()


def _cluster(config: Config, name: str | None) -> int:
    return 0 if name is None else 1 + [cluster.name for cluster in config.clusters].index(name)
