"""The network as it should be: the models of all its contracts, put together.

A call is predicted to revert with one named error, or to emit a list of events; and events are all that changes the model. So
what a chain's own logs make of an empty model is the network's state: `rebuild` is that fold.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache

from lattice_core.chain.contracts.clock import Epochs
from lattice_core.chain.typed_data import domain
from tests.chain.machine.book import Book
from tests.chain.machine.nodes import Nodes
from tests.chain.machine.shadow import Shadow, Tx
from tests.chain.machine.slashing import Slashing
from tests.chain.machine.status import Status
from tests.chain.machine.token import Token
from tests.chain.machine.tokenomics import Tokenomics
from tests.chain.machine.users import Users
from tests.chain.machine.wire import Call, Event, View


class Model:
    """All contracts. `epochs` and `cap_wei` are constants of the chain, which no event tells."""

    def __init__(self, addresses: Mapping[str, bytes], epochs: Epochs, chain_id: int, cap_wei: int) -> None:
        self.addresses = addresses
        self.epochs = epochs
        self.chain_id = chain_id
        self.cap_wei = cap_wei
        self.contracts: set[bytes] = set()
        self.book = Book(self)
        self.token = Token(self)
        self.users = Users(self)
        self.nodes = Nodes(self)
        self.status = Status(self)
        self.tokenomics = Tokenomics(self)
        self.slashing = Slashing(self)
        shadows = (self.book, self.token, self.users, self.nodes, self.status, self.tokenomics, self.slashing)
        self._shadows: dict[str, Shadow] = {shadow.NAME: shadow for shadow in shadows}
        self._domains: dict[str, bytes] = {}

    def epoch_at(self, now_s: int) -> int:
        """The epoch that it is."""
        return (now_s - self.epochs.start_s) // self.epochs.length_s

    def domain(self, contract: str) -> bytes:
        """What signatures for a contract name (EIP-712)."""
        if contract not in self._domains:
            self._domains[contract] = domain(self.chain_id, self.addresses[contract])
        return self._domains[contract]

    def predict(self, call: Call, now_s: int) -> list[Event]:
        """What the call emits. Raises Refused if it reverts."""
        tx = Tx(call.sender, now_s)
        getattr(self._shadows[call.contract], _snake(call.function))(tx, *call.args)
        return tx.events

    def apply(self, events: Iterable[Event]) -> None:
        """Change as the events say."""
        for event in events:
            self._shadows[event.contract].apply(event)

    def views(self, now_s: int) -> Iterator[View]:
        """What the contracts should answer, as far as the model knows."""
        for shadow in self._shadows.values():
            yield from shadow.views(now_s)


def rebuild(empty: Model, logs: Iterable[Event]) -> Model:
    """The network's state, from nothing but its events."""
    empty.apply(logs)
    return empty


@cache
def _snake(function: str) -> str:
    return re.sub("(?=[A-Z])", "_", function).lower()
