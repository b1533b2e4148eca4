"""What each transaction costs on any backend: a model fitted once on py-evm, in whole gas, so that no result reads a gas meter.

`contracts/gas.json` holds it; `lattice bench gas --write` measures it again.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Self

from lattice_core.chain.artifacts import contracts_hash
from lattice_core.config import ConfigError

_CORE = Path(__file__).parents[1]
IN_WHEEL, IN_CHECKOUT = _CORE / "gas.json", _CORE.parent / "contracts" / "gas.json"
"""Where the model lies."""


class Price(NamedTuple):
    """An operation's gas, affine in the rows it carries.

    `entries` are rounded up to whole multiples of `step`: so many of them share a storage word.
    """

    base: int
    per_entry: int
    per_node: int
    step: int = 1

    def gas(self, entries: int, nodes: int = 0) -> int:
        return self.base + self.per_entry * (-(-entries // self.step) * self.step) + self.per_node * nodes


class Fit(NamedTuple):
    """Between which sizes a price was measured, and the largest relative error there, in parts per million."""

    entries: tuple[int, int]
    nodes: tuple[int, int]
    error_ppm: int


@dataclass(frozen=True, slots=True)
class GasModel:
    """The price of each operation of `Bridge`, and the hash of the contracts (`contracts_hash`) that it was measured on."""

    contracts_sha256: str
    prices: Mapping[str, Price]
    fits: Mapping[str, Fit]

    def gas(self, operation: str, entries: int, nodes: int = 0) -> int:
        """Gas of a transaction that goes through, in steady state; `nodes` are those that a settlement pays besides."""
        return self.prices[operation].gas(entries, nodes)

    def operations(self) -> dict[str, dict[str, Any]]:
        """Price and fit of each operation, by field."""
        return {name: {**price._asdict(), **self.fits[name]._asdict()} for name, price in self.prices.items()}

    def text(self) -> str:
        """As the file holds it, an operation a line."""
        rows = ",\n".join(f'  "{name}": {json.dumps(row)}' for name, row in self.operations().items())
        return f'{{\n "contracts_sha256": "{self.contracts_sha256}",\n "operations": {{\n{rows}\n }}\n}}\n'

    @classmethod
    def parse(cls, text: str) -> Self:
        """The inverse of `text`."""
        document = json.loads(text)
        operations = document["operations"].items()
        prices = {name: Price(*(row[field] for field in Price._fields)) for name, row in operations}
        fits = {name: Fit(tuple(row["entries"]), tuple(row["nodes"]), row["error_ppm"]) for name, row in operations}
        return cls(document["contracts_sha256"], prices, fits)


@cache
def load() -> GasModel:
    """The model that ships. Raises ConfigError if it was measured on other contracts than those that ship."""
    path = IN_WHEEL if IN_WHEEL.is_file() else IN_CHECKOUT
    try:
        model = GasModel.parse(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}; `lattice bench gas --write` measures it") from error
    if model.contracts_sha256 != contracts_hash():
        raise ConfigError(
            f"{path}: contracts_sha256: must be {contracts_hash()}, that of the contracts that ship, "
            f"not {model.contracts_sha256}; `lattice bench gas --write` measures it again"
        )
    return model
