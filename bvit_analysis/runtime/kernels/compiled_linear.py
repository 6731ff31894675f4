"""The linear kernel, compiled by numba: a product of packed rows and its finish, tile by tile of the outputs."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numpy import ndarray

from bvit_analysis.runtime.kernels.jit import LANES, called, intrinsic
from bvit_analysis.runtime.kernels.tiles import (
    COLUMNS,
    F32,
    I64,
    ROWS,
    layer_row,
    layer_tile,
    pointer_to,
    splat,
)

_PANEL = 64  # rows that one block of weights serves before the next is fetched


@intrinsic
def _mean(typing: Any, x: Any, stride: Any, parts: Any, out: Any) -> Any:
    """Write the mean of `parts` runs of COLUMNS floats, `stride` apart, added one by one from zero."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x, stride, parts, out = args
        floats = ir.VectorType(F32, 2 * LANES)
        divisor = splat(builder, builder.sitofp(parts, F32), 2 * LANES)
        for half in range(2):
            column = ir.Constant(I64, half * 2 * LANES * 4)
            total = cgutils.alloca_once(builder, floats)
            builder.store(ir.Constant(floats, [0.0] * (2 * LANES)), total)
            with cgutils.for_range(builder, parts) as loop:
                offset = builder.add(column, builder.mul(loop.index, stride))
                part = builder.load(pointer_to(builder, x, offset, floats), align=4)
                builder.store(builder.fadd(builder.load(total), part), total)
            mean = builder.fdiv(builder.load(total), divisor)
            builder.store(mean, pointer_to(builder, out, column, floats), align=4)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), generate


@called
def linear(
    a: ndarray, weight: ndarray, n_in: int, scale: ndarray, bias: ndarray, slope: ndarray,
    zeta: ndarray, x: ndarray, parts: int, residual: ndarray, out: ndarray, first: int, last: int,
    left: int, right: int,
) -> int:  # fmt: skip
    """Fill rows first..last and columns left..right (left a multiple of COLUMNS) of out.

    scale, bias, slope and zeta are padded to whole tiles; x is the shortcut, (M, S), and parts the S / O of a mean,
    1 for x itself or repeated, 0 for none; residual is (M, O), which may be out itself, or (0, O) for none.
    """
    words, outputs = weight.shape
    inputs = x.shape[1]
    whole = outputs // COLUMNS * COLUMNS
    # two allocations for all: a small layer takes a microsecond
    integers = np.empty((words + 1, COLUMNS), np.uint64)
    integers[words, 0] = n_in
    if whole < outputs:  # the weights of the last, partly filled tile
        integers[:words] = np.uint64(0)
        for word in range(words):
            for column in range(whole, outputs):
                integers[word, column - whole] = weight[word, column]
    # rows of a tile: the shortcut, what is added last, the result; and a row of nothing
    floats = np.empty((3 * ROWS + 1, COLUMNS), np.float32)
    floats[:ROWS] = np.float32(-0.0)  # adding -0.0 changes no float
    floats[3 * ROWS] = np.float32(-0.0)
    row_bytes = 4 * COLUMNS
    at_a, at_x, at_out = a.ctypes.data, x.ctypes.data, out.ctypes.data
    at_tail, at_base = integers.ctypes.data, integers.ctypes.data + 8 * COLUMNS * words
    at_short, at_rest = floats.ctypes.data, floats.ctypes.data + row_bytes * ROWS
    at_spare, at_nothing = at_rest + row_bytes * ROWS, at_rest + 2 * row_bytes * ROWS
    at_residual = residual.ctypes.data
    at_scale, at_bias = scale.ctypes.data, bias.ctypes.data
    at_slope, at_zeta = slope.ctypes.data, zeta.ctypes.data
    direct = parts == 1 and inputs % COLUMNS == 0
    for panel in range(first, last, _PANEL):
        end = min(last, panel + _PANEL)
        for column in range(left, right, COLUMNS):
            width = min(COLUMNS, right - column)
            full = width == COLUMNS
            w, w_stride = weight.ctypes.data + 8 * column, 8 * outputs
            if not full:
                w, w_stride = at_tail, 8 * COLUMNS
            c = 4 * column
            row = panel
            while row < end:
                rows = ROWS if end - row >= ROWS else 1
                s, s_stride = at_short, 4 * COLUMNS
                if direct:
                    s, s_stride = at_x + 4 * (row * inputs + column % inputs), 4 * inputs
                elif parts > 0:
                    _gather(x, parts, outputs, row, rows, column, width, floats)
                to, to_stride = at_spare, 4 * COLUMNS
                r, r_stride = at_nothing, 0
                if full:
                    to, to_stride = at_out + 4 * (row * outputs + column), 4 * outputs
                    if len(residual) > 0:
                        r, r_stride = at_residual + 4 * (row * outputs + column), 4 * outputs
                elif len(residual) > 0:
                    r, r_stride = at_rest, 4 * COLUMNS
                    for i in range(rows):
                        for j in range(width):
                            floats[ROWS + i, j] = residual[row + i, column + j]
                at = at_a + 8 * words * row
                one = (at, 8 * words, w, w_stride, words, at_base, 0)
                two = (at_scale + c, at_bias + c, at_slope + c, at_zeta + c)
                if rows == ROWS:
                    layer_tile(*one, *two, s, s_stride, r, r_stride, to, to_stride)
                else:
                    layer_row(*one, *two, s, s_stride, r, r_stride, to, to_stride)
                if not full:
                    for i in range(rows):
                        for j in range(width):
                            out[row + i, column + j] = floats[2 * ROWS + i, j]
                row += rows
    # the addresses above keep nothing alive by themselves
    return integers.size + floats.size


@called
def _gather(
    x: ndarray, parts: int, outputs: int, row: int, rows: int, column: int, width: int,
    short: ndarray,
) -> None:  # fmt: skip
    """Put the shortcut of a tile into `short`: x repeated, or the mean of its parts, added one by one."""
    inputs = x.shape[1]
    for i in range(rows):
        if parts == 1:
            for j in range(width):
                short[i, j] = x[row + i, (column + j) % inputs]
        elif width == COLUMNS:
            start = x.ctypes.data + 4 * ((row + i) * inputs + column)
            _mean(start, 4 * outputs, parts, short.ctypes.data + 4 * COLUMNS * i)
        else:
            for j in range(width):
                short[i, j] = np.float32(0)
            for part in range(parts):
                for j in range(width):
                    short[i, j] += x[row + i, part * outputs + column + j]
            for j in range(width):
                short[i, j] /= np.float32(parts)
