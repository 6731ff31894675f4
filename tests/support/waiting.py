"""Waiting for other processes by their progress, not by the clock: a loaded machine is slow, and that is no fault."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable

import psutil


def wait_for(
    condition: Callable[[], object],
    *,
    progress: Callable[[], object] | None = None,
    processes: Iterable[int] = (),
    patience: float = 60.0,
) -> None:
    """Return when a condition holds; fail once nothing at all has moved for as long as patience lasts.

    What moves is the processor time of this process's children and of the processes that are named, and
    whatever progress() returns, for example the lines of a log.

    Args:
        condition: True, or any true value, when the wait is over.
        progress: Returns something that changes while there is progress.
        processes: Ids of further processes that work towards it, with their children.
        patience: Seconds without any progress, after which the wait has failed.

    Raises:
        AssertionError: Nothing moved for so long.
    """
    named = tuple(processes)
    seen: object = None
    until = time.monotonic() + patience
    while not condition():
        now = (progress() if progress else None, _worked(named))
        if now != seen:
            seen, until = now, time.monotonic() + patience
        assert time.monotonic() < until, f"nothing moved for {patience:.0f} s; last seen: {seen}"
        time.sleep(0.05)


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
