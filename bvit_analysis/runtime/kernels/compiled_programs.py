"""Running a program of operations on several threads, compiled by numba, with no lock and no call back into Python.

Each thread goes through the operations in order, takes pieces, its own share first, while there are any, and waits
until all are done. No thread is waited for as such: one that comes late, or never, takes no piece.
"""

from __future__ import annotations

import os
import platform
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, types
from numba.core import cgutils
from numpy import ndarray

from bvit_analysis.runtime.kernels import operations as op
from bvit_analysis.runtime.kernels.compiled_attention import attention
from bvit_analysis.runtime.kernels.compiled_linear import linear
from bvit_analysis.runtime.kernels.compiled_norm import norm_rows
from bvit_analysis.runtime.kernels.compiled_sign import sign_pack
from bvit_analysis.runtime.kernels.jit import SOURCES, array, called, compiled, intrinsic
from bvit_analysis.runtime.kernels.tiles import COLUMNS

I64 = ir.IntType(64)
_SHARE = 8 * op.STATE_FIELDS
_SPINS = 20_000  # about a millisecond; then the processor may be needed by whom we wait for
_MACHINE = platform.machine().lower()


def _pointer(kind: Any) -> Any:
    """Make the function from an address to a pointer of a type."""

    @intrinsic
    def pointer(typing: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

        return types.CPointer(kind)(types.int64), generate

    return pointer


_f32, _f64, _i64, _u64 = (
    _pointer(kind) for kind in (types.float32, types.float64, types.int64, types.uint64)
)
_bool = _pointer(types.boolean)


def _atomic(operation: str) -> Any:
    """Make the function that changes an integer in memory as one step for all threads, and returns what it was."""

    @intrinsic
    def change(typing: Any, address: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            place = builder.inttoptr(args[0], I64.as_pointer())
            return builder.atomic_rmw(operation, place, args[1], "acq_rel")

        return types.int64(types.int64, types.int64), generate

    return change


_add_to, _swap = _atomic("add"), _atomic("xchg")


@intrinsic
def _swap_if(typing: Any, address: Any, expected: Any, value: Any) -> Any:
    """Replace an integer in memory if it is the one expected, as one step for all threads; return whether."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = builder.inttoptr(args[0], I64.as_pointer())
        result = builder.cmpxchg(place, args[1], args[2], "acq_rel", "acquire")
        return builder.extract_value(result, 1)

    return types.boolean(types.int64, types.int64, types.int64), generate


@intrinsic
def _now(typing: Any, address: Any) -> Any:
    """Return an integer in memory as other threads left it, and what they wrote before."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = builder.inttoptr(args[0], I64.as_pointer())
        return builder.load_atomic(place, "acquire", 8)

    return types.int64(types.int64), generate


@intrinsic
def _pause(typing: Any) -> Any:
    """Tell the processor that this thread waits."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        name, hint = None, []
        if _MACHINE in ("x86_64", "amd64"):
            name = "llvm.x86.sse2.pause"
        elif _MACHINE in ("aarch64", "arm64"):
            name, hint = "llvm.aarch64.hint", [ir.Constant(ir.IntType(32), 1)]  # yield
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
def _wait(address: int, wanted: int) -> None:
    """Return when an integer in memory is at least the one wanted."""
    spins = 0
    while _now(address) < wanted:
        _pause()
        spins += 1
        if spins > _SPINS:
            _sched_yield()


@called
def _sum(row: ndarray, first: int, last: int) -> None:
    """Add up the tokens of units first..last of (image, block) in float64."""
    tokens, channels, stride = row[op.M_TOKENS], row[op.M_CHANNELS], row[op.M_STRIDE]
    blocks = (tokens + op.BLOCK - 1) // op.BLOCK
    for unit in range(first, last):
        image, block = unit // blocks, unit % blocks
        start, end = op.BLOCK * block, min(op.BLOCK * (block + 1), tokens)
        sums = carray(_f64(row[op.M_SUMS] + 8 * channels * unit), channels)
        sums[:] = 0.0
        at = row[op.M_X] + 4 * stride * (image * tokens + start)
        fours = (end - start) // 4 * 4
        for token in range(0, fours, 4):  # so that sums go through memory a fourth as often
            a = carray(_f32(at + 4 * stride * token), channels)
            b = carray(_f32(at + 4 * stride * (token + 1)), channels)
            c = carray(_f32(at + 4 * stride * (token + 2)), channels)
            d = carray(_f32(at + 4 * stride * (token + 3)), channels)
            for i in range(channels):
                left, right = (
                    np.float64(a[i]) + np.float64(b[i]),
                    np.float64(c[i]) + np.float64(d[i]),
                )
                sums[i] += left + right
        for token in range(fours, end - start):
            a = carray(_f32(at + 4 * stride * token), channels)
            for i in range(channels):
                sums[i] += np.float64(a[i])


@called
def _add(row: ndarray, first: int, last: int) -> int:
    """Fill what a token-mean shift adds, bias - share * mean, in units first..last of (image, channel group)."""
    tokens, channels = row[op.M_TOKENS], row[op.M_CHANNELS]
    blocks = (tokens + op.BLOCK - 1) // op.BLOCK
    groups = (channels + op.GROUP - 1) // op.GROUP
    bias = carray(_f32(row[op.M_BIAS]), channels)
    share = carray(_f32(row[op.M_SHARE]), channels)
    total = np.empty(op.GROUP, np.float64)
    for unit in range(first, last):
        image, start = unit // groups, op.GROUP * (unit % groups)
        width = min(op.GROUP, channels - start)
        total[:] = 0.0
        for block in range(blocks):
            place = row[op.M_SUMS] + 8 * (channels * (blocks * image + block) + start)
            sums = carray(_f64(place), width)
            for c in range(width):
                total[c] += sums[c]
        out = carray(_f32(row[op.M_OUT] + 4 * (channels * image + start)), width)
        for c in range(width):
            mean = np.float32(total[c] / np.float64(tokens))
            out[c] = bias[start + c] - share[start + c] * mean
    return total.size


@called
def _sign(row: ndarray, first: int, last: int) -> None:
    """Shift, sign and pack rows first..last."""
    units, channels, heads, each = (
        row[op.L_ROWS] if row[op.KIND] == op.LINEAR else row[op.UNITS],
        row[op.S_CHANNELS],
        row[op.S_HEADS],
        row[op.S_ADD_EACH],
    )
    words = heads * ((channels // heads + 63) // 64)
    x = carray(_f32(row[op.S_X]), (units, row[op.S_STRIDE]))
    add = carray(_f32(row[op.S_ADD]), ((units + each - 1) // each, channels))
    out = carray(_u64(row[op.S_OUT]), (units, words))
    sign_pack(x, add, each, heads, channels // heads, out, first, last)


@called
def _linear(row: ndarray, first: int, last: int) -> int:
    """Compute rows, or columns, first..last of a linear layer."""
    channels, outputs, rows = row[op.S_CHANNELS], row[op.L_OUTPUTS], row[op.L_ROWS]
    words = (channels + 63) // 64
    left, right = 0, outputs
    if row[op.L_BY_COLUMN]:
        left, right = COLUMNS * first, min(COLUMNS * last, outputs)
        first, last = 0, rows
    if row[op.S_X]:
        _sign(row, first, last)
    padded = (outputs + COLUMNS - 1) // COLUMNS * COLUMNS
    a = carray(_u64(row[op.S_OUT]), (rows, words))
    weight = carray(_u64(row[op.L_WEIGHT]), (words, outputs))
    scale, bias = carray(_f32(row[op.L_SCALE]), padded), carray(_f32(row[op.L_BIAS]), padded)
    slope, zeta = carray(_f32(row[op.L_SLOPE]), padded), carray(_f32(row[op.L_ZETA]), padded)
    shortcut = carray(_f32(row[op.L_SHORTCUT]), (rows, row[op.L_INPUTS]))
    added = rows if row[op.L_RESIDUAL] else 0
    residual = carray(_f32(row[op.L_RESIDUAL]), (added, outputs))
    out = carray(_f32(row[op.L_OUT]), (rows, outputs))
    return linear(
        a, weight, channels, scale, bias, slope, zeta, shortcut, row[op.L_PARTS], residual, out,
        first, last, left, right,
    )  # fmt: skip


@called
def _attend(row: ndarray, first: int, last: int) -> int:
    """Attend in units first..last of (image, head); return how many rows are near a tie."""
    tokens, head_dim, heads = row[op.A_TOKENS], row[op.A_HEAD_DIM], row[op.A_HEADS]
    images = row[op.UNITS] // heads
    shape = (images * tokens, row[op.A_STRIDE])
    q, k = carray(_u64(row[op.A_Q]), shape), carray(_u64(row[op.A_K]), shape)
    v = carray(_u64(row[op.A_V]), shape)
    table = carray(_f64(row[op.A_TABLE]), (heads, head_dim + 1))
    level, limit = carray(_f64(row[op.A_LEVEL]), heads), carray(_i64(row[op.A_LIMIT]), heads)
    values = carray(_f32(row[op.A_VALUES]), (heads, COLUMNS))
    margin = carray(_f64(row[op.A_MARGIN]), 1)[0]
    out = carray(_f32(row[op.A_OUT]), (images * tokens, heads * head_dim))
    near = carray(_bool(row[op.A_NEAR]), (images, heads, tokens))
    return attention(
        q, k, v, tokens, head_dim, table, level, limit, values, margin, out, near, first, last
    )


@called
def _norm(row: ndarray, first: int, last: int) -> int:
    """Normalise rows first..last."""
    shape = (row[op.UNITS], row[op.N_CHANNELS])
    x, out = carray(_f32(row[op.N_X]), shape), carray(_f32(row[op.N_OUT]), shape)
    weight = carray(_f32(row[op.N_WEIGHT]), row[op.N_CHANNELS])
    bias = carray(_f32(row[op.N_BIAS]), row[op.N_CHANNELS])
    eps = carray(_f32(row[op.N_EPS]), 1)[0]
    return norm_rows(x, weight, bias, eps, out, first, last)


@called
def _piece(row: ndarray, number: int) -> int:
    """Do one piece of an operation; return how many rows of attention are near a tie."""
    kind, first = row[op.KIND], number * row[op.EACH]
    last = min(first + row[op.EACH], row[op.UNITS])
    if kind == op.NORM:
        _norm(row, first, last)
    elif kind == op.SUM:
        _sum(row, first, last)
    elif kind == op.ADD:
        _add(row, first, last)
    elif kind == op.SIGN:
        _sign(row, first, last)
    elif kind == op.LINEAR:
        _linear(row, first, last)
    else:
        return _attend(row, first, last)
    return 0


@called
def _run(rows: ndarray, at_state: int, first: int, own: int, shares: int) -> int:
    """Run operations from `first` on, with other threads; return the next one: all are done, or one has doubts."""
    for number in range(first, len(rows)):
        row = rows[number]
        pieces = row[op.PIECES]
        state = at_state + _SHARE * shares * number
        for turn in range(shares):
            share = (own + turn) % shares
            start, end = pieces * share // shares, pieces * (share + 1) // shares
            place = state + _SHARE * share
            while start < end:
                piece = start + _add_to(place + 8 * op.TAKEN, 1)
                if piece >= end:
                    break
                doubts = _piece(row, piece)
                if doubts > 0:
                    _add_to(place + 8 * op.DOUBTS, doubts)
                _add_to(place + 8 * op.DONE, 1)
        doubts = 0
        for share in range(shares):
            start, end = pieces * share // shares, pieces * (share + 1) // shares
            place = state + _SHARE * share
            _wait(place + 8 * op.DONE, end - start)
            doubts += _now(place + 8 * op.DOUBTS)
        if doubts > 0:
            return number + 1
    return len(rows)


def make_work() -> Any:
    """Compile what runs a program, or serves programs that are posted: one function, as both hold all kernels."""
    sources = SOURCES

    def work(rows: ndarray, state: ndarray, first: int, mail: ndarray, looks: int) -> int:
        at, left = np.int64(mail.ctypes.data), looks
        # of the types below, so that all is compiled once
        place, own, shares = np.int64(state.ctypes.data), np.int64(0), np.int64(state.shape[1])
        while sources > 0:
            if looks == 0 or _now(at) == op.POSTED:
                if looks > 0:
                    rows = carray(_i64(mail[op.MAIL_OPS]), (mail[op.MAIL_COUNT], op.FIELDS))
                    place, first = mail[op.MAIL_STATE], mail[op.MAIL_FIRST]
                    own, shares = mail[op.MAIL_SHARE], mail[op.MAIL_SHARES]
                done = _run(rows, place, first, own, shares)
                if looks == 0:
                    return done
                _swap(at, op.IDLE)
                left = looks
            else:
                _pause()
                left -= 1
                if left <= 0 and _swap_if(at, op.IDLE, op.ASLEEP):
                    break
        return 0

    table, states, line = array(types.int64, 2), array(types.int64, 3), array(types.int64, 1)
    return compiled(work, types.int64(table, states, types.int64, line, types.int64))


def make_post() -> Any:
    """Compile what puts a program into a helper's mailbox; it returns what the helper was doing."""
    sources = SOURCES

    def post(mail: ndarray, rows: ndarray, state: ndarray, first: int, share: int) -> int:
        at = mail.ctypes.data
        if _now(at) == op.POSTED or sources <= 0:
            return op.POSTED
        mail[op.MAIL_OPS], mail[op.MAIL_COUNT] = rows.ctypes.data, len(rows)
        mail[op.MAIL_STATE], mail[op.MAIL_FIRST] = state.ctypes.data, first
        mail[op.MAIL_SHARE], mail[op.MAIL_SHARES] = share, state.shape[1]
        return _swap(at, op.POSTED)

    table, states, line = array(types.int64, 2), array(types.int64, 3), array(types.int64, 1)
    return compiled(post, types.int64(line, table, states, types.int64, types.int64))
