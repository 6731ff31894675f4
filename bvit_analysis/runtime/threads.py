"""Threads of our own for kernels that release the GIL: as many as torch would use, and safe to call from several.

numba's own threading layer may not be entered by two Python threads at once, and does not survive a fork.
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue

Range = tuple[int, int]


def thread_count() -> int:
    """Return torch's number of threads now, or that of the usable processors where torch is not loaded."""
    torch = sys.modules.get("torch")
    if torch is not None:
        return int(torch.get_num_threads())
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def ranges(count: int, parts: int, multiple: int = 1) -> list[Range]:
    """Cut 0..count into at most `parts` nearly equal ranges whose inner ends are multiples of `multiple`.

    Example:
        >>> ranges(10, 2, 4)
        [(0, 8), (8, 10)]
    """
    blocks = -(-count // multiple)
    parts = max(1, min(parts, blocks))
    ends = [min(count, -(-blocks * part // parts) * multiple) for part in range(parts + 1)]
    return [pair for pair in itertools.pairwise(ends) if pair[0] < pair[1]]


class _Job:
    """Pieces of one call, taken one by one by whoever is free."""

    def __init__(self, function: Callable[[int, int], object], pieces: list[Range]) -> None:
        self._function = function
        self._left = deque(pieces)
        self._total = len(pieces)
        self._done: SimpleQueue[BaseException | None] = SimpleQueue()

    def take(self) -> int:
        """Work until no piece is left; return how many were taken."""
        taken = 0
        while True:
            try:
                piece = self._left.popleft()
            except IndexError:
                return taken
            taken += 1
            fault: BaseException | None = None
            try:
                self._function(*piece)
            except BaseException as caught:
                fault = caught
            self._done.put(fault)

    def wait(self) -> None:
        """Return when all pieces are done, also those others took; raise what one of them raised."""
        faults = [self._done.get() for _ in range(self._total)]
        for fault in faults:
            if fault is not None:
                raise fault


class _Team:
    """Daemon threads that wait for jobs on one queue; they are started when first needed."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[_Job] = SimpleQueue()
        self._lock = threading.Lock()
        self._size = 0

    def run(self, job: _Job, helpers: int) -> None:
        with self._lock:
            while self._size < helpers:
                name = f"bvit-runtime-{self._size}"
                threading.Thread(target=self._work, name=name, daemon=True).start()
                self._size += 1
        for _ in range(helpers):
            self._jobs.put(job)
        job.take()
        job.wait()

    def _work(self) -> None:
        while True:
            job = self._jobs.get()
            job.take()
            del job  # an idle thread keeps no arrays alive


_team = _Team()


def run(function: Callable[[int, int], object], pieces: list[Range], number: int) -> None:
    """Call function(first, last) for each piece on `number` threads, this one among them; return when all are done.

    Raises:
        BaseException: What a piece raised, after all have ended.
    """
    _team.run(_Job(function, pieces), number - 1)


def _forget() -> None:
    """A forked child has none of its parent's threads, and perhaps a lock that nobody will release."""
    global _team
    _team = _Team()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
