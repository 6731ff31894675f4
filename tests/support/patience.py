"""Waiting in tests: as long as something moves, and by the clock of a machine that has nothing else to do.

A fixed number of seconds says how busy a machine may be, not whether the code is right. So a wait ends when nothing
has moved for long, and the time in which nothing moved is counted less where many processes share the cores.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from bvit_analysis.processes import cpu_seconds

STILL_S = 60.0
"So long nothing may move on an idle machine, seconds."


def wait_for(
    condition: Callable[[], object],
    moves: Callable[[], object] | None = None,
    *,
    still_s: float = STILL_S,
    every_s: float = 0.05,
) -> None:
    """Wait until a condition holds; fail when nothing has moved for long.

    Args:
        condition: What is waited for.
        moves: Returns something that changes while there is progress: steps, names of files, processor time.
            Without it the condition has to come true within the still time itself.
        still_s: How long nothing may move, seconds of an idle machine.
        every_s: Between two looks, seconds.
    """
    seen, still, last = None, 0.0, time.monotonic()
    while not condition():
        time.sleep(every_s)
        now, sign = time.monotonic(), moves() if moves else None
        still = still + (now - last) / crowd() if sign == seen else 0.0
        seen, last = sign, now
        assert still < still_s, f"nothing has moved for {still_s:.0f} s; last seen: {seen!r:.300}"


def crowd() -> float:
    """Return how many processes share a core, at least 1."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def work_of(*pids: int) -> Callable[[], float]:
    """Return a question for the processor time of processes and their descendants, to a tenth of a second."""
    return lambda: round(sum(map(cpu_seconds, pids)), 1)


def files_below(*folders: Path) -> Callable[[], list[tuple[str, int]]]:
    """Return a question for the files below folders and when they were written."""

    def look() -> list[tuple[str, int]]:
        return sorted(_written(path for folder in folders for path in folder.rglob("*")))

    return look


def _written(paths: Iterable[Path]) -> Iterable[tuple[str, int]]:
    for path in paths:
        try:
            yield str(path), path.lstat().st_mtime_ns
        except FileNotFoundError:
            continue
