"""Where executions of a batch take place: what the batch asks of such a place, and this machine as one."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, final

from bvit_analysis.suite.execution import Execution, Limits, begin
from bvit_analysis.suite.jobs import JobStatus, NotebookJob
from bvit_analysis.suite.private_folders import remove_abandoned


class Runner(Protocol):
    """A place where notebooks are executed, some at a time."""

    def has_room(self) -> bool:
        """Return True if another notebook may be started."""

    def start(self, job: NotebookJob, identity: str) -> None:
        """Start one notebook; whatever goes wrong is told by poll."""

    def poll(self) -> list[JobStatus]:
        """Return the statuses of those that have ended since it was asked last."""

    def places(self) -> list[str]:
        """Return how far each notebook in flight is, for a person."""

    def stop(self, reason: str) -> list[JobStatus]:
        """End all that are in flight and return what became of them."""

    def close(self) -> None:
        """Give back what was taken."""


@final
class LocalRunner:
    """Child processes of this process."""

    def __init__(self, out: Path, limits: Limits, *, at_once: int) -> None:
        self.out, self.limits, self.at_once = out, limits, at_once
        self.running: list[Execution] = []
        self.failed: list[JobStatus] = []
        remove_abandoned()

    def has_room(self) -> bool:
        """Return True if fewer than at_once are in flight."""
        return len(self.running) < self.at_once

    def start(self, job: NotebookJob, identity: str) -> None:
        """Start a child process for one notebook."""
        begun = begin(job, self.out, self.limits, identity)
        if isinstance(begun, JobStatus):
            self.failed.append(begun)
        else:
            self.running.append(begun)

    def poll(self) -> list[JobStatus]:
        """Return the statuses of the children that have ended, and kill those over their limits."""
        ended, self.failed = self.failed, []
        for execution in list(self.running):
            status = execution.poll()
            if status is not None:
                self.running.remove(execution)
                ended.append(status)
        return ended

    def places(self) -> list[str]:
        """Return the cell that each child is in."""
        return [execution.where() for execution in self.running]

    def stop(self, reason: str) -> list[JobStatus]:
        """Kill all children and their kernels."""
        ended, self.failed = self.failed, []
        while self.running:
            ended.append(self.running.pop().stop("interrupted", reason))
        return ended

    def close(self) -> None:
        """Do nothing: children end with their notebooks."""
