"""A live network's folder: one process's at a time, and one network's for good.

nexus.sqlite       all that the network remembers, see `sqlite`
keys/              of the nodes launched here, and the Nexus's certificate
contracts.json     where the contracts are, on a chain that is not in this process
lock               held by the process that has the folder
"""

import fcntl
from pathlib import Path

from lattice_core.config import Config
from lattice_core.journal import JournalError, header_line, read
from lattice_live import sqlite
from lattice_live.sqlite import FILE, Reader
from lattice_live.storage import StorageError

LOCK = "lock"


class FolderError(ValueError):
    """A folder that cannot hold this network: one line says why."""


class Folder:
    """A live network's folder. One that holds a network is continued if its config is the same."""

    def __init__(self, path: Path, config: Config) -> None:
        """Take the folder, and make it if it is missing. Raises FolderError, and leaves what it refuses as it was."""
        self.path = path
        self.storage = path / FILE
        """The file of its `Sqlite`."""
        self.keys = path / "keys"
        self.book = path / "contracts.json"
        if (
            not self.storage.exists()
            and path.exists()
            and not (path.is_dir() and {p.name for p in path.iterdir()} <= {LOCK, sqlite.DRAFT})
        ):
            raise FolderError(f"{path}: must be an empty folder or one of a live network; --out names another")
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock = (path / LOCK).open("a")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise FolderError(f"{path}: must be used by one process at a time, another is doing so") from None
        except OSError as error:
            raise FolderError(f"{path}: cannot be written: {error.strerror}") from error
        try:
            if self.storage.exists():
                self._check(config)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let another process have the folder."""
        self._lock.close()

    def _check(self, config: Config) -> None:
        """Raises FolderError unless what is held can be continued."""
        try:
            reader = Reader(self.storage)
            first = next(reader.lines("events"), None)
            reader.close()
        except StorageError as error:
            raise FolderError(str(error)) from error
        if first not in (None, header_line(config.canonical())):
            raise FolderError(f"{self.path}: must hold a network of this config; {_difference(str(first), self.storage)}")


def _difference(line: str, path: Path) -> str:
    """What a journal's first line has against being continued."""
    try:
        read([line], str(path))
    except JournalError as error:
        return str(error)
    return f"{path} was begun with another config"
