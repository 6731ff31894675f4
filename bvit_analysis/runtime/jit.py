"""How kernels are compiled: width of vectors, options, and where machine code is kept.

numba notices a change in the file of a function, not in what that file imports: a file of kernels holds all that its
kernels are compiled from, and takes only this one's settings from elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import llvmlite.binding
import numba
import numba.extending
from numba import types

intrinsic: Callable[[Callable[..., Any]], Any] = numba.extending.intrinsic
"What turns a function that emits LLVM into one that kernels may call."


def _wide() -> bool:
    """Whether vectors of 512 bits are native to what numba compiles for."""
    if numba.config.CPU_FEATURES is not None:
        return "+avx512f" in numba.config.CPU_FEATURES
    if numba.config.CPU_NAME not in (None, "host", llvmlite.binding.get_host_cpu_name()):
        return False
    return bool(llvmlite.binding.get_host_cpu_features().get("avx512f", False))


LANES = 8 if _wide() else 4
"64-bit lanes of a vector."


def compiled(function: Callable[..., Any], signature: Any = None) -> Any:
    """Compile without the GIL, on first call or for a signature, and keep the machine code where that is possible."""
    options = {"nogil": True, "boundscheck": False, "error_model": "numpy"}
    try:
        return numba.njit(signature, cache=True, **options)(function)
    except RuntimeError as fault:
        if "no locator" not in str(fault):
            raise
        # neither the package's folder nor the user's cache can be written
        return numba.njit(signature, **options)(function)


def array(kind: Any, dimensions: int, *, layout: str = "C", written: bool = False) -> Any:
    """Return the type of an array, contiguous or of any layout ("A"); one that is not written may be read-only."""
    return types.Array(kind, dimensions, layout, readonly=not written)
