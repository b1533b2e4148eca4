"""The one way this package compiles: `@jit` for rules, `@policy` for a user's score.

Rules are plain scalar Python that numba compiles without `fastmath`, so that the compiled result equals Python's to the bit
(`math.exp`, `log` and `sqrt` only; no literal-exponent power; no numpy ufunc).
"""

from collections.abc import Callable
from typing import Any, cast

import numba
from llvmlite import ir
from numba.extending import intrinsic


def jit[F: Callable[..., Any]](function: F) -> F:
    """Compile a scalar rule. The result is cached beside the source; `.py_func` is the Python original."""
    return cast(F, numba.njit(cache=True, error_model="numpy")(function))


def inline[F: Callable[..., Any]](function: F) -> F:
    """As `jit`, for one-liners that every rule calls."""
    return cast(F, numba.njit(cache=True, error_model="numpy", inline="always")(function))


@intrinsic  # type: ignore[untyped-decorator]
def call_score(context: Any, address: Any, offer: Any, request: Any, params: Any) -> Any:
    """`float64 score(offer, request, params)` at `address`: a call through a pointer, so a new policy recompiles nothing."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.DoubleType(), [pointer] * 3)
        function = builder.inttoptr(arguments[0], kind.as_pointer())
        return builder.call(function, [builder.bitcast(a, pointer) for a in arguments[1:]])

    del context
    return numba.float64(address, offer, request, params), generate

