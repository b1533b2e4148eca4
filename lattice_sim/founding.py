"""A network that has been founded once, for any number of runs to begin with.

Contracts, registrations, deposits and bonds take a third of a day's run, and are the same for all networks that differ only in
what happens afterwards. A run that begins with a founding leaves the bytes of one that was founded for it.
"""

import json
from collections import OrderedDict
from typing import Any

from lattice_core.chain.backends import chain_of
from lattice_core.chain.bridge import Bridge
from lattice_core.config import Config

UNREAD = ("name", "seed", "sim", "live", "routing", "reputation")
"""What of a config the chain is not told at the start."""

UNREAD_OF_USERS = ("workload", "tokens", "patience", "deadline", "max_fee", "privacy", "retries")
UNREAD_OF_NODES = ("hardware", "slots", "queue", "availability", "failures", "network_delay")


class Founding:
    """A chain with a network on it at t = 0. Only one run at a time may be on it: the next one undoes what the last one did."""

    def __init__(self, config: Config) -> None:
        """Raises Reverted, and ConfigError; the chain must be one that takes snapshots."""
        self.chain = chain_of(config)
        bridge = Bridge(self.chain, config)
        bridge.open(config, 0)
        self.operations = bridge.drain()
        """The transactions that founded it."""
        self._saved = bridge.save()
        self._snapshot = self.chain.snapshot()

    def begin(self, config: Config) -> Bridge:
        """The network at t = 0 once more, for a config of the same `key`."""
        self.chain.revert(self._snapshot)
        return Bridge(self.chain, config, saved=self._saved)


class Foundings:
    """The last few foundings, by their key."""

    def __init__(self, most: int = 4) -> None:
        self._most = most
        self._held: OrderedDict[str, Founding] = OrderedDict()

    def of(self, config: Config) -> Founding:
        """The founding of a config: one that is held, or a new one."""
        wanted = key(config)
        if wanted not in self._held:
            self._held[wanted] = Founding(config)
            if len(self._held) > self._most:
                self._held.popitem(last=False)
        self._held.move_to_end(wanted)
        return self._held[wanted]


def key(config: Config) -> str:
    """What a founding depends on: configs of one key found the same network."""
    document = _without(config.document(), UNREAD)
    document["users"] = [_without(users, UNREAD_OF_USERS) for users in document["users"]]
    document["nodes"] = [_without(nodes, UNREAD_OF_NODES) for nodes in document["nodes"]]
    return json.dumps(document, sort_keys=True)


def _without(section: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in section.items() if name not in keys}
