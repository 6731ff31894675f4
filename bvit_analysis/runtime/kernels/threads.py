"""Threads that help to run programs: as many as torch would use, and safe to call from several Python threads.

A helper that has just worked looks out for more for about a fifth of a millisecond, in compiled code and without the
GIL, then sleeps: the operations of a network follow each other faster than the system can wake a thread.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any

import numpy as np
from numpy import ndarray

from bvit_analysis.runtime.kernels.compilation import machine_code
from bvit_analysis.runtime.kernels.operations import MAIL, SHARE, Status

_here = threading.local()
_LOOKS = 10_000  # about 0.2 ms


def thread_count() -> int:
    """Return torch's number of threads now, or that of the usable processors where torch is not loaded."""
    lent = getattr(_here, "lent", None)
    if lent is not None:
        return int(lent)
    torch = sys.modules.get("torch")
    if torch is not None:
        return int(torch.get_num_threads())
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def threads_are_lent() -> bool:
    """Return whether this thread is inside of lent_threads()."""
    return getattr(_here, "lent", None) is not None


@functools.cache
def _openmp() -> list[Any]:
    """Return the OpenMP libraries that are loaded; none where threadpoolctl is not installed."""
    try:
        from threadpoolctl import ThreadpoolController
    except ImportError:
        return []
    loaded = ThreadpoolController().lib_controllers
    return [library for library in loaded if library.user_api == "openmp"]


@contextmanager
def lent_threads() -> Iterator[None]:
    """Lend this thread's processors to programs: meanwhile torch's own loops do not go to other threads.

    After a loop torch's threads look out for another for some milliseconds, on the processors that helpers need. Only
    what the calling thread does is affected, and thread_count() goes on to say how many threads torch had.
    """
    number = thread_count()
    libraries = _openmp() if number > 1 else []
    before = [library.get_num_threads() for library in libraries]
    _here.lent, outer = number, getattr(_here, "lent", None)
    try:
        for library in libraries:
            library.set_num_threads(1)
        yield
    finally:
        _here.lent = outer
        for library, count in zip(libraries, before, strict=True):
            library.set_num_threads(count)


class _Helper:
    """A daemon thread that serves programs posted to its mailbox; it is started asleep."""

    def __init__(self, number: int) -> None:
        self.mail = np.zeros(1, MAIL)
        self.mail["status"] = Status.ASLEEP
        self.kept: tuple[ndarray, ndarray] | None = None
        "What it may still read of the last program: a late helper looks at it after all is done."
        self._alarm: SimpleQueue[None] = SimpleQueue()
        name = f"bvit-runtime-{number}"
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def wake(self) -> None:
        self._alarm.put(None)

    def _work(self) -> None:
        work = machine_code("work")
        while True:
            self._alarm.get()
            work(self.mail, _LOOKS)


class _Team:
    """The helpers of this process; one program at a time has them, another that starts meanwhile runs alone."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.helpers: list[_Helper] = []

    def post(self, table: ndarray, state: ndarray, first: int) -> None:
        wanted = state.shape[1] - 1
        while len(self.helpers) < wanted:
            self.helpers.append(_Helper(len(self.helpers)))
        post = machine_code("post")
        for number, helper in enumerate(self.helpers[:wanted]):
            before = post(helper.mail, table, state, first, number + 1)
            if before == Status.POSTED:
                continue  # it has not come back from an earlier program yet
            helper.kept = (table, state)
            if before == Status.ASLEEP:
                helper.wake()


_team = _Team()


def new_state(operations: int, number: int) -> ndarray:
    """Return the state of a run of so many operations on `number` threads, (n, threads) SHARE of zeros."""
    return np.zeros((operations, number), SHARE)


def run(table: ndarray, state: ndarray, first: int) -> int:
    """Run operations of a program from `first` on, on as many threads as the state has shares, this one among them.

    Args:
        table: The operations, (n,) OPERATION.
        state: What new_state() returned, for this run alone.
        first: The operation to start with.

    Returns:
        The operation to go on with: n if all are done, else the one after an attention with rows near a tie.
    """
    if state.shape[1] > 1 and _team.lock.acquire(blocking=False):
        try:
            _team.post(table, state, first)
            return _run_here(table, state, first)
        except BaseException:
            # An interruption between the two: helpers are at work in memory that must not be let go before all is done.
            _run_here(table, state, first)
            raise
        finally:
            _team.lock.release()
    return _run_here(table, state, first)


def _run_here(table: ndarray, state: ndarray, first: int) -> int:
    """Run operations in this thread, by a mailbox of its own."""
    mail = np.zeros(1, MAIL)
    machine_code("post")(mail, table, state, first, 0)
    return int(machine_code("work")(mail, 0))


def _forget() -> None:
    """A forked child has none of its parent's threads, and perhaps a lock that nobody will release."""
    global _team
    _team = _Team()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
