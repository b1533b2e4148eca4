"""`lattice backup` and `lattice restore`: a live network's folder as one file, also while the network runs."""

import argparse
import os
import tarfile
import tempfile
import zlib
from contextlib import closing
from pathlib import Path
from typing import Any

from lattice_core.config import ConfigError

KEYS = "keys"
BOOK = "contracts.json"


def add(subparsers: Any) -> None:
    backup = subparsers.add_parser("backup", help="write a live network's folder to one file, also while the network runs")
    backup.add_argument("folder", metavar="DIR", help="what `lattice up --out` was given")
    backup.add_argument("file", metavar="FILE", help="to be written, readable by its owner only: it holds the nodes' keys")
    backup.set_defaults(command=_backup)
    restore = subparsers.add_parser("restore", help="make a live network's folder of what `lattice backup` has written")
    restore.add_argument("file", metavar="FILE")
    restore.add_argument("folder", metavar="DIR", help="to be made; `lattice up --out DIR` goes on with it")
    restore.set_defaults(command=_restore)


def _backup(arguments: argparse.Namespace) -> int:
    from lattice_live.sqlite import FILE, Reader
    from lattice_live.storage import StorageError

    folder, file = Path(arguments.folder), Path(arguments.file)
    if file.exists():
        raise ConfigError(f"{file}: exists already; choose another name")
    draft = file.with_name(f".{file.name}.part")
    try:
        with tempfile.TemporaryDirectory(dir=file.parent) as place:
            copy = Path(place) / FILE
            with closing(Reader(folder / FILE)) as reader:
                reader.backup(copy)
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as stream:
                with tarfile.open(fileobj=stream, mode="w:gz", compresslevel=1) as archive:
                    archive.add(copy, FILE)
                    for name in (KEYS, BOOK):
                        if (folder / name).exists():
                            archive.add(folder / name, name)
                stream.flush()
                os.fsync(stream.fileno())
        draft.replace(file)
    except StorageError as error:
        raise ConfigError(str(error)) from error
    except OSError as error:
        raise ConfigError(f"{file}: cannot be written: {error.strerror}") from error
    finally:
        draft.unlink(missing_ok=True)
    return 0


def _restore(arguments: argparse.Namespace) -> int:
    from lattice_live.sqlite import FILE, Reader
    from lattice_live.storage import StorageError

    file, folder = Path(arguments.file), Path(arguments.folder)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ConfigError(f"{folder}: must be an empty folder, or none yet")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as place, tarfile.open(file, "r:gz") as archive:
            whole = Path(place) / folder.name
            archive.extractall(whole, filter="data")
            Reader(whole / FILE).close()
            if (whole / KEYS).exists():
                (whole / KEYS).chmod(0o700)
            whole.replace(folder)
    except (tarfile.TarError, EOFError, zlib.error, StorageError) as error:
        raise ConfigError(f"{file}: must be what `lattice backup` has written: {error}") from error
    except OSError as error:
        raise ConfigError(f"{error.filename or folder}: {error.strerror}") from error
    return 0
