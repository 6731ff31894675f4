"""For how long a batch will run and how much disk it will take, from what earlier executions took."""

from __future__ import annotations

import heapq
import math
import shutil
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bvit_analysis.suite.jobs import JobStatus, NotebookJob, folder_bytes, kept, read_status

ASSUMED_S = 60.0
"What a notebook is assumed to take where none was executed before, seconds."
ASSUMED_BYTES = 5 * 10**6
"What its folder is assumed to take then."

Source = Literal["same job", "same notebook", "assumed"]


@dataclass(frozen=True, kw_only=True)
class JobEstimate:
    """What one execution is expected to take."""

    job: NotebookJob
    kept: bool
    "True if it succeeded before on the same inputs, so that nothing is to be done."
    seconds: float
    bytes: int
    source: Source
    "What the two numbers were taken from."


@dataclass(frozen=True, kw_only=True)
class BatchEstimate:
    """What a batch is expected to take."""

    jobs: list[JobEstimate]
    at_once: int
    seconds: float
    "Of wall-clock time, for what is to be executed, so many at a time."
    bytes: int
    "Of what is to be executed."
    free_bytes: int
    "On the disk of the results."

    @property
    def to_do(self) -> list[JobEstimate]:
        """Return those that would be executed."""
        return [job for job in self.jobs if not job.kept]

    @property
    def fits(self) -> bool:
        """Return True if the disk has room."""
        return self.bytes <= self.free_bytes


def estimate_batch(
    jobs: Sequence[NotebookJob],
    out: Path,
    *,
    at_once: int = 2,
    identities: Mapping[str, str],
) -> BatchEstimate:
    """Estimate a batch from the statuses of earlier executions in the same folder.

    Args:
        jobs: What is to be executed.
        out: Folder for the results; it may be missing.
        at_once: Notebooks in flight.
        identities: Of the jobs, by name.
    """
    earlier = _earlier(out)
    found = [_estimate(job, out, earlier, identities[job.name]) for job in jobs]
    to_do = [one for one in found if not one.kept]
    return BatchEstimate(
        jobs=found,
        at_once=at_once,
        seconds=makespan([one.seconds for one in to_do], at_once),
        bytes=sum(one.bytes for one in to_do),
        free_bytes=_free(out),
    )


def makespan(seconds: Sequence[float], at_once: int, busy: Sequence[float] = ()) -> float:
    """Return when the last of some jobs ends if each, in order, starts as soon as a place is free.

    Args:
        seconds: What each job takes.
        at_once: Places.
        busy: For how long the places that are taken will stay so.

    Example:
        >>> makespan([3, 1, 1, 1], at_once=2)
        3.0
    """
    ends = [*busy, *([0.0] * max(0, at_once - len(busy)))]
    heapq.heapify(ends)
    for duration in seconds:
        heapq.heappush(ends, heapq.heappop(ends) + duration)
    return float(max(ends, default=0.0))


def _earlier(out: Path) -> dict[str, list[tuple[JobStatus, int]]]:
    """Return what succeeded in a folder, with its size, by the notebook's file name."""
    found: dict[str, list[tuple[JobStatus, int]]] = {}
    folders = sorted(out.iterdir()) if out.is_dir() else []
    for folder in folders:
        status = None if folder.is_symlink() else read_status(folder)
        if status is None or status.state != "succeeded":
            continue
        if math.isfinite(status.seconds) and status.seconds > 0:
            size = status.bytes if status.bytes > 0 else folder_bytes(folder)
            found.setdefault(Path(status.notebook).name, []).append((status, size))
    return found


def _estimate(
    job: NotebookJob, out: Path, earlier: Mapping[str, list[tuple[JobStatus, int]]], current: str
) -> JobEstimate:
    alike = earlier.get(job.notebook.name, [])
    same = [one for one in alike if one[0].name == job.name]
    source: Source = "same job" if same else "same notebook" if alike else "assumed"
    taken = same or alike
    return JobEstimate(
        job=job,
        kept=kept(job, out, current) is not None,
        seconds=statistics.median(s.seconds for s, _ in taken) if taken else ASSUMED_S,
        bytes=int(statistics.median(size for _, size in taken)) if taken else ASSUMED_BYTES,
        source=source,
    )


def _free(out: Path) -> int:
    place = next(path for path in (out.resolve(), *out.resolve().parents) if path.exists())
    return shutil.disk_usage(place).free
