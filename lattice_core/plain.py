"""Plain data as bytes: arrays, numbers, tuples, and the classes that are made of nothing else.

In bytes it is a compressed pickle of which only those classes are read. Trust it as you trust code, nevertheless: compiled
functions follow the row numbers in its tables without a look at where they lead.
"""

import io
import pickle
import zlib
from functools import cache
from hashlib import sha256
from importlib import resources
from pathlib import Path
from typing import Any

_CLASSES = {
    "lattice_core.chain.bridge": {"Saved"},
    "lattice_core.chain.history": {"Entry", "History"},
    "lattice_core.chain.port": {"Block", "Log", "Receipt", "Transaction"},
    "lattice_core.chain.pyevm": {"Snapshot"},
    "lattice_core.chain.revm": {"Funding"},
    "lattice_core.directory": {"Directory"},
    "lattice_core.events": {"Arrive", "Receipt"},
    "lattice_core.records": {"Operation", "_Epoch", "_Observed"},
    "lattice_core.request_log": {"RequestLog"},
    "lattice_core.service": {"Service"},
    "lattice_core.settlement": {"Settlement"},
    "numpy": {"dtype", "ndarray"},
    "numpy._core.multiarray": {"_reconstruct", "scalar"},
    "numpy._core.numeric": {"_frombuffer"},
}
"""What plain data consists of, and numpy's own functions, by module."""


class PlainError(ValueError):
    """Bytes that hold something else than plain data, or are damaged; one line."""


def dump(data: Any) -> bytes:
    """Plain data as bytes, for `load`."""
    return zlib.compress(pickle.dumps(data, protocol=5), 1)


def load(blob: bytes) -> Any:
    """The inverse of `dump`. Raises PlainError."""
    try:
        return _Unpickler(io.BytesIO(zlib.decompress(blob))).load()
    except (zlib.error, pickle.UnpicklingError, EOFError) as error:
        raise PlainError(f"is damaged: {error}") from error


@cache
def sources_hash(*packages: str) -> str:
    """SHA-256 over the sources of packages, which say what their tables' columns mean."""
    digest = sha256()
    for package in packages:
        root = Path(str(resources.files(package)))
        for file in sorted(root.rglob("*.py")):
            digest.update(file.relative_to(root).as_posix().encode() + b"\x00" + sha256(file.read_bytes()).digest())
    return digest.hexdigest()


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name not in _CLASSES.get(module, ()):
            raise PlainError(f"must hold plain data, and holds {module}.{name}")
        return super().find_class(module, name)
