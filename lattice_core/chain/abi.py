"""The one codec between Python values and the EVM's bytes: calls, results, events and errors.

An address is 20 bytes, a bytes32 is 32 bytes, a struct is a tuple.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from eth_abi import abi as eth_abi
from eth_abi.grammar import ABIType, BasicType, TupleType, parse
from sha3 import keccak_256

from lattice_core.chain.artifacts import artifact, names


def keccak(data: bytes) -> bytes:
    """Ethereum's hash."""
    digest: bytes = keccak_256(data).digest()
    return digest


@dataclass(frozen=True, slots=True)
class Field:
    """One argument of a function, event or error."""

    name: str
    type: str
    indexed: bool


@dataclass(frozen=True, slots=True)
class Item:
    """A function, event or error: its fields, and the hash of its signature."""

    name: str
    inputs: tuple[Field, ...]
    outputs: tuple[Field, ...]
    hash: bytes

    @property
    def selector(self) -> bytes:
        """The four bytes that name it in calldata and revert data."""
        return self.hash[:4]


class Abi:
    """A contract's interface."""

    def __init__(self, name: str) -> None:
        items = [(entry["type"], _item(entry)) for entry in artifact(name).abi]
        self.constructor = next((item for kind, item in items if kind == "constructor"), _item({}))
        self.functions = {item.name: item for kind, item in items if kind == "function"}
        self.events = {item.name: item for kind, item in items if kind == "event"}
        self.errors = {item.selector: item for kind, item in items if kind == "error"}

    def encode_constructor(self, *args: Any) -> bytes:
        """What follows the creation code."""
        return encode(self.constructor.inputs, args)

    def encode_call(self, function: str, *args: Any) -> bytes:
        """Calldata of a function."""
        item = self.functions[function]
        return item.selector + encode(item.inputs, args)

    def decode_result(self, function: str, data: bytes) -> Any:
        """What a function returned: its value, or a tuple if it returns several."""
        values = decode(self.functions[function].outputs, data)
        return values[0] if len(values) == 1 else values

    def decode_event(self, event: str, topics: Sequence[bytes], data: bytes) -> dict[str, Any] | None:
        """The event's arguments by name, or None if this log is of another event."""
        item = self.events[event]
        if not topics or topics[0] != item.hash:
            return None
        indexed = tuple(field for field in item.inputs if field.indexed)
        others = tuple(field for field in item.inputs if not field.indexed)
        values = decode(indexed, b"".join(topics[1:])) + decode(others, data)
        return {field.name: value for field, value in zip(indexed + others, values, strict=True)}


@cache
def abi(name: str) -> Abi:
    """The interface of the contract of that name."""
    return Abi(name)


def encode(fields: Sequence[Field], values: Sequence[Any]) -> bytes:
    """Values in the ABI's layout. Raises ValueError if their number is wrong, eth_abi's EncodingError if one misfits."""
    if len(fields) != len(values):
        raise ValueError(f"{len(values)} arguments given where {[field.name for field in fields]} are expected")
    return eth_abi.encode([field.type for field in fields], list(values))


def decode(fields: Sequence[Field], data: bytes) -> tuple[Any, ...]:
    """Values from the ABI's layout."""
    values = eth_abi.decode([field.type for field in fields], data)
    return tuple(_with_bytes(parse(field.type), value) for field, value in zip(fields, values, strict=True))


def reason(data: bytes) -> str:
    """Revert data as people read it: `NotOracle(nexus=1, caller=0x…)`."""
    if not data:
        return "reverted without a reason"
    item = _errors().get(data[:4])
    if item is None:
        return f"reverted with unknown data 0x{data.hex()}"
    values = decode(item.inputs, data[4:])
    shown = (f"{field.name}={_show(value)}" for field, value in zip(item.inputs, values, strict=True))
    return f"{item.name}({', '.join(shown)})"


def _with_bytes(kind: ABIType, value: Any) -> Any:
    """A decoded value whose addresses, wherever they stand in it, are bytes."""
    if kind.is_array:
        return tuple(_with_bytes(kind.item_type, item) for item in value)
    if isinstance(kind, TupleType):
        return tuple(_with_bytes(part, item) for part, item in zip(kind.components, value, strict=True))
    is_address = isinstance(kind, BasicType) and kind.base == "address"
    return bytes.fromhex(value[2:]) if is_address else value


def _show(value: Any) -> str:
    return f"0x{value.hex()}" if isinstance(value, bytes) else repr(value)


@cache
def _errors() -> dict[bytes, Item]:
    """Every error that Lattice's contracts, or the compiler, can revert with, by selector."""
    builtin = (
        _item({"name": "Error", "inputs": [{"name": "reason", "type": "string"}]}),
        _item({"name": "Panic", "inputs": [{"name": "code", "type": "uint256"}]}),
    )
    errors = {item.selector: item for item in builtin}
    for name in names():
        errors |= abi(name).errors
    return errors


def _item(entry: dict[str, Any]) -> Item:
    inputs, outputs = _fields(entry.get("inputs", [])), _fields(entry.get("outputs", []))
    name = entry.get("name", "")
    return Item(name, inputs, outputs, keccak(f"{name}({','.join(field.type for field in inputs)})".encode()))


def _fields(entries: list[dict[str, Any]]) -> tuple[Field, ...]:
    return tuple(Field(entry["name"], _type(entry), entry.get("indexed", False)) for entry in entries)


def _type(entry: dict[str, Any]) -> str:
    """The canonical type: a struct is written out as a tuple."""
    kind: str = entry["type"]
    if not kind.startswith("tuple"):
        return kind
    return f"({','.join(_type(part) for part in entry['components'])}){kind.removeprefix('tuple')}"
