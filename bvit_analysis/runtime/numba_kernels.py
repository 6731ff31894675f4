"""The linear and the attention kernel, compiled by numba: tiles of outputs that stay in vector registers.

A tile is emitted as LLVM vectors, because accumulators in an array would go through memory: `rows` x 4 vectors of
64-bit lanes, each lane the count of one output. LLVM turns ctpop into VPOPCNTDQ where the CPU has it, and into table
look-ups in registers where not. No flag allows it to fuse or reorder floats. Addresses and strides are in bytes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numpy import ndarray

from bvit_analysis.runtime.jit import LANES, called, intrinsic

_I32, _I64, _F32 = ir.IntType(32), ir.IntType(64), ir.FloatType()


COLUMNS = 4 * LANES
"Outputs of a tile: four vectors."
ROWS = 4 if LANES == 8 else 2
"Rows of a tile: as many as leave registers for the weights."
_PANEL = 64  # rows that one block of weights serves before the next is fetched


def _address(builder: Any, base: Any, offset: Any, pointee: Any) -> Any:
    return builder.inttoptr(builder.add(base, offset), pointee.as_pointer())


def popcount(builder: Any, vector: Any) -> Any:
    """Emit the number of set bits of each 64-bit lane."""
    suffix = f"v{vector.type.count}i64"
    signature = ir.FunctionType(vector.type, [vector.type])
    function = cgutils.get_or_insert_function(builder.module, signature, f"llvm.ctpop.{suffix}")
    return builder.call(function, [vector])


def splat(builder: Any, value: Any, lanes: int) -> Any:
    """Emit a vector with the value in each lane."""
    kind = ir.VectorType(value.type, lanes)
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(_I32, 0))
    zeros = ir.Constant(ir.VectorType(_I32, lanes), [0] * lanes)
    return builder.shuffle_vector(first, ir.Constant(kind, ir.Undefined), zeros)


def _pair(builder: Any, low: Any, high: Any) -> Any:
    mask = ir.Constant(ir.VectorType(_I32, 2 * LANES), list(range(2 * LANES)))
    return builder.shuffle_vector(low, high, mask)


def _counts(builder: Any, operation: str, rows: int, places: list[Any]) -> list[list[Any]]:
    """Emit the loop over words; return the counts as rows x 4 vectors of LANES x i64."""
    a, a_stride, w, w_stride, words = places
    vector = ir.VectorType(_I64, LANES)
    sums = [[cgutils.alloca_once(builder, vector) for _ in range(4)] for _ in range(rows)]
    for slot in sum(sums, []):
        builder.store(ir.Constant(vector, [0] * LANES), slot)
    with cgutils.for_range(builder, words) as loop:
        at = builder.mul(loop.index, w_stride)
        weights = []
        for part in range(4):
            offset = builder.add(at, ir.Constant(_I64, part * LANES * 8))
            weights.append(builder.load(_address(builder, w, offset, vector), align=8))
        along = builder.mul(loop.index, ir.Constant(_I64, 8))
        for row in range(rows):
            offset = builder.add(along, builder.mul(a_stride, ir.Constant(_I64, row)))
            word = builder.load(_address(builder, a, offset, _I64), align=8)
            word = splat(builder, word, LANES)
            for part in range(4):
                bits = getattr(builder, operation)(word, weights[part])
                slot = sums[row][part]
                builder.store(builder.add(builder.load(slot), popcount(builder, bits)), slot)
    return [[builder.load(slot) for slot in row] for row in sums]


def _tile(rows: int, operation: str, layer: bool) -> Any:
    """Make the tile: out = float(base - 2 count) * scale, and the rest of a linear layer where `layer`.

    Its arguments: address and stride of the packed rows, of the packed columns, the words; base (one i64 a row) and
    its stride; scale, bias, slope, zeta; shortcut, residual and out, each with its stride.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        base, base_stride, scale, bias, slope, zeta = args[5:11]
        short, short_stride, residual, residual_stride, out, out_stride = args[11:]
        counts = _counts(builder, operation, rows, args[:5])
        floats = ir.VectorType(_F32, 2 * LANES)
        zero = ir.Constant(floats, [0.0] * (2 * LANES))

        def vector(start: Any, offset: Any) -> Any:
            return builder.load(_address(builder, start, offset, floats), align=4)

        for half in range(2):
            column = ir.Constant(_I64, half * 2 * LANES * 4)
            scales = vector(scale, column)
            if layer:
                biases, slopes, zetas = (vector(start, column) for start in (bias, slope, zeta))
            for row in range(rows):
                number = ir.Constant(_I64, row)
                of_row = builder.mul(base_stride, number)
                start = builder.load(_address(builder, base, of_row, _I64), align=8)
                count = _pair(builder, counts[row][2 * half], counts[row][2 * half + 1])
                count = builder.trunc(count, ir.VectorType(_I32, 2 * LANES))
                start = splat(builder, builder.trunc(start, _I32), 2 * LANES)
                y = builder.sitofp(builder.sub(start, builder.add(count, count)), floats)
                y = builder.fmul(y, scales)
                if layer:
                    y = builder.fadd(y, biases)
                    of_row = builder.add(builder.mul(short_stride, number), column)
                    y = builder.fadd(y, vector(short, of_row))
                    above = builder.fcmp_ordered(">", y, zero)
                    y = builder.select(above, y, builder.fmul(slopes, y))
                    y = builder.fadd(y, zetas)
                    of_row = builder.add(builder.mul(residual_stride, number), column)
                    y = builder.fadd(vector(residual, of_row), y)
                of_row = builder.add(builder.mul(out_stride, number), column)
                builder.store(y, _address(builder, out, of_row, floats), align=4)
        return context.get_dummy_value()

    @intrinsic
    def tile(
        typing: Any, a: Any, an: Any, w: Any, wn: Any, words: Any, base: Any, bn: Any,
        scale: Any, bias: Any, slope: Any, zeta: Any, short: Any, sn: Any, residual: Any, rn: Any,
        out: Any, on: Any,
    ) -> Any:  # fmt: skip
        return types.void(*[types.int64] * 17), generate

    return tile


_layer_tile, _layer_row = _tile(ROWS, "xor", True), _tile(1, "xor", True)
_context_tile, _context_row = _tile(ROWS, "and_", False), _tile(1, "and_", False)


@intrinsic
def _popcnt(typing: Any, word: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ctpop(args[0])

    return types.uint64(types.uint64), generate


@intrinsic
def _mean(typing: Any, x: Any, stride: Any, parts: Any, out: Any) -> Any:
    """Write the mean of `parts` runs of COLUMNS floats, `stride` apart, added one by one from zero."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x, stride, parts, out = args
        floats = ir.VectorType(_F32, 2 * LANES)
        divisor = splat(builder, builder.sitofp(parts, _F32), 2 * LANES)
        for half in range(2):
            column = ir.Constant(_I64, half * 2 * LANES * 4)
            total = cgutils.alloca_once(builder, floats)
            builder.store(ir.Constant(floats, [0.0] * (2 * LANES)), total)
            with cgutils.for_range(builder, parts) as loop:
                offset = builder.add(column, builder.mul(loop.index, stride))
                part = builder.load(_address(builder, x, offset, floats), align=4)
                builder.store(builder.fadd(builder.load(total), part), total)
            mean = builder.fdiv(builder.load(total), divisor)
            builder.store(mean, _address(builder, out, column, floats), align=4)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), generate


@intrinsic
def _at_most(typing: Any, counts: Any, limit: Any) -> Any:
    """Return the bits [count <= limit] of the 64 int32 at an address."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        numbers = ir.VectorType(_I32, 64)
        values = builder.load(builder.inttoptr(args[0], numbers.as_pointer()), align=4)
        limit = splat(builder, builder.trunc(args[1], _I32), 64)
        return builder.bitcast(builder.icmp_signed("<=", values, limit), _I64)

    return types.uint64(types.int64, types.int64), generate


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
                    _layer_tile(*one, *two, s, s_stride, r, r_stride, to, to_stride)
                else:
                    _layer_row(*one, *two, s, s_stride, r, r_stride, to, to_stride)
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


@called
def attention(
    q: ndarray, k: ndarray, v: ndarray, tokens: int, head_dim: int, table: ndarray,
    level: ndarray, limit: ndarray, values: ndarray, margin: float, out: ndarray, near: ndarray,
    first: int, last: int,
) -> int:  # fmt: skip
    """Attend in units first..last of (image, head); return how many rows are near a tie.

    Rows of q, k and v may go on beyond their h W words; values is (h, COLUMNS), a head's scale in each lane; margin is
    what a probability may be wrong by, as a share of its threshold.
    """
    heads = len(limit)
    words = (head_dim + 63) // 64
    over = (tokens + 63) // 64  # words over tokens
    padded = (head_dim + COLUMNS - 1) // COLUMNS * COLUMNS
    keys = np.zeros((words, 64 * over), np.uint64)
    columns = np.zeros((over, padded), np.uint64)
    counts = np.full(64 * over, 1 << 30, np.int32)
    bits = np.zeros((tokens, over), np.uint64)
    totals = np.zeros(tokens, np.int64)
    spare = np.empty((ROWS, COLUMNS), np.float32)
    at_spare, at_values = spare.ctypes.data, values.ctypes.data
    doubtful = 0
    for unit in range(first, last):
        image, head = unit // heads, unit % heads
        top = image * tokens
        for token in range(tokens):
            for word in range(words):
                keys[word, token] = k[top + token, head * words + word]
        _over_tokens(v, top, tokens, head * words, head_dim, columns)
        for token in range(tokens):
            counts[:tokens] = 0
            for word in range(words):
                query = q[top + token, head * words + word]
                for j in range(tokens):
                    counts[j] += np.int32(_popcnt(query ^ keys[word, j]))
            most = limit[head]
            if most < -1:
                most, sure = _most(counts, tokens, table[head], level[head], margin)
                near[image, head, token] = not sure
                doubtful += not sure
            total = np.int64(0)
            for word in range(over):
                these = _at_most(counts.ctypes.data + 256 * word, most)
                bits[token, word] = these
                total += np.int64(_popcnt(these))
            totals[token] = total
        for column in range(0, head_dim, COLUMNS):
            width = min(COLUMNS, head_dim - column)
            token = 0
            while token < tokens:
                rows = ROWS if tokens - token >= ROWS else 1
                to, to_stride = at_spare, 4 * COLUMNS
                if width == COLUMNS:
                    to_stride = 4 * out.shape[1]
                    to = (
                        out.ctypes.data + (top + token) * to_stride + 4 * (head * head_dim + column)
                    )
                at, base = bits.ctypes.data + 8 * over * token, totals.ctypes.data + 8 * token
                w, scale = columns.ctypes.data + 8 * column, at_values + 4 * COLUMNS * head
                one = (at, 8 * over, w, 8 * padded, over, base, 8, scale)
                if rows == ROWS:
                    _context_tile(*one, 0, 0, 0, 0, 0, 0, 0, to, to_stride)
                else:
                    _context_row(*one, 0, 0, 0, 0, 0, 0, 0, to, to_stride)
                if width < COLUMNS:
                    for i in range(rows):
                        for j in range(width):
                            out[top + token + i, head * head_dim + column + j] = spare[i, j]
                token += rows
    alive = keys.size + columns.size + bits.size + totals.size + spare.size  # until here
    return doubtful if alive > 0 else -1


@called
def _most(counts: ndarray, tokens: int, table: ndarray, level: float, margin: float) -> Any:
    """Return the largest count of a set bit, and whether no value of the row is near the tie 2 p = a."""
    # four sums, so that additions do not wait for each other; unsigned, so that no index wraps around
    first, second, third, fourth = 0.0, 0.0, 0.0, 0.0
    fours = tokens - tokens % 4
    for j in range(0, fours, 4):
        first += table[np.uint32(counts[j])]
        second += table[np.uint32(counts[j + 1])]
        third += table[np.uint32(counts[j + 2])]
        fourth += table[np.uint32(counts[j + 3])]
    for j in range(fours, tokens):
        first += table[np.uint32(counts[j])]
    cut = level * ((first + second) + (third + fourth)) / 2
    if not (cut > 1e-250 and np.isfinite(cut)):
        return -1, False
    most, doubtful, near = np.int32(-1), np.int32(0), margin * cut
    for c in range(len(table)):
        most += np.int32(table[c] >= cut)
        doubtful += np.int32(abs(table[c] - cut) < near)
    sure = doubtful == 0
    if not sure:  # by a value that the table has, but the row may not
        sure = True
        for j in range(tokens):
            if abs(table[np.uint32(counts[j])] - cut) < near:
                sure = False
    return np.int64(most), sure


@called
def _over_tokens(
    v: ndarray, top: int, tokens: int, word: int, head_dim: int, columns: ndarray
) -> None:
    """Turn a head's words over channels into words over tokens, inverted: bit t of columns[t / 64, c] is [v = -1]."""
    block = np.empty(64, np.uint64)
    for part in range(columns.shape[0]):
        length = min(64, tokens - 64 * part)
        for start in range(0, head_dim, 64):
            block[:] = np.uint64(0)
            for t in range(length):
                block[t] = ~v[top + 64 * part + t, word + start // 64]
            # transpose 64 x 64 bits: swap ever smaller squares off the diagonal
            step, mask = np.uint64(32), np.uint64(0x00000000FFFFFFFF)
            while step > 0:
                for i in range(64):
                    if not np.uint64(i) & step:
                        j = i + np.int64(step)
                        swap = ((block[i] >> step) ^ block[j]) & mask
                        block[i] ^= swap << step
                        block[j] ^= swap
                step >>= np.uint64(1)
                mask ^= mask << step
            for c in range(min(64, head_dim - start)):
                columns[part, start + c] = block[c]
