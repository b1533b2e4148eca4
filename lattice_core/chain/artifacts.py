"""The compiled contracts that ship with the package; `contracts/build.mjs` writes them."""

import json
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Any


@dataclass(frozen=True, slots=True)
class Artifact:
    """One contract: its ABI as solc gives it, its creation code, the SHA-256 of its deployed code with immutables zero, and
    where in that code immutables stand: (start, length) in bytes.
    """

    name: str
    abi: list[dict[str, Any]]
    bytecode: bytes
    deployed_sha256: str
    immutables: tuple[tuple[int, int], ...]

    def matches(self, code: bytes) -> bool:
        """Whether deployed code is this contract's, whatever its immutables are."""
        blank = bytearray(code)
        for start, length in self.immutables:
            blank[start : start + length] = bytes(length)
        return sha256(blank).hexdigest() == self.deployed_sha256


@cache
def artifact(name: str) -> Artifact:
    """The contract of that name. Raises FileNotFoundError if there is none."""
    raw = json.loads(files("lattice_core").joinpath("artifacts", f"{name}.json").read_text("utf-8"))
    immutables = tuple((start, length) for start, length in raw["immutables"])
    return Artifact(raw["name"], raw["abi"], bytes.fromhex(raw["bytecode"]), raw["deployed_sha256"], immutables)


@cache
def names() -> tuple[str, ...]:
    """All contracts, in alphabetical order."""
    paths = files("lattice_core").joinpath("artifacts").iterdir()
    return tuple(sorted(path.name.removesuffix(".json") for path in paths if path.name.endswith(".json")))


def contracts_hash() -> str:
    """One SHA-256 over every contract's creation code."""
    digest = sha256()
    for name in names():
        digest.update(name.encode() + b"\x00" + sha256(artifact(name).bytecode).digest())
    return digest.hexdigest()
