"""Integers in memory that several threads read and change: what a program's threads agree by, without a lock."""

from __future__ import annotations

import os
import platform
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from bvit_analysis.runtime.kernels.jit import called, intrinsic
from bvit_analysis.runtime.kernels.tiles import I32, I64

_SPINS = 20_000  # about a millisecond; then the processor may be needed by whom we wait for
_MACHINE = platform.machine().lower()


def _change(operation: str) -> Any:
    """Make the function that changes an integer in memory as one step for all threads, and returns what it was."""

    @intrinsic
    def change(typing: Any, address: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer = builder.inttoptr(args[0], I64.as_pointer())
            return builder.atomic_rmw(operation, pointer, args[1], "acq_rel")

        return types.int64(types.int64, types.int64), generate

    return change


add_to, swap = _change("add"), _change("xchg")


@intrinsic
def swap_if(typing: Any, address: Any, expected: Any, value: Any) -> Any:
    """Replace an integer in memory if it is the one expected, as one step for all threads; return whether."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = builder.inttoptr(args[0], I64.as_pointer())
        result = builder.cmpxchg(pointer, args[1], args[2], "acq_rel", "acquire")
        return builder.extract_value(result, 1)

    return types.boolean(types.int64, types.int64, types.int64), generate


@intrinsic
def now(typing: Any, address: Any) -> Any:
    """Return an integer in memory as other threads left it, and what they wrote before."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load_atomic(builder.inttoptr(args[0], I64.as_pointer()), "acquire", 8)

    return types.int64(types.int64), generate


@intrinsic
def pause(typing: Any) -> Any:
    """Tell the processor that this thread waits."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        name, hint = None, []
        if _MACHINE in ("x86_64", "amd64"):
            name = "llvm.x86.sse2.pause"
        elif _MACHINE in ("aarch64", "arm64"):
            name, hint = "llvm.aarch64.hint", [ir.Constant(I32, 1)]  # yield
        if name is not None:
            kind = ir.FunctionType(ir.VoidType(), [value.type for value in hint])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, name), hint)
        return context.get_dummy_value()

    return types.void(), generate


if hasattr(os, "sched_yield"):
    _sched_yield = types.ExternalFunction("sched_yield", types.int32())
else:

    @called
    def _sched_yield() -> int:
        return 0


@called
def wait(address: int, wanted: int) -> None:
    """Return when an integer in memory is at least the one wanted."""
    spins = 0
    while now(address) < wanted:
        pause()
        spins += 1
        if spins > _SPINS:
            _sched_yield()
