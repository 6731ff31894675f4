"""Layer normalisation, compiled by numba: torch's own order of operations, so that torch's own floats come out.

torch keeps a running mean and sum of squares (Welford) in each lane of a vector, joins chunks of 16 vectors, then the
lanes: ATen/native/cpu/moments_utils.h. Signs follow a norm, so a last bit that differs would sooner or later turn a
sign; norm_agrees() in programs.py compares both before a model relies on this.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numpy import ndarray

from bvit_analysis.runtime.kernels.jit import NORM_LANES, called, intrinsic
from bvit_analysis.runtime.kernels.tiles import F32, I64, splat

_FLOATS = ir.VectorType(F32, NORM_LANES)
_CHUNK = 16  # vectors
_DEPTH = 16  # levels of the cascade: rows of up to 16 * NORM_LANES * 2^15 channels


def _fma(builder: Any, a: Any, b: Any, c: Any) -> Any:
    kind = a.type
    name = f"llvm.fma.v{NORM_LANES}f32" if kind == _FLOATS else "llvm.fma.f32"
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(kind, [kind] * 3), name
    )
    return builder.call(function, [a, b, c])


def _at(builder: Any, address: Any, number: Any = None) -> Any:
    """Point to vector `number` at an address."""
    if number is not None:
        address = builder.add(address, builder.mul(number, ir.Constant(I64, 4 * NORM_LANES)))
    return builder.inttoptr(address, _FLOATS.as_pointer())


def _moments(rows: int) -> Any:
    """Make the function that writes mean and sum of squares of each lane over some vectors, of `rows` rows at once.

    Its arguments: address and stride of the rows, number of vectors, address of 1 / 1, 1 / 2, ... as floats, and of the
    results: row after row, first all means, then at `squares` all sums.
    """

    @intrinsic
    def moments(
        typing: Any, x: Any, stride: Any, vectors: Any, inverse: Any, means: Any, squares: Any
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            x, stride, vectors, inverse, *results = args
            zero = ir.Constant(_FLOATS, [0.0] * NORM_LANES)
            slots = [[cgutils.alloca_once(builder, _FLOATS) for _ in range(2)] for _ in range(rows)]
            for slot in sum(slots, []):
                builder.store(zero, slot)
            starts = [
                builder.add(x, builder.mul(stride, ir.Constant(I64, row))) for row in range(rows)
            ]
            with cgutils.for_range(builder, vectors) as loop:
                weight = builder.add(inverse, builder.mul(loop.index, ir.Constant(I64, 4)))
                weight = builder.load(builder.inttoptr(weight, F32.as_pointer()), align=4)
                weight = splat(builder, weight, NORM_LANES)
                for start, (mean, squares) in zip(starts, slots, strict=True):
                    value = builder.load(_at(builder, start, loop.index), align=4)
                    delta = builder.fsub(value, builder.load(mean))
                    new = _fma(builder, weight, delta, builder.load(mean))
                    builder.store(new, mean)
                    rest = builder.fsub(value, new)
                    builder.store(_fma(builder, delta, rest, builder.load(squares)), squares)
            for row, pair in enumerate(slots):
                number = ir.Constant(I64, row)
                for slot, result in zip(pair, results, strict=True):
                    builder.store(builder.load(slot), _at(builder, result, number), align=4)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 6), generate

    return moments


_TOGETHER = 4
"Rows whose moments are found at once: each waits for its own last step."
_moments_of_rows, _moments_of_row = _moments(_TOGETHER), _moments(1)


@intrinsic
def _join(typing: Any, c: Any, count: Any, m1_add: Any, m2_add: Any, m1: Any, m2: Any) -> Any:
    """Join moments at addresses, lane by lane: c is the added fraction of all, count what was there."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        c, count, m1_add, m2_add, m1, m2 = args
        mean, squares = (builder.load(_at(builder, at), align=4) for at in (m1, m2))
        delta = builder.fsub(builder.load(_at(builder, m1_add), align=4), mean)
        both = builder.fadd(squares, builder.load(_at(builder, m2_add), align=4))
        moved = builder.fmul(splat(builder, c, NORM_LANES), delta)
        weighted = builder.fmul(delta, splat(builder, count, NORM_LANES))
        builder.store(builder.fadd(mean, moved), _at(builder, m1), align=4)
        builder.store(_fma(builder, weighted, moved, both), _at(builder, m2), align=4)
        return context.get_dummy_value()

    return types.void(types.float32, types.float32, *[types.int64] * 4), generate


@intrinsic
def _fused(typing: Any, a: Any, b: Any, c: Any) -> Any:
    """Return a b + c, rounded once."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _fma(builder, *args)

    return types.float32(types.float32, types.float32, types.float32), generate


@intrinsic
def _scale_row(
    typing: Any, x: Any, vectors: Any, shift: Any, rstd: Any, weight: Any, bias: Any, out: Any
) -> Any:
    """Write (x + shift) * rstd * weight + bias, the last two rounded once."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x, vectors, shift, rstd, weight, bias, out = args
        shifts, rstds = splat(builder, shift, NORM_LANES), splat(builder, rstd, NORM_LANES)
        with cgutils.for_range(builder, vectors) as loop:
            values = [
                builder.load(_at(builder, start, loop.index), align=4)
                for start in (x, weight, bias)
            ]
            y = builder.fmul(builder.fadd(values[0], shifts), rstds)
            y = _fma(builder, y, values[1], values[2])
            builder.store(y, _at(builder, out, loop.index), align=4)
        return context.get_dummy_value()

    return types.void(
        types.int64, types.int64, types.float32, types.float32, *[types.int64] * 3
    ), generate


@called
def norm_rows(
    x: ndarray, weight: ndarray, bias: ndarray, eps: float, out: ndarray, first: int, last: int
) -> int:
    """Normalise rows first..last of x, (M, C) with C a multiple of NORM_LANES, into out; eps is a float32."""
    channels = x.shape[1]
    vectors = channels // NORM_LANES
    chunks = (vectors + _CHUNK - 1) // _CHUNK
    depth = 0
    while (1 << depth) < chunks:
        depth += 1
    inverse, fractions = np.empty(_CHUNK, np.float32), np.empty(NORM_LANES, np.float32)
    for j in range(_CHUNK):
        inverse[j] = np.float32(1) / np.float32(j + 1)
    for lane in range(NORM_LANES):
        fractions[lane] = np.float32(vectors) / np.float32((lane + 1) * vectors)
    found = np.empty((2, _TOGETHER, NORM_LANES), np.float32)  # moments of a chunk of each row
    means = np.empty((_TOGETHER, _DEPTH, NORM_LANES), np.float32)
    squares = np.empty((_TOGETHER, _DEPTH, NORM_LANES), np.float32)
    counts = np.empty((_TOGETHER, _DEPTH), np.int64)
    size = 4 * NORM_LANES
    at_means, at_squares = found.ctypes.data, found.ctypes.data + size * _TOGETHER
    row = first
    while row < last:
        rows = _TOGETHER if last - row >= _TOGETHER else 1
        at = x.ctypes.data + 4 * channels * row
        for i in range(rows):
            for level in range(max(1, depth)):
                _clear(means[i], squares[i], counts[i], level)
        for chunk in range(chunks):
            length = min(_CHUNK, vectors - chunk * _CHUNK)
            start, at_inverse = at + chunk * _CHUNK * size, inverse.ctypes.data
            if rows == _TOGETHER:
                _moments_of_rows(start, 4 * channels, length, at_inverse, at_means, at_squares)
            else:
                _moments_of_row(start, 0, length, at_inverse, at_means, at_squares)
            for i in range(rows):
                _add_chunk(chunk, length, depth, at_means + size * i, at_squares + size * i,
                           means[i], squares[i], counts[i])  # fmt: skip
        for i in range(rows):
            for level in range(1, depth):
                _join_levels(counts[i], means[i], squares[i], level, 0)
            mean, square = np.float32(0), np.float32(0)
            for lane in range(NORM_LANES):
                delta = means[i, 0, lane] - mean
                mean = _fused(fractions[lane], delta, mean)
                scaled = delta * delta * fractions[lane]
                square += _fused(scaled, np.float32(lane * vectors), squares[i, 0, lane])
            rstd = np.float32(1) / np.sqrt(square / np.float32(channels) + eps)
            to = out.ctypes.data + 4 * channels * (row + i)
            at_weight, at_bias = weight.ctypes.data, bias.ctypes.data
            _scale_row(at + 4 * channels * i, vectors, -mean, rstd, at_weight, at_bias, to)
        row += rows
    return inverse.size + fractions.size + found.size  # alive until here


@called
def _add_chunk(
    chunk: int, length: int, depth: int, at_mean: int, at_square: int, means: ndarray,
    squares: ndarray, counts: ndarray,
) -> None:  # fmt: skip
    """Join a chunk's moments to those of a row, in the pairs of a cascade."""
    total = counts[0] + length
    c = np.float32(length) / np.float32(total)
    _join(c, np.float32(counts[0]), at_mean, at_square, means.ctypes.data, squares.ctypes.data)
    counts[0] = total
    mask, level = chunk + 1, 1
    while level < depth and mask & 1 == 0:
        _join_levels(counts, means, squares, level - 1, level)
        _clear(means, squares, counts, level - 1)
        mask >>= 1
        level += 1


@called
def _clear(means: ndarray, squares: ndarray, counts: ndarray, level: int) -> None:
    for lane in range(NORM_LANES):
        means[level, lane] = np.float32(0)
        squares[level, lane] = np.float32(0)
    counts[level] = 0


@called
def _join_levels(counts: ndarray, means: ndarray, squares: ndarray, one: int, other: int) -> None:
    """Join the moments of level `one` to those of level `other`."""
    total = counts[one] + counts[other]
    c = np.float32(0)
    if total > 0:
        c = np.float32(counts[one]) / np.float32(total)
    size = 4 * NORM_LANES
    at_means, at_squares = means.ctypes.data, squares.ctypes.data
    _join(
        c, np.float32(counts[other]), at_means + size * one, at_squares + size * one,
        at_means + size * other, at_squares + size * other,
    )  # fmt: skip
    counts[other] = total
