"""How kernels are compiled: width of vectors, options, and where machine code is cached.

numba notices a change in the file of a function, not in what that file imports; so what is cached between processes is
made by a function that closes over SOURCES, the digest of all files of kernels, which numba takes into account.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite.binding
import numba
import numba.extending
from numba import types

intrinsic: Callable[[Callable[..., Any]], Any] = numba.extending.intrinsic
"What turns a function that emits LLVM into one that kernels may call."

_OPTIONS = {"nogil": True, "boundscheck": False, "error_model": "numpy"}


def _wide() -> bool:
    """Whether vectors of 512 bits are native to what numba compiles for."""
    if numba.config.CPU_FEATURES is not None:
        return "+avx512f" in numba.config.CPU_FEATURES
    if numba.config.CPU_NAME not in (None, "host", llvmlite.binding.get_host_cpu_name()):
        return False
    return bool(llvmlite.binding.get_host_cpu_features().get("avx512f", False))


LANES = 8 if _wide() else 4
"64-bit lanes of a vector."
NORM_LANES = 8 if platform.machine().lower() in ("x86_64", "amd64") else 4
"Floats in a vector of torch's layer norm: that of AVX2 also where there is AVX-512."


def _digest() -> int:
    files = sorted(Path(__file__).parent.glob("*.py"))
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).digest()
    return int.from_bytes(digest[:7], "little") + 1


SOURCES = _digest()
"Digest of the files of this package, above 0."


def called(function: Callable[..., Any]) -> Any:
    """Compile a function for other kernels to call, not for Python; its machine code is inside of theirs."""
    return numba.njit(no_cpython_wrapper=True, no_cfunc_wrapper=True, **_OPTIONS)(function)


def compiled(function: Callable[..., Any], signature: Any = None) -> Any:
    """Compile without the GIL, on first call or for a signature, and cache the machine code where that is possible."""
    try:
        return numba.njit(signature, cache=True, **_OPTIONS)(function)
    except RuntimeError as fault:
        if "no locator" not in str(fault):
            raise
        # neither the package's folder nor the user's cache can be written
        return numba.njit(signature, **_OPTIONS)(function)


def array(kind: Any, dimensions: int) -> Any:
    """Return the type of a contiguous array that may be written."""
    return types.Array(kind, dimensions, "C")
