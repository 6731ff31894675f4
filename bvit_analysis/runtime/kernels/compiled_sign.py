"""The kernel that shifts, takes signs and packs, compiled by numba: comparisons of 64 floats give a word of bits."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numpy import ndarray

from bvit_analysis.runtime.kernels.jit import called, intrinsic


def _signs(lanes: int) -> Any:
    """Make the function of two addresses of floats that returns the bits [x + add >= 0] of `lanes` elements."""

    @intrinsic
    def signs(typing: Any, x: Any, add: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            floats = ir.VectorType(ir.FloatType(), lanes)
            left, right = (
                builder.load(builder.inttoptr(address, floats.as_pointer()), align=4)
                for address in args
            )
            zero = ir.Constant(floats, [0.0] * lanes)
            bits = builder.fcmp_ordered(">=", builder.fadd(left, right), zero)
            bits = builder.bitcast(bits, ir.IntType(lanes))
            return bits if lanes == 64 else builder.zext(bits, ir.IntType(64))

        return types.uint64(types.int64, types.int64), generate

    return signs


_signs_64, _signs_8, _signs_1 = _signs(64), _signs(8), _signs(1)


@called
def sign_pack(
    x: ndarray, add: ndarray, rows_per_image: int, heads: int, each: int, out: ndarray, first: int,
    last: int,
) -> None:  # fmt: skip
    """Pack rows first..last of [x + add >= 0], (M, I), each row of add for some rows of x, into (M, h W)."""
    words = (each + 63) // 64
    for row in range(first, last):
        of_x = x.ctypes.data + row * x.strides[0]
        of_add = add.ctypes.data + row // rows_per_image * add.strides[0]
        for head in range(heads):
            for word in range(words):
                start = head * each + 64 * word
                length = min(64, each - 64 * word)
                if length == 64:
                    bits = _signs_64(of_x + 4 * start, of_add + 4 * start)
                else:
                    bits = np.uint64(0)
                    eights = length - length % 8
                    for j in range(0, eights, 8):
                        at = 4 * (start + j)
                        bits |= _signs_8(of_x + at, of_add + at) << np.uint64(j)
                    for j in range(eights, length):
                        at = 4 * (start + j)
                        bits |= _signs_1(of_x + at, of_add + at) << np.uint64(j)
                out[row, head * words + word] = bits
