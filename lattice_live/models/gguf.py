"""Read a GGUF file that may be damaged or hostile: every count and offset is checked against the file before it is followed.

The format (version 2 and 3, little-endian): "GGUF", version u32, number of tensors u64, number of keys u64; then each key as
string, type u32, value; then each tensor as name, number of dimensions u32, dimensions u64 (fastest first), type u32, offset
u64; then, aligned, the tensors' data. A string is its length u64 and UTF-8. An array is its elements' type u32, their number
u64 and the elements. https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import math
import mmap
import struct
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES
from gguf import GGMLQuantizationType as Kind
from numpy.typing import NDArray

from lattice_live.models import ModelError
from lattice_live.models.quantise import READABLE, Tensor

MAX_DIMENSIONS = 4
DEFAULT_ALIGNMENT = 32

_STRING, _ARRAY = 8, 9
_SCALARS = {0: "u1", 1: "i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?", 10: "<u8", 11: "<i8", 12: "<f8"}

type Value = bool | int | float | str | list[str] | NDArray


class Gguf:
    """The keys and tensors of the GGUF file at `path`; its weights stay on disk until they are read. Raises ModelError."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            with open(path, "rb") as file:
                self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:  # ValueError: an empty file cannot be mapped
            raise ModelError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
        self._at = 0
        self._doing = "magic"
        self.keys: dict[str, Value] = {}
        self.tensors: dict[str, Tensor] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        """Of each tensor, slowest dimension first: [outputs, inputs]."""
        self._read()

    def fail(self, said: str) -> ModelError:
        """An error about this file."""
        return ModelError(f"{self.path}: {said}")

    def integer(self, key: str, default: int | None = None) -> int:
        """The value of a key that holds a whole number. Raises ModelError; without a default if it is missing too."""
        return self._value(key, int, "a whole number", default)

    def number(self, key: str, default: float | None = None) -> float:
        """The value of a key that holds a finite number. Raises ModelError; without a default if it is missing too."""
        value = self._value(key, (int, float), "a number", default)
        if not math.isfinite(value):
            raise self.fail(f"{key}: must be finite, not {value}")
        return float(value)

    def string(self, key: str, default: str | None = None) -> str:
        """The value of a key that holds text. Raises ModelError; without a default if it is missing too."""
        return self._value(key, str, "a string", default)

    def boolean(self, key: str, default: bool) -> bool:
        """The value of a key that holds true or false. Raises ModelError."""
        return self._value(key, bool, "true or false", default)

    def strings(self, key: str) -> list[str]:
        """The value of a key that holds an array of strings. Raises ModelError."""
        return self._value(key, list, "an array of strings", None)

    def array(self, key: str) -> NDArray:
        """The value of a key that holds an array of numbers. Raises ModelError."""
        return self._value(key, np.ndarray, "an array of numbers", None)

    def _value(self, key: str, kind: type | tuple[type, ...], allowed: str, default: Any) -> Any:
        value = self.keys.get(key, default)
        if value is None:
            raise self.fail(f"{key}: is missing; must be {allowed}")
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise self.fail(f"{key}: must be {allowed}, not {_short(value)}")
        return value

    # Parsing

    def _read(self) -> None:
        magic = bytes(self._take(4))
        if magic != b"GGUF":
            raise self.fail(f"magic: must be b'GGUF', not {magic!r}")
        self._doing = "version"
        version = self._unpack("<I")
        if version not in (2, 3):
            raise self.fail(f"version: must be 2 or 3, little-endian, not {version}")
        self._doing = "counts"
        tensors, keys = self._unpack("<Q"), self._unpack("<Q")
        for number in range(keys):
            self._doing = f"key {number + 1} of {keys}"
            key = self._string()
            if key in self.keys:
                raise self.fail(f"{_short(key)}: is given twice; must be given once")
            self._doing = f"value of {_short(key)}"
            self.keys[key] = self._content(self._unpack("<I"))
        infos = [self._info(number, tensors) for number in range(tensors)]
        alignment = self.integer("general.alignment", DEFAULT_ALIGNMENT)
        if alignment < 1 or alignment & (alignment - 1) or alignment > 1 << 20:
            raise self.fail(f"general.alignment: must be a power of two up to {1 << 20}, not {alignment}")
        start = -(-self._at // alignment) * alignment
        for name, shape, kind, offset in infos:
            self._place(name, shape, kind, start, offset, alignment)

    def _info(self, number: int, tensors: int) -> tuple[str, tuple[int, ...], int, int]:
        self._doing = f"tensor {number + 1} of {tensors}"
        name = self._string()
        self._doing = f"tensor {_short(name)}"
        dimensions = self._unpack("<I")
        if not 1 <= dimensions <= MAX_DIMENSIONS:
            raise self.fail(f"tensor {_short(name)}: must have 1 to {MAX_DIMENSIONS} dimensions, not {dimensions}")
        shape = tuple(self._unpack("<Q") for _ in range(dimensions))[::-1]
        return name, shape, self._unpack("<I"), self._unpack("<Q")

    def _place(self, name: str, shape: tuple[int, ...], number: int, start: int, offset: int, alignment: int) -> None:
        """Find the data of a tensor in the file."""
        at = f"tensor {_short(name)}"
        if name in self.tensors:
            raise self.fail(f"{at}: is given twice; must be given once")
        kind = READABLE.get(number)
        if kind is None:
            raise self.fail(f"{at}: type: must be one of {', '.join(k.name for k in READABLE.values())}, not {_kind(number)}")
        block, block_bytes = GGML_QUANT_SIZES[kind]
        if min(shape) < 1 or shape[-1] % block:
            raise self.fail(
                f"{at}: shape: must be positive, rows in multiples of {block} as {kind.name} has, not {list(shape)}"
            )
        if offset % alignment:
            raise self.fail(f"{at}: offset: must be a multiple of {alignment}, not {offset}")
        size = math.prod(shape) // block * block_bytes
        if start + offset + size > len(self._bytes):
            raise self.fail(f"{at}: {size} bytes at offset {offset}: end after the file, which has {len(self._bytes)} bytes")
        data = np.frombuffer(self._bytes, np.uint8, size, start + offset)
        self.tensors[name] = Tensor(kind, data.reshape(*shape[:-1], shape[-1] // block * block_bytes))
        self.shapes[name] = shape

    def _content(self, kind: int) -> Value:
        if kind == _STRING:
            return self._string()
        if kind in _SCALARS:
            return self._numbers(kind, 1)[0].item()
        if kind != _ARRAY:
            raise self.fail(f"{self._doing}: type: must be from 0 to 12, not {kind}")
        kind, count = self._unpack("<I"), self._unpack("<Q")
        if kind == _STRING:
            return [self._string() for _ in range(count)]
        if kind not in _SCALARS:
            raise self.fail(f"{self._doing}: type of elements: must be a number or a string, not {kind}")
        return self._numbers(kind, count)

    def _numbers(self, kind: int, count: int) -> NDArray:
        width = np.dtype(_SCALARS[kind]).itemsize
        return np.frombuffer(self._take(count * width), _SCALARS[kind])

    def _string(self) -> str:
        content = bytes(self._take(self._unpack("<Q")))
        try:
            return content.decode()
        except UnicodeDecodeError:
            raise self.fail(f"{self._doing}: must be UTF-8, not {_short(content)}") from None

    def _unpack(self, format: str) -> int:
        (value,) = struct.unpack(format, self._take(struct.calcsize(format)))
        return value

    def _take(self, size: int) -> memoryview:
        if size > len(self._bytes) - self._at:
            raise self.fail(
                f"{self._doing}: {size} bytes at {self._at}: end after the file, which has {len(self._bytes)} bytes"
            )
        self._at += size
        return memoryview(self._bytes)[self._at - size : self._at]


def _kind(number: int) -> str:
    return Kind(number).name if number in list(Kind) else str(number)


def _short(value: object) -> str:
    """A value from a file that may hold anything, fit for one line."""
    text = value if isinstance(value, str) and value.isprintable() and value else repr(value)
    text = " ".join(text.split())
    return text if len(text) <= 60 else f"{text[:59]}…"
