"""A run between two epochs: all that the rest of it depends on, in memory or as bytes.

What a network has beside its config is plain data: arrays, numbers, tuples, and a chain's tables or transactions. What the
config tells is not kept, so that a future may have another one, within `FREE`. In bytes a checkpoint is a header line of JSON
and plain data, see `lattice_core/plain.py`.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import Any, Self

from lattice_core import plain
from lattice_core.chain.artifacts import contracts_hash
from lattice_core.config import Config, ConfigError, parse, revise
from lattice_core.routing import load_policy

FORMAT = "lattice-checkpoint"
VERSION = 1
CHECKPOINT = "checkpoint"
"""A checkpoint's name in a run directory."""

FREE = ("seed", "sim.epochs", "routing", *(f"users.*.{habit}" for habit in ("deadline", "max_fee", "patience", "retries")))
"""What may differ in a future, with what lies under it: all else has left its mark on what the checkpoint holds."""


@dataclass(frozen=True)
class Checkpoint:
    """A run after some epochs. Any number of futures may begin here; nothing in it is ever written to. Picklable."""

    config: Config
    epoch: int
    """Epochs done."""
    branches: tuple[tuple[int, str], ...]
    """Where the run had been given another config: (epochs done, hash of the config before)."""
    state: Mapping[str, Any]
    """What the model's parts have saved, by part."""

    def future(self, changes: Mapping[str, object]) -> Config:
        """The config with other values, by dotted path. Raises ConfigError for one that no future can have."""
        config = revise(self.config, changes)
        for path in _differences(self.config.document(), config.document()):
            if not any(_within(path, free) for free in FREE):
                raise ConfigError(
                    f"{self.config.name}: {path}: must be what it was when the checkpoint was made; "
                    f"a future may have another {', '.join(FREE)}"
                )
        if config.sim.epochs < self.epoch:
            raise ConfigError(
                f"{self.config.name}: sim.epochs: must be at least {self.epoch}, which are done, not {config.sim.epochs}"
            )
        try:
            load_policy(config.routing.policy)
        except ValueError as error:
            raise ConfigError(f"{self.config.name}: routing.policy: {error}") from error
        return config

    def to_bytes(self) -> bytes:
        """For a file or another process."""
        body = plain.dump((self.epoch, self.branches, dict(self.state)))
        header = {**_expected(), "config": self.config.canonical(), "sha256": sha256(body).hexdigest()}
        return json.dumps(header).encode() + b"\n" + body

    @classmethod
    def from_bytes(cls, blob: bytes, source: str = CHECKPOINT) -> Self:
        """The inverse of `to_bytes`; `source` names the bytes in errors.

        Raises ConfigError, in one line, for what is no checkpoint, is damaged, or was made by other code than this.
        """
        line, _, body = blob.partition(b"\n")
        try:
            header = dict(json.loads(line))
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{source}: must begin with a header of {FORMAT}") from error
        for key, allowed in _expected().items():
            if header.get(key) != allowed:
                raise ConfigError(f"{source}: {key}: must be {allowed}, not {header.get(key)}")
        if header.get("sha256") != sha256(body).hexdigest():
            raise ConfigError(f"{source}: is damaged: its {len(body)} bytes are not those of its header's sha256")
        try:
            return cls(parse(header["config"], source), *plain.load(body))
        except plain.PlainError as error:
            raise ConfigError(f"{source}: {error}") from error

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """From a file, or from a run directory that has one. Raises ConfigError."""
        path = Path(path)
        file = path / CHECKPOINT if path.is_dir() else path
        try:
            return cls.from_bytes(file.read_bytes(), str(file))
        except FileNotFoundError as error:
            raise ConfigError(
                f"{path}: must be a checkpoint, or a run directory with one, as an interrupted run leaves it"
            ) from error
        except OSError as error:
            raise ConfigError(f"{file}: cannot be read: {error.strerror}") from error

    def __reduce__(self) -> tuple[Any, ...]:
        return Checkpoint.from_bytes, (self.to_bytes(),)


def _expected() -> dict[str, Any]:
    """The header of a checkpoint that this code can go on from."""
    version = metadata.version("lattice")
    return {
        "format": FORMAT,
        "version": VERSION,
        "lattice": version,
        "sources": plain.sources_hash("lattice_core", "lattice_sim"),
        "contracts": contracts_hash(),
    }


def _differences(one: Any, other: Any, path: str = "") -> Iterator[str]:
    """Dotted paths at which two documents differ; items of a list go by their name."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted(one.keys() | other.keys()):
            yield from _differences(one.get(key), other.get(key), f"{path}.{key}" if path else key)
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for number, (item, changed) in enumerate(zip(one, other, strict=True)):
            name = item.get("name", number) if isinstance(item, dict) else number
            yield from _differences(item, changed, f"{path}.{name}")
    elif one != other:
        yield path


def _within(path: str, free: str) -> bool:
    """Whether a path is `free` or lies under it; `*` stands for any step."""
    steps, wanted = path.split("."), free.split(".")
    return len(steps) >= len(wanted) and all(want in ("*", step) for step, want in zip(steps, wanted, strict=False))
