"""A place in a page, between two lines, where a bench puts what it measured."""

from pathlib import Path

from lattice_core.config import ConfigError


def put(path: Path, begin: str, end: str, text: str | None) -> None:
    """Replace what stands between the lines `begin` and `end` of a file; without a text only see that they are there.

    Raises ConfigError.
    """
    try:
        before, begun, rest = path.read_text(encoding="utf-8").partition(f"{begin}\n")
    except OSError as error:
        raise ConfigError(f"--write: {path}: cannot be read: {error.strerror}") from error
    _, ended, after = rest.partition(f"{end}\n")
    if not (begun and ended):
        raise ConfigError(f"--write: {path}: must have the lines {begin} and {end}")
    if text is not None:
        path.write_text(f"{before}{begun}\n{text}\n\n{ended}{after}", encoding="utf-8")
