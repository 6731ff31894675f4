"""The most binary multiply-adds that one core could do: XOR, popcount and add on registers alone."""

from __future__ import annotations

import time
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from bvit_analysis.runtime.kernels.jit import LANES, compiled, intrinsic
from bvit_analysis.runtime.kernels.tiles import I32, I64, popcount, splat

# enough independent sums to hide the latency of a step, few enough for the registers
_CHAINS = 3 * LANES
_STEPS = 20_000


@intrinsic
def _spin(typing: Any, steps: Any, seed: Any) -> Any:
    """Run `steps` rounds of sum += popcount(sum ^ seed) on every chain; nothing can be left out or hoisted."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector = ir.VectorType(I64, LANES)
        seed = splat(builder, args[1], LANES)
        sums = [cgutils.alloca_once(builder, vector) for _ in range(_CHAINS)]
        for chain, slot in enumerate(sums):
            builder.store(ir.Constant(vector, [chain] * LANES), slot)
        with cgutils.for_range(builder, args[0]):
            for slot in sums:
                value = builder.load(slot)
                bits = popcount(builder, builder.xor(value, seed))
                builder.store(builder.add(value, bits), slot)
        total = builder.load(sums[0])
        for slot in sums[1:]:
            total = builder.xor(total, builder.load(slot))
        return builder.extract_element(total, ir.Constant(I32, 0))

    return types.int64(types.int64, types.int64), generate


@compiled
def _run(steps: int, seed: int) -> int:
    return _spin(steps, seed)


def popcount_ceiling(repeats: int = 50) -> float:
    """Return the GMAC/s of one core for XOR, popcount and add on registers, the best of `repeats` of about 0.3 ms.

    A multiply-add is one bit against one bit. Whatever reads memory, or finishes a layer, stays below.
    """
    _run(1, 1)  # compiles
    best = float("inf")
    for repeat in range(repeats):
        start = time.perf_counter()
        _run(_STEPS, repeat)
        best = min(best, time.perf_counter() - start)
    return _STEPS * _CHAINS * LANES * 64 / best / 1e9
