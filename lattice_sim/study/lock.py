"""A folder that one process at a time writes to. The system holds the lock, so that none outlives its process."""

import fcntl
import os
from pathlib import Path

from lattice_core.config import ConfigError

LOCK = "lock"
"""The file's name; it says whose it is."""


class Lock:
    """Of a folder, held until `release`."""

    def __init__(self, folder: Path) -> None:
        """Take the lock, and make the folder if it is missing. Raises ConfigError if it cannot be written or is taken."""
        self._path = folder / LOCK
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("a+")
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not self._stands():  # whoever had it has removed it in the meantime, or set the folder aside
                raise BlockingIOError
            self._file.truncate(0)
            self._file.write(str(os.getpid()))
            self._file.flush()
        except BlockingIOError:
            with self._file:
                self._file.seek(0)
                pid = self._file.read()
            raise ConfigError(
                f"{folder}: is being made by another process (PID {pid}); wait for its end, or choose another --out"
            ) from None
        except OSError as error:
            raise ConfigError(f"{folder}: cannot be written: {error.strerror}") from error

    def release(self) -> None:
        """Let another process have the folder. A second time does nothing."""
        if not self._file.closed:
            if self._stands():
                self._path.unlink()
            self._file.close()

    def _stands(self) -> bool:
        """Whether the file that is held lies where others look for it."""
        try:
            return os.path.samestat(os.fstat(self._file.fileno()), self._path.stat())
        except FileNotFoundError:
            return False
