"""Keys and values of every row, at addresses that never change: the graph reads them and writes to the same place."""

import mmap
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Cache:
    """Arrays T[rows, kv_heads, room, head_dim] in memory, two a layer.

    Rows are exchanged by `swap`. Raises MemoryError if they cannot be had. Memory is taken as tokens are written to it, in
    small pages: with those of 2 MiB, for which NumPy asks, a row's first chunk takes all that the row can ever hold, and the
    other rows wait while it is zeroed.
    """

    device = "cpu"

    def __init__(self, layers: int, shape: tuple[int, int, int, int], dtype: type[np.generic]) -> None:
        self._dtype = dtype
        self._row = shape[1:]
        names = [f"{layer}.{part}" for layer in range(layers) for part in ("key", "value")]
        size = int(np.prod(shape, dtype=object)) * np.dtype(dtype).itemsize
        try:
            memory = mmap.mmap(-1, len(names) * size, flags=mmap.MAP_PRIVATE)
        except (OSError, OverflowError) as error:
            raise MemoryError(str(error)) from None
        if hasattr(mmap, "MADV_NOHUGEPAGE"):
            with suppress(OSError):  # a kernel without large pages
                memory.madvise(mmap.MADV_NOHUGEPAGE)
        arrays = np.frombuffer(memory, dtype).reshape(len(names), *shape)
        self._arrays: dict[str, NDArray[Any]] = dict(zip(names, arrays, strict=True))

    def bind(self, binding: Any, row: int, rows: int) -> None:
        """Let a graph read and write `rows` rows from `row` on."""
        for name, address in self._addresses(row):
            shape = (rows, *self._row)
            binding.bind_input(f"past_key_values.{name}", self.device, 0, self._dtype, shape, address)
            binding.bind_output(f"present.{name}", self.device, 0, self._dtype, shape, address)

    def swap(self, row: int, other: int, row_tok: int, other_tok: int) -> None:
        """Exchange the first `row_tok` tokens of `row` and the first `other_tok` of `other`."""
        if row_tok > other_tok:  # what is less is set aside
            row, other, row_tok, other_tok = other, row, other_tok, row_tok
        for array in self._arrays.values():
            held = array[row, :, :row_tok].copy()
            array[row, :, :other_tok] = array[other, :, :other_tok]
            array[other, :, :row_tok] = held

    def _addresses(self, row: int) -> list[tuple[str, int]]:
        return [(name, array[row:].ctypes.data) for name, array in self._arrays.items()]


class CudaCache(Cache):
    """The same in the memory of a GPU, with one row more, over which two others are exchanged."""

    device = "cuda"

    def __init__(self, layers: int, shape: tuple[int, int, int, int], dtype: type[np.generic]) -> None:
        import onnxruntime

        rows, *row = shape
        self._dtype = dtype
        self._row = shape[1:]
        self._spare = rows
        self._row_bytes = int(np.prod(row)) * np.dtype(dtype).itemsize
        zeros = np.zeros((rows + 1, *row), dtype)  # an uninitialised NaN would stay one, however little attention it gets
        self._values = {
            f"{layer}.{part}": onnxruntime.OrtValue.ortvalue_from_numpy(zeros, self.device, 0)
            for layer in range(layers)
            for part in ("key", "value")
        }
        self._copier = _identity(dtype, self.device)

    def swap(self, row: int, other: int, row_tok: int, other_tok: int) -> None:
        for source, target, tokens in ((row, self._spare, row_tok), (other, row, other_tok), (self._spare, other, row_tok)):
            if tokens:
                self._copy(source, target)

    def _copy(self, source: int, target: int) -> None:
        """Whole rows: on the device, that takes less than asking for the part of each head apart."""
        for (_, read), (_, written) in zip(self._addresses(source), self._addresses(target), strict=True):
            binding = self._copier.io_binding()
            binding.bind_input("x", self.device, 0, self._dtype, self._row, read)
            binding.bind_output("y", self.device, 0, self._dtype, self._row, written)
            self._copier.run_with_iobinding(binding)

    def _addresses(self, row: int) -> list[tuple[str, int]]:
        return [(name, value.data_ptr() + row * self._row_bytes) for name, value in self._values.items()]


def _identity(dtype: type[np.generic], provider: str) -> Any:
    """A session whose output `y` is its input `x`, in other memory."""
    from onnx import helper

    from lattice_live.node import runtime

    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    x, y = (helper.make_tensor_value_info(name, kind, ["heads", "room", "width"]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "copy", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return runtime.session(model.SerializeToString(), provider, 1)
