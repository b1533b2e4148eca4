"""The networks that ship with Lattice, and reading a network's file by path or by name."""

from collections.abc import Sequence
from pathlib import Path

from lattice_core.config import Config, ConfigError, parse
from lattice_core.routing import load_policy

_HERE = Path(__file__).parent
SHIPPED = next(folder for folder in (_HERE / "experiments", _HERE.parent / "experiments") if folder.is_dir())
"""Where the reference networks lie: inside the wheel, or beside the packages in a checkout."""


def find(name: str | Path) -> Path:
    """The file of that path or, if there is none, the shipped network of that name. Raises ConfigError."""
    path = Path(name)
    if path.is_file():
        return path
    shipped = SHIPPED / path
    if not path.is_absolute() and shipped.is_file():
        return shipped
    names = ", ".join(sorted(file.name for file in SHIPPED.glob("*.yaml")))
    problem = "is a folder" if path.is_dir() else "does not exist"
    raise ConfigError(f"{name}: {problem}; must be a YAML file or one of {names}")


def read(name: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The network in a file, with overrides as `--set` takes them. Raises ConfigError."""
    path = find(name)
    return parse(read_text(path), str(path), overrides, str(path.parent), read_text)


def read_text(path: str | Path) -> str:
    """The text of a file that a config names, or of a config. Raises ConfigError."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: must be UTF-8 text: byte {error.start} is not") from error


def check(config: Config, source: str) -> None:
    """Load what the config only names: its routing policy and its traces. Raises ConfigError."""
    try:
        load_policy(config.routing.policy)
    except ValueError as error:
        raise ConfigError(f"{source}: routing.policy: {error}") from error
    for users in config.users:
        if users.workload.trace is not None:
            from lattice_sim.trace import TraceError, read_trace  # pandas takes half a second

            try:
                read_trace(users.workload.trace)
            except TraceError as error:
                raise ConfigError(f"{source}: users.{users.name}.workload.trace: {error}") from error
