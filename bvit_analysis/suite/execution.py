"""One execution of one notebook: a child process with a kernel, watched from its parent.

The parent writes ``status.json``; the executed notebook itself is evidence, not a witness, since papermill
marks cells of a dead kernel as completed. Neither the child nor the kernel outlives the parent, even if that
one is killed outright (on Linux; elsewhere the kernel notices within a second that the child is gone).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, final

from bvit_analysis.errors import BvitError
from bvit_analysis.files import DamagedFile, read_json, write_json_atomic
from bvit_analysis.outputs import FIGURES_FOLDER, FIGURES_VARIABLE, FRAMES_VARIABLE
from bvit_analysis.processes import Child, bound, process_start
from bvit_analysis.suite.child import EXECUTING, one_line
from bvit_analysis.suite.jobs import (
    STATUS_VERSION,
    JobStatus,
    NotebookJob,
    State,
    folder_bytes,
    new_status,
    versions,
)
from bvit_analysis.suite.private_folders import PrivateFolder

GRACE_S = 10.0
"So long after its limit a cell may still take to be interrupted; then its kernel is killed, seconds."
POLL_S = 0.05
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

# The kernel's parent is the child process, whose number jupyter_client tells it.
_KERNEL = bound(
    [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"], "JPY_PARENT_PID"
)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one execution may take."""

    cell_timeout_s: int = 600
    "A cell that takes longer is interrupted and its notebook ends, seconds."
    limit_s: int = 1800
    "A notebook that takes longer is killed, seconds."
    threads: int = 1
    "Of numerical libraries in the kernel, where the user's environment does not say."


def threads_each(at_once: int) -> int:
    """Return how many threads each of some executions at a time gets of this process's cores."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:
        cores = os.cpu_count() or 1
    return max(1, cores // at_once)


@final
class Execution:
    """A child process that executes one notebook, and the files by which the two speak."""

    def __init__(self, job: NotebookJob, out: Path, limits: Limits, identity: str) -> None:
        self.job, self.limits = job, limits
        self.folder = out / job.name
        self.folder.mkdir(exist_ok=True)
        self.status = new_status(
            job,
            state="running",
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            identity=identity,
            versions=versions(),
        )
        _write(self.folder, self.status)
        for leftover in ("notebook.ipynb", EXECUTING):
            (self.folder / leftover).unlink(missing_ok=True)  # of other inputs, or half done
        self.figures = self.folder / FIGURES_FOLDER
        if self.figures.is_symlink():
            self.figures.unlink()
        shutil.rmtree(self.figures, ignore_errors=True)
        self.figures.mkdir(exist_ok=True)
        self.private = PrivateFolder()
        self.work = self.private.path
        self.began = self.since = time.monotonic()
        self.at: tuple[object, ...] = ()
        try:
            self._start()
        except BaseException:
            self.private.remove()
            raise

    def _start(self) -> None:
        spec = self.work / "kernels" / "python3"
        spec.mkdir(parents=True)
        kernel = {"argv": _KERNEL, "display_name": "Python 3", "language": "python"}
        (spec / "kernel.json").write_text(json.dumps(kernel), encoding="utf-8")
        order = {
            "notebook": str(self.job.notebook),
            "output": str(self.folder / EXECUTING),
            "parameters": self.job.parameters,
            "cell_timeout_s": self.limits.cell_timeout_s,
        }
        (self.work / "job.json").write_text(json.dumps(order), encoding="utf-8")
        with (self.work / "log").open("wb") as log:
            self.child = Child(
                [sys.executable, "-m", "bvit_analysis.suite.child", str(self.work)],
                output=log,
                environment=self._environment(),
            )

    def where(self) -> str:
        """Return how far it is, for a person."""
        cell, cells = self._cell()
        return self.job.name if cell is None else f"{self.job.name} cell {cell + 1}/{cells}"

    def poll(self) -> JobStatus | None:
        """Return what became of it, or None while it runs."""
        code = self.child.poll()
        if code is None:
            reason = self._too_long()
            return None if reason is None else self.stop("timeout", reason)
        result = _read_own(self.work / "result.json")
        if result:
            return self._end(result["state"], result["error"], result["cell"])
        if code < 0:
            reason = f"the process that executed it was killed ({signal.Signals(-code).name})"
            return self._end("interrupted", reason, self._cell()[0])
        lines = (self.work / "log").read_text(encoding="utf-8", errors="replace").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), f"exit code {code}")
        return self._end("failed", f"the notebook could not be executed: {last[:300]}", None)

    def _too_long(self) -> str | None:
        now, limits = time.monotonic(), self.limits
        if now - self.began > limits.limit_s:
            return f"the notebook took longer than its limit of {limits.limit_s} s"
        # The child interrupts a cell at its limit, but a cell may take no notice of that.
        found = _read_own(self.work / "progress.json") or {}
        at = (found.get("cell"), found.get("busy"))
        if at != self.at:
            self.at, self.since = at, now
        if found.get("busy") and now - self.since > limits.cell_timeout_s + GRACE_S:
            return (
                f"cell {found['cell'] + 1} took longer than its limit of {limits.cell_timeout_s} s "
                "and ignored the interrupt"
            )
        return None

    def stop(self, state: State, reason: str) -> JobStatus:
        """Kill the process, its kernel and all their children, and write down why."""
        self.child.kill()
        return self._end(state, reason, self._cell()[0])

    def _cell(self) -> tuple[int | None, int]:
        found = _read_own(self.work / "progress.json")
        return (found["cell"], found["cells"]) if found else (None, 0)

    def _end(self, state: State, error: str | None, cell: int | None) -> JobStatus:
        _keep_evidence(self.folder)
        with contextlib.suppress(OSError):
            self.figures.rmdir()  # where no figure was saved
        status = replace(
            self.status,
            state=state,
            error=error,
            cell=cell,
            seconds=round(time.monotonic() - self.began, 3),
            bytes=folder_bytes(self.folder),
        )
        self.private.remove()
        return _written(self.folder, status)

    def _environment(self) -> dict[str, str]:
        child = dict(os.environ)
        # A backend set for the parent would keep figures out of the notebooks.
        child.pop("MPLBACKEND", None)
        if not any(child.get(name) for name in _THREADS):  # whoever sets one has decided
            child |= dict.fromkeys(_THREADS, str(self.limits.threads))
        # The kernelspec found first is ours, so that the kernel is this very interpreter.
        places = [str(self.work), child.get("JUPYTER_PATH")]
        child["JUPYTER_PATH"] = os.pathsep.join(filter(None, places))
        child["JUPYTER_RUNTIME_DIR"] = str(self.work / "runtime")
        child["IPYTHONDIR"] = str(self.work / "ipython")  # no start-up files, no shared history
        child["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"
        child[FRAMES_VARIABLE] = str(self.job.frames)
        child[FIGURES_VARIABLE] = str(self.figures)
        return child


def begin(job: NotebookJob, out: Path, limits: Limits, identity: str) -> Execution | JobStatus:
    """Start an execution, or return the status of one that could not even be started."""
    try:
        return Execution(job, out, limits, identity)
    except (OSError, BvitError) as error:  # of this notebook only; the others go on
        reason = one_line(f"the notebook could not be executed: {error}")
        status = new_status(job, state="failed", error=reason, identity=identity)
        return _written(out / job.name, status)


def run_to_end(
    job: NotebookJob,
    out: Path,
    limits: Limits,
    identity: str,
    unwanted: Callable[[], str | None],
) -> JobStatus:
    """Execute one notebook and wait for its end.

    Args:
        job: What to execute.
        out: Folder that gets the job's folder.
        limits: What it may take.
        identity: Of the job, as whoever ordered it has found it.
        unwanted: Asked again and again; a text ends the execution, for that reason.
    """
    execution = begin(job, out, limits, identity)
    if isinstance(execution, JobStatus):
        return execution
    while (status := execution.poll()) is None:
        reason = unwanted()
        if reason is not None:
            return execution.stop("interrupted", reason)
        time.sleep(POLL_S)
    return status


def refuse(job: NotebookJob, out: Path, why: str) -> JobStatus:
    """Write down that a notebook is not executed, in place of what an earlier execution left."""
    folder = out / job.name
    with contextlib.suppress(OSError):
        folder.mkdir(exist_ok=True)
        for leftover in ("notebook.ipynb", EXECUTING):
            (folder / leftover).unlink(missing_ok=True)
    return _written(folder, new_status(job, state="failed", error=one_line(why)))


def record(folder: Path, status: JobStatus) -> JobStatus:
    """Write down what became of a notebook where the one that executed it no longer can."""
    _keep_evidence(folder)
    return _written(folder, status)


def _keep_evidence(folder: Path) -> None:
    executing = folder / EXECUTING
    if _is_json(executing):  # papermill writes in place, so a kill can leave half of it
        executing.replace(folder / "notebook.ipynb")


def _write(folder: Path, status: JobStatus) -> None:
    data = asdict(status)
    del data["skipped"]
    owner = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "pid_started": process_start(os.getpid()),
    }
    write_json_atomic(folder / "status.json", {"schema_version": STATUS_VERSION, **data, **owner})


def _written(folder: Path, status: JobStatus) -> JobStatus:
    """Write a status down; on a full disk that fails, which must be told but end this notebook only."""
    try:
        _write(folder, status)
    except (OSError, BvitError) as error:
        reason = one_line(f"{status.error or status.state}; not written down: {error}")
        return replace(status, state="failed", error=reason)
    return status


def _read_own(path: Path) -> dict[str, Any] | None:
    try:
        return read_json(path)
    except (FileNotFoundError, DamagedFile):
        return None


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_bytes())
    except (OSError, ValueError):
        return False
    return True
