"""Running a program on several threads, compiled by numba, with no lock and no call back into Python.

Each thread goes through the operations in order, takes pieces, its own share first, while there are any, and waits
until all are done. No thread is waited for as such: one that comes late, or never, takes no piece.
"""

from __future__ import annotations

from typing import Any

import numba
from numba import carray, types
from numpy import ndarray

from bvit_analysis.runtime.kernels.atomics import add_to, now, pause, swap, swap_if, wait
from bvit_analysis.runtime.kernels.compiled_operations import piece
from bvit_analysis.runtime.kernels.jit import SOURCES, array, called, compiled
from bvit_analysis.runtime.kernels.operations import MAIL, OPERATION, SHARE, Status, offset_of
from bvit_analysis.runtime.kernels.pointers import operations_at

_SHARE = SHARE.itemsize
# where in a share its counts are, and in a mail its status: threads change these by address
_TAKEN, _DONE, _DOUBTS = (offset_of(SHARE, name) for name in ("taken", "done", "doubts"))
_STATUS = offset_of(MAIL, "status")


@called
def _run(operations: ndarray, at_state: int, first: int, own: int, shares: int) -> int:
    """Run operations from `first` on, with other threads; return the next one: all are done, or one has doubts."""
    for number in range(first, len(operations)):
        operation = operations[number]
        pieces = operation.cut.pieces
        at_shares = at_state + _SHARE * shares * number
        for turn in range(shares):
            share = (own + turn) % shares
            start, end = pieces * share // shares, pieces * (share + 1) // shares
            at = at_shares + _SHARE * share
            while start < end:
                taken = start + add_to(at + _TAKEN, 1)
                if taken >= end:
                    break
                doubts = piece(operation, taken)
                if doubts > 0:
                    add_to(at + _DOUBTS, doubts)
                add_to(at + _DONE, 1)
        doubts = 0
        for share in range(shares):
            start, end = pieces * share // shares, pieces * (share + 1) // shares
            at = at_shares + _SHARE * share
            wait(at + _DONE, end - start)
            doubts += now(at + _DOUBTS)
        if doubts > 0:
            return number + 1
    return len(operations)


def make_work() -> Any:
    """Compile what runs the programs in a mailbox, looks some times for another, and sleeps: it holds all kernels.

    Whoever calls a program does so by a mailbox of his own and looks for no other; it returns where the last run ended.
    """
    sources = SOURCES

    def work(mail: ndarray, looks: int) -> int:
        at = mail.ctypes.data + _STATUS
        left, done = looks, 0
        while sources > 0:
            if now(at) == Status.POSTED:
                post = mail[0]
                operations = carray(operations_at(post.operations), post.count)
                done = _run(operations, post.state, post.first, post.share, post.shares)
                swap(at, Status.IDLE)
                left = looks
            else:
                pause()
                left -= 1
                if left <= 0 and swap_if(at, Status.IDLE, Status.ASLEEP):
                    break
        return done

    return compiled(work, types.int64(array(numba.from_dtype(MAIL), 1), types.int64))


def make_post() -> Any:
    """Compile what puts a program into a mailbox; it returns what whoever serves it was doing."""
    sources = SOURCES

    def post(mail: ndarray, operations: ndarray, state: ndarray, first: int, share: int) -> int:
        at = mail.ctypes.data + _STATUS
        if now(at) == Status.POSTED or sources <= 0:
            return Status.POSTED
        content = mail[0]
        content.operations, content.count = operations.ctypes.data, len(operations)
        content.state, content.shares = state.ctypes.data, state.shape[1]
        content.first, content.share = first, share
        return swap(at, Status.POSTED)

    mails, table, states = (
        array(numba.from_dtype(record), dimensions)
        for record, dimensions in ((MAIL, 1), (OPERATION, 1), (SHARE, 2))
    )
    return compiled(post, types.int64(mails, table, states, types.int64, types.int64))
