"""Waiting for other processes by their progress, not by the clock: a loaded machine is slow, and that is no fault."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import final

import psutil

_PATIENCE_S = 60.0
_MOST = 30
"A wait in which something moves for so many times the patience has gone astray."


@final
class Patience:
    """How long nothing has moved, counted in seconds of a machine that has nothing else to do."""

    def __init__(self, seconds: float = _PATIENCE_S) -> None:
        self.seconds = seconds
        self.still = self.whole = 0.0
        self.seen: object = None
        self.last = time.monotonic()

    def is_lost(self, moves: object) -> bool:
        """Take what moves while there is progress; return whether it has stood still for too long."""
        now = time.monotonic()
        passed, self.last = (now - self.last) / crowd(), now
        self.whole += passed
        self.still = self.still + passed if moves == self.seen else 0.0
        self.seen = moves
        return self.still > self.seconds or self.whole > _MOST * self.seconds


def wait_for(
    condition: Callable[[], object],
    *,
    progress: Callable[[], object] | None = None,
    processes: Iterable[int] = (),
    patience: float = _PATIENCE_S,
    every: float = 0.05,
) -> None:
    """Return when a condition holds; fail once nothing at all has moved for as long as patience lasts.

    What moves is the processor time of this process's children and of the processes that are named, and
    whatever progress() returns, for example the lines of a log.

    Args:
        condition: True, or any true value, when the wait is over.
        progress: Returns something that changes while there is progress.
        processes: Ids of further processes that work towards it, with their children.
        patience: Seconds without any progress, after which the wait has failed, on a machine that has nothing else
            to do; where several processes share a core, so many times as long.
        every: Seconds from one look to the next.

    Raises:
        AssertionError: Nothing moved for so long, or something did for thirty times as long and led nowhere.
    """
    named = tuple(processes)
    left = Patience(patience)
    while not condition():
        now = (progress() if progress else None, _worked(named))
        assert not left.is_lost(now), (
            f"waited for {left.whole:.0f} s, {left.still:.0f} s without progress: {now}"
        )
        time.sleep(every)


def crowd() -> float:
    """Return how many processes share a core of this machine, at least 1."""
    cores, running = os.cpu_count() or 1, 0
    with contextlib.suppress(OSError, ValueError, IndexError):
        running = int(Path("/proc/loadavg").read_text().split()[3].split("/")[0])
    return max(1.0, os.getloadavg()[0] / cores, running / cores)


def alive(process: int) -> bool:
    """Return whether a process runs; one that ended and is not collected yet does not."""
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _worked(named: tuple[int, ...]) -> dict[int, float]:
    """Return the processor seconds of each process of the families, in tenths: an idle one's polling is no work."""
    families: list[psutil.Process] = []
    with contextlib.suppress(psutil.Error):
        families += psutil.Process().children(recursive=True)
    for process in named:
        with contextlib.suppress(psutil.Error):
            families += [found := psutil.Process(process), *found.children(recursive=True)]
    worked = {}
    for process in families:
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            worked[process.pid] = round(times.user + times.system, 1)
    return worked
