"""Between the model and a chain: calls by name, events decoded, and many views read at once."""

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, NamedTuple

from lattice_core.chain.abi import abi
from lattice_core.chain.port import Chain, Log, Reverted, Transaction

_SENDER = bytes(19) + b"\1"

READER = bytes.fromhex(
    "5f5f"  # at = 0; end = 0
    "5b8136111560405781358061ffff16"  # while at < calldatasize: target ‖ size = calldata[at:]
    "80846020018437"  # memory[end:] = calldata[at + 32 :][:size]
    "5f5f82858560601c5afa602c573d5f5f3e3d5ffd"  # static call, or revert as it did
    "5b3d5f843e"  # memory[end:] = what it returned
    "929050903d019101602001906002565b5ff3"  # at += 32 + size; end += returndatasize; at last return memory[:end]
)
"""A contract that makes every call it is told of and returns their answers one after the other."""

PUPPET = bytes.fromhex("601436038060145f375f5f825f5f5f3560601c5af13d5f5f3e601f573d5ffd5b3d5ff3")
"""A contract that does as it is told: it calls the address in the first 20 bytes with the rest, and returns what that did."""


def creation(code: bytes) -> bytes:
    """What creates a contract of that code."""
    return b"\x61" + len(code).to_bytes(2) + bytes.fromhex("80600a5f395ff3") + code


class Call(NamedTuple):
    """A transaction: `sender` calls `function` of `contract`."""

    sender: bytes
    contract: str
    function: str
    args: tuple[Any, ...] = ()

    def __str__(self) -> str:
        shown = (f"0x{arg.hex()}" if isinstance(arg, bytes) else repr(arg) for arg in self.args)
        return f"0x{self.sender.hex()[:8]} calls {self.contract}.{self.function}({', '.join(shown)})"


class Event(NamedTuple):
    """An event of one of the contracts, and the Unix time of its block."""

    contract: str
    name: str
    args: dict[str, Any]
    time_s: int = 0


class View(NamedTuple):
    """What a view of a contract should answer: one int for each word."""

    contract: str
    function: str
    args: tuple[Any, ...]
    words: tuple[int, ...]


class Wire:
    """The contracts of a network at their addresses on a chain."""

    def __init__(self, chain: Chain, addresses: Mapping[str, bytes]) -> None:
        self.chain = chain
        self.addresses = dict(addresses)
        self._names = {address: name for name, address in self.addresses.items()}
        created = chain.deploy(_SENDER, creation(READER)).raise_for_revert().contract
        assert created is not None
        self._reader = created

    def transaction(self, call: Call) -> Transaction:
        to, data = self.addresses[call.contract], abi(call.contract).encode_call(call.function, *call.args)
        if call.sender == self.addresses["StakingPools"]:  # a contract, which cannot send: somebody makes it call
            return Transaction(_SENDER, call.sender, to + data)
        return Transaction(call.sender, to, data)

    def events(self, logs: Iterable[Log], time_s: int) -> list[Event]:
        """What these logs say."""
        return [Event(*_decoded(self._names[log.address], log), time_s) for log in logs]

    def differing(self, views: Iterable[View]) -> str:
        """The first view that answers otherwise, in words; nothing if there is none."""
        views = list(views)
        answers = self._read(views)
        expected = [word for view in views for word in view.words]
        if answers == expected:
            return ""
        for view in views:
            given, answers = answers[: len(view.words)], answers[len(view.words) :]
            if given != list(view.words):
                return f"{view.contract}.{view.function}{view.args} is {given}, expected {list(view.words)}"
        return f"{len(answers)} words are left over"

    def _read(self, views: list[View]) -> list[int]:
        parts = []
        for view in views:
            data = _calldata(view.contract, view.function, view.args)
            parts.append(self.addresses[view.contract] + len(data).to_bytes(12) + data)
        try:
            answers = self.chain.call(self._reader, b"".join(parts))
        except Reverted as revert:
            raise AssertionError(f"a view reverted: {revert}") from None
        return [int.from_bytes(answers[at : at + 32]) for at in range(0, len(answers), 32)]


@cache
def _topics(contract: str) -> dict[bytes, str]:
    return {item.hash: name for name, item in abi(contract).events.items()}


_TRANSFER = abi("LAIToken").events["Transfer"].hash


def _decoded(contract: str, log: Log) -> tuple[str, str, dict[str, Any]]:
    if log.topics[0] == _TRANSFER:  # the most frequent one, decoded without eth_abi
        return contract, "Transfer", {"from": log.topics[1][12:], "to": log.topics[2][12:], "value": int.from_bytes(log.data)}
    name = _topics(contract)[log.topics[0]]
    args = abi(contract).decode_event(name, log.topics, log.data)
    assert args is not None
    return contract, name, args


@cache
def _calldata(contract: str, function: str, args: tuple[Any, ...]) -> bytes:
    return abi(contract).encode_call(function, *args)
