"""What a live network keeps on disk: journal, decisions and API keys, in a folder of its own."""

import fcntl
import json
import os
import secrets
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from lattice_core.config import Config
from lattice_core.events import Event
from lattice_core.journal import JournalError, header_line, read


class FolderError(ValueError):
    """A folder that cannot hold this network: one line says why."""


class Record:
    """A file of lines that only grows, each written at once. A line that it holds already is compared, not written again."""

    def __init__(self, path: Path) -> None:
        """Open or create the file; a last line without its end was never written, and goes. Raises FolderError if in use."""
        self.path = path
        self._file = path.open("a", encoding="ascii", buffering=1, newline="\n")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FolderError(f"{path}: must be written by one process at a time, another is doing so") from None
        held = path.read_bytes()
        whole = held[: held.rfind(b"\n") + 1]
        os.truncate(path, len(whole))
        self.held = whole.decode("ascii").splitlines(keepends=True)
        self._next = 0

    @property
    def ahead(self) -> int:
        """How many lines are held that have not come again."""
        return len(self.held) - self._next

    def __call__(self, line: str) -> None:
        """Append a line. Raises FolderError if another one stands in its place."""
        if not self.ahead:
            self._file.write(line)
        elif self.held[self._next] == line:
            self._next += 1
        else:
            held = self.held[self._next].strip()[:80]
            raise FolderError(f"{self.path}: line {self._next + 1}: {line.strip()[:80]} was expected, not {held}")

    def close(self) -> None:
        self._file.close()


class ApiKey(NamedTuple):
    """What the Nexus knows of a key: the account that pays, and the principal that asks."""

    account: int
    principal: int


class Folder:
    """A live network's folder. One that holds a network is continued if its config is the same."""

    def __init__(self, path: Path, config: Config) -> None:
        """Open the folder, and make it if it is missing. Raises FolderError, and leaves what it refuses as it was."""
        journal, keys = path / "journal.jsonl", path / "keys.json"
        if keys.exists():
            first = journal.read_text("ascii", "replace").partition("\n")[0] if journal.exists() else ""
            if first and f"{first}\n" != header_line(config.canonical()):
                raise FolderError(f"{path}: must hold a network of this config; {_difference(first, journal)}")
        elif path.exists() and not (path.is_dir() and not any(path.iterdir())):
            raise FolderError(f"{path}: must be an empty folder or one of a live network; --out names another")
        try:
            path.mkdir(parents=True, exist_ok=True)
            if not keys.exists():
                keys.write_text("{}\n")
            self._keys: dict[str, int] = json.loads(keys.read_text())
            self.journal = Record(journal)
            self.decisions = Record(path / "decisions.jsonl")
        except OSError as error:
            raise FolderError(f"{path}: cannot be written: {error.strerror}") from error
        except ValueError as error:
            raise FolderError(f"{keys}: must be JSON, hashes of keys and their accounts: {error}") from error
        self.path = path
        self._keys_path = keys

    def events(self) -> list[Event]:
        """The events that the journal held when it was opened. Raises FolderError."""
        try:
            return list(read(self.journal.held, str(self.journal.path))[1]) if self.journal.held else []
        except JournalError as error:
            raise FolderError(str(error)) from error

    def issue_key(self, account: int) -> str | None:
        """A fresh API key of `account`, of which only a hash is kept; None if the account has one."""
        if account in self._keys.values():
            return None
        key = f"sk-lattice-{secrets.token_urlsafe(32)}"
        self._keys[sha256(key.encode()).hexdigest()] = account
        self._keys_path.write_text(json.dumps(self._keys, indent=2) + "\n")
        return key

    def find_key(self, key: str) -> ApiKey | None:
        """Whose key this is; None if nobody's."""
        hashed = sha256(key.encode()).hexdigest()
        account = self._keys.get(hashed)
        return None if account is None else ApiKey(account, int(hashed[:16], 16) >> 1)

    def close(self) -> None:
        """Let another process have the folder."""
        self.journal.close()
        self.decisions.close()


def _difference(line: str, path: Path) -> str:
    """What a journal's first line has against being continued."""
    try:
        read([line], str(path))
    except JournalError as error:
        return str(error)
    return f"{path} was begun with another config"
