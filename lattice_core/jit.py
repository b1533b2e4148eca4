"""The one way this package compiles: `@jit` for rules, `@policy` for a user's score.

Rules are plain scalar Python that numba compiles without `fastmath`, so that the compiled result equals Python's to the bit
(`math.exp`, `log` and `sqrt` only; no literal-exponent power; no numpy ufunc).
"""

from collections.abc import Callable
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

import numba
import numpy as np
from llvmlite import ir
from numba.core.ccallback import CFunc
from numba.core.registry import CPUDispatcher
from numba.core.sigutils import normalize_signature
from numba.extending import intrinsic


def jit[F: Callable[..., Any]](function: F) -> F:
    """Compile a scalar rule; `.py_func` is the Python original.

    A function with a leading underscore is called by compiled code only. Any other is compiled for Python, and cached, when
    Python first calls it.
    """
    return _compiled(function)


def inlined[F: Callable[..., Any]](function: F) -> F:
    """`jit`, and always compiled into its callers: for what happens to each candidate, or is called in one place only."""
    return _compiled(function, forceinline=True)


def _compiled[F: Callable[..., Any]](function: F, forceinline: bool = False) -> F:
    """What Python calls of a rule. Compiled callers get a version of their own, without what Python needs of it, which would
    be half as much again to compile, and one whatever the width of their integers, where numba would compile one for each
    width, and for each constant.
    """
    options: dict[str, Any] = {"forceinline": forceinline, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    inner: Any = numba.njit(error_model="numpy", **options)(function)
    private = function.__name__.startswith("_")
    compiled: Any = inner if private else cached(numba.njit(error_model="numpy")(function))
    template = inner.get_call_template
    compiled.get_call_template = lambda args, kws: template([_wide(kind) for kind in args], kws)
    if private:
        compiled.__class__ = _Inner
    else:
        compiled.get_overload = inner.get_overload
    return cast(F, compiled)


class _Inner(CPUDispatcher):
    """A function that Python cannot call, and must not try to."""

    def __call__(self, *args: Any, **kws: Any) -> Any:
        raise TypeError(f"{self.py_func.__qualname__} is called by compiled code only; give it a name without an underscore")


def _wide(kind: Any) -> Any:
    """int64 for any signed integer type, and no type of a single value."""
    kind = numba.types.unliteral(kind)  # type: ignore[no-untyped-call]
    return numba.int64 if isinstance(kind, numba.types.Integer) and kind.signed else kind  # type: ignore[attr-defined]


def cached(compiled: Any) -> Any:
    """Cache a numba function until any source of this package changes.

    Numba sees a change in a function's own file only, but its code holds that of the rules it calls and the tables' layout.
    """
    compiled.enable_caching()
    index = compiled._cache._cache_file
    index._source_stamp = (index._source_stamp, _sources())
    return compiled


def callback(signature: Any, function: Callable[..., Any]) -> Any:
    """Compile `function` to a C callback; keep the result alive while its `address` is in use."""
    plain = normalize_signature(signature)  # type: ignore[no-untyped-call]
    compiled = cached(CFunc(function, plain, locals={}, options={}))
    compiled.compile()
    return compiled


@cache
def _sources() -> str:
    """SHA-256 over the modules whose names or numbers go into compiled code: those that import this one, and the units."""
    digest = sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        source = file.read_bytes()
        if b"lattice_core.jit" in source or file.stem == "units":
            digest.update(source)
    return digest.hexdigest()


def _fixed(builder: Any, pointer: Any) -> Any:
    """A word of a directory: compiled code never moves a table, so that it is loaded once."""
    word = builder.load(pointer)
    word.set_metadata("invariant.load", builder.module.add_metadata([]))
    return word


def _fetch(builder: Any, pointer: Any) -> None:
    byte, flag = ir.IntType(8).as_pointer(), ir.IntType(32)
    hint = builder.module.declare_intrinsic("llvm.prefetch", [byte], ir.FunctionType(ir.VoidType(), [byte, flag, flag, flag]))
    to_write, to_keep, data = (ir.Constant(flag, value) for value in (1, 3, 1))
    builder.call(hint, [builder.bitcast(pointer, byte), to_write, to_keep, data])


def row_of(dtype: np.dtype[Any], table: int) -> Callable[..., Any]:
    """A compiled accessor `at(S, i)`: row `i` of the structured array that entry `table` of the directory at address `S` names.

    A directory holds (address, rows) of each table as int64. Passing one address costs nothing, where passing the arrays would
    cost each call 4 µs and each rule seconds of compilation. No bounds are checked, as with a compiled array.
    """
    record = numba.from_dtype(dtype)

    def row(context: Any, S: Any, i: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            word = ir.IntType(64)
            directory = builder.inttoptr(arguments[0], word.as_pointer())
            base = _fixed(builder, builder.gep(directory, [ir.Constant(word, 2 * table)]))
            index = context.cast(builder, arguments[1], signature.args[1], numba.int64)
            address = builder.add(base, builder.mul(index, ir.Constant(word, dtype.itemsize)))
            return builder.inttoptr(address, context.get_value_type(record))

        del context
        return record(numba.int64, i), generate

    return cast(Callable[..., Any], intrinsic(row))


def prefetch_of(dtype: np.dtype[Any], table: int, size: int = 0) -> Callable[..., Any]:
    """A compiled `fetch(S, i)`: row `i` of entry `table`, or its first `size` bytes, will be needed soon.

    It changes nothing but the time that takes.
    """

    def fetch(context: Any, S: Any, i: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            word = ir.IntType(64)
            directory = builder.inttoptr(arguments[0], word.as_pointer())
            base = _fixed(builder, builder.gep(directory, [ir.Constant(word, 2 * table)]))
            index = context.cast(builder, arguments[1], signature.args[1], numba.int64)
            address = builder.add(base, builder.mul(index, ir.Constant(word, dtype.itemsize)))
            for offset in range(0, size or dtype.itemsize, 64):
                _fetch(builder, builder.inttoptr(builder.add(address, ir.Constant(word, offset)), word.as_pointer()))
            return context.get_dummy_value()

        del context
        return numba.void(numba.int64, i), generate

    return cast(Callable[..., Any], intrinsic(fetch))


def _rows(context: Any, S: Any, table: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word = ir.IntType(64)
        directory = builder.inttoptr(arguments[0], word.as_pointer())
        entry = builder.add(builder.mul(arguments[1], ir.Constant(word, 2)), ir.Constant(word, 1))
        return _fixed(builder, builder.gep(directory, [entry]))

    del context
    return numba.int64(numba.int64, numba.int64), generate


def _word(builder: Any, arguments: Any) -> Any:
    """Pointer to int64 `i` of entry `table` of the directory at address `S`."""
    word = ir.IntType(64)
    directory = builder.inttoptr(arguments[0], word.as_pointer())
    base = _fixed(builder, builder.gep(directory, [builder.mul(arguments[1], ir.Constant(word, 2))]))
    return builder.gep(builder.inttoptr(base, word.as_pointer()), [arguments[2]])


def _load(context: Any, S: Any, table: Any, i: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(_word(builder, arguments))

    del context
    return numba.int64(numba.int64, numba.int64, numba.int64), generate


def _store(context: Any, S: Any, table: Any, i: Any, value: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.store(arguments[3], _word(builder, arguments))
        return context.get_dummy_value()

    del context
    return numba.void(numba.int64, numba.int64, numba.int64, numba.int64), generate


def _prefetch(context: Any, S: Any, table: Any, i: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _fetch(builder, _word(builder, arguments))
        return context.get_dummy_value()

    del context
    return numba.void(numba.int64, numba.int64, numba.int64), generate


prefetch = cast(Callable[[int, int, int], None], intrinsic(_prefetch))
"""int64 `i` of entry `table`, a table of nothing else, is needed soon."""

rows = cast(Callable[[int, int], int], intrinsic(_rows))
"""Number of rows of entry `table` of the directory at address `S`."""


def _call_score(context: Any, address: Any, offer: Any, request: Any, weights: Any, memory: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.DoubleType(), [pointer] * 4)
        function = builder.inttoptr(arguments[0], kind.as_pointer())
        return builder.call(function, [builder.bitcast(a, pointer) for a in arguments[1:]])

    del context
    return numba.float64(address, offer, request, weights, memory), generate


call_score = cast(Callable[[int, Any, Any, Any, Any], float], intrinsic(_call_score))
"""`float64 score(offer, request, weights, memory)` at an address: a call through a pointer, so a new policy recompiles
nothing.
"""

load = cast(Callable[[int, int, int], int], intrinsic(_load))
"""int64 `i` of entry `table`, a table of nothing else, of the directory at address `S`."""

store = cast(Callable[[int, int, int, int], None], intrinsic(_store))
"""Write int64 `i` of entry `table`, a table of nothing else, of the directory at address `S`."""
