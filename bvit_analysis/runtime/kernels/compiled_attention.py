"""The attention kernel, compiled by numba: scores by popcount, bits by a table or a limit, contexts by tiles."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numpy import ndarray

from bvit_analysis.runtime.kernels.jit import called, intrinsic
from bvit_analysis.runtime.kernels.tiles import (
    COLUMNS,
    I32,
    I64,
    ROWS,
    context_row,
    context_tile,
    popcnt,
    splat,
)


@intrinsic
def at_most(typing: Any, counts: Any, limit: Any) -> Any:
    """Return the bits [count <= limit] of the 64 int32 at an address."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        numbers = ir.VectorType(I32, 64)
        values = builder.load(builder.inttoptr(args[0], numbers.as_pointer()), align=4)
        limit = splat(builder, builder.trunc(args[1], I32), 64)
        return builder.bitcast(builder.icmp_signed("<=", values, limit), I64)

    return types.uint64(types.int64, types.int64), generate


@called
def attention(
    q: ndarray, k: ndarray, v: ndarray, tokens: int, head_dim: int, table: ndarray,
    level: ndarray, limit: ndarray, values: ndarray, margin: float, out: ndarray, near: ndarray,
    first: int, last: int,
) -> int:  # fmt: skip
    """Attend in units first..last of (image, head); return how many rows are near a tie.

    Rows of q, k and v may go on beyond their h W words; level is (h,), and limit (0,), or the other way round, where
    the limit decides; values is (h, COLUMNS), a head's scale in each lane; margin is what a probability may be wrong
    by, relative to its threshold.
    """
    heads, by_level = len(values), len(level) > 0
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
                    counts[j] += np.int32(popcnt(query ^ keys[word, j]))
            if not by_level:
                most = limit[head]
            else:
                most, sure = _most(counts, tokens, table[head], level[head], margin)
                near[image, head, token] = not sure
                doubtful += not sure
            total = np.int64(0)
            for word in range(over):
                these = at_most(counts.ctypes.data + 256 * word, most)
                bits[token, word] = these
                total += np.int64(popcnt(these))
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
                    context_tile(*one, 0, 0, 0, 0, 0, 0, 0, to, to_stride)
                else:
                    context_row(*one, 0, 0, 0, 0, 0, 0, 0, to, to_stride)
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
    for over in range(columns.shape[0]):
        length = min(64, tokens - 64 * over)
        for start in range(0, head_dim, 64):
            block[:] = np.uint64(0)
            for t in range(length):
                block[t] = ~v[top + 64 * over + t, word + start // 64]
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
                columns[over, start + c] = block[c]
