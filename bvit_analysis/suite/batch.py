"""Execute notebooks over runs in batches: checked before anything starts, killed cleanly, never done twice.

    out/summary.json
    out/<job>/notebook.ipynb     as far as it came
    out/<job>/status.json        state, error, parameters, times, versions, identity
    out/<job>/figures/           pictures and their numbers, where the notebook saves some

POSIX only: kernels talk over private sockets, because TCP ports are chosen by a race.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bvit_analysis.errors import BvitError, SuiteError
from bvit_analysis.files import DamagedFile, read_json
from bvit_analysis.outputs import FRAMES
from bvit_analysis.processes import is_gone, process_start
from bvit_analysis.records import write_json_atomic
from bvit_analysis.suite.cluster import CLAIM, MARKER, ClusterRunner
from bvit_analysis.suite.estimation import ASSUMED_S, BatchEstimate, estimate_batch
from bvit_analysis.suite.execution import POLL_S, Limits, refuse, threads_each
from bvit_analysis.suite.jobs import (
    STATES,
    STATUS_VERSION,
    JobStatus,
    NotebookJob,
    damaged_status,
    identity,
    kept,
    new_status,
    read_status,
)
from bvit_analysis.suite.parameters import (
    require_notebooks,
)
from bvit_analysis.suite.planning import Entry, check_job_name, expand
from bvit_analysis.suite.progress import Progress
from bvit_analysis.suite.runners import LocalRunner, Runner

_SUMMARY_EVERY_S = 1.0


def discover_notebooks(root: Path) -> list[Path]:
    """Return the notebooks of a project: ``notebooks/*.ipynb`` below root, or ``*.ipynb`` in it, sorted.

    Raises:
        SuiteError: If there are none.
    """
    root = Path(root)
    folder = root / "notebooks" if (root / "notebooks").is_dir() else root
    found = sorted(path for path in folder.glob("*.ipynb") if not path.name.startswith("."))
    if not found:
        raise SuiteError(
            f"no notebooks in {str(folder)!r}; give the folder that holds *.ipynb files"
        )
    return found


def plan(
    notebooks: Sequence[Path],
    runs: Sequence[Path],
    parameters: Mapping[str, object],
    *,
    grid: Mapping[str, Sequence[object]] | None = None,
    each_run: bool = False,
    frames: int = FRAMES,
) -> list[NotebookJob]:
    """Check all that can be checked before a kernel starts, and return what is to be executed.

    Args:
        notebooks: Paths of sources; their stems must differ.
        runs: Run folders, given to each notebook that declares ``runs``.
        parameters: Name to value for all notebooks; each takes those it declares. Text of a command
            line comes as ParameterText (parse_assignments) and is typed by the notebook's schema.
        grid: Name to values; one execution for each combination of those a notebook declares.
        each_run: One execution a run, in place of one over all runs.
        frames: Pictures that each explorer draws ahead for a page without a kernel.

    Returns:
        The jobs, in the order of notebooks, then of runs, then of the grid, last name fastest.

    Raises:
        SuiteError: If a notebook, a name or a value is wrong; the text names the nearest right one. A run or a
            notebook that cannot be read does not stop the others: see NotebookJob.left_out and refused.
    """
    entry = Entry(
        notebooks=notebooks,
        runs=runs,
        parameters=parameters,
        grid=grid or {},
        each_run=each_run,
        frames=frames,
    )
    return expand(entry)


def estimate(jobs: Sequence[NotebookJob], out: Path, *, jobs_at_once: int = 2) -> BatchEstimate:
    """Estimate time and disk of a batch, and find what would be kept; nothing is executed or written.

    Args:
        jobs: From plan() or plan_from_file().
        out: Folder that execute() would be given; it may be missing.
        jobs_at_once: Notebooks in flight.
    """
    known: dict[str, str] = {}
    possible = [job for job in jobs if job.refused is None]
    identities = {job.name: identity(job, known) for job in possible}
    return estimate_batch(possible, Path(out), at_once=jobs_at_once, identities=identities)


def execute(
    jobs: Sequence[NotebookJob],
    out: Path,
    *,
    jobs_at_once: int | None = None,
    cell_timeout_s: int = 600,
    limit_s: int = 1800,
    progress: bool = True,
    cluster: str | None = None,
    resources: Mapping[str, float] | None = None,
) -> list[JobStatus]:
    """Execute jobs, several at once, except those that succeeded before on the same inputs.

    Args:
        jobs: From plan() or plan_from_file().
        out: Folder for the results; made if missing.
        jobs_at_once: Notebooks in flight; by default 2, on a cluster as many as its workers have threads.
        cell_timeout_s: A cell that takes longer is interrupted and its notebook ends, seconds.
        limit_s: A notebook that takes longer is killed, seconds.
        progress: Tell on stderr what starts and ends, and how long the rest may take.
        cluster: Address of the scheduler of a Dask cluster whose workers share this file system; by
            default the notebooks are executed on this machine.
        resources: What each execution takes of the resources that the cluster's workers offer.

    Returns:
        One status a job, in the order of jobs; a notebook that fails never stops the others. The
        same is in ``out/summary.json``.

    Raises:
        SuiteError: If a number is out of range, another process executes into the same folder, or the
            cluster does not answer or cannot see the files.
        KeyboardInterrupt: On Ctrl-C, after the kernels are gone and the states are written.
    """
    require_notebooks()
    for name, number in (
        ("jobs_at_once", jobs_at_once),
        ("cell_timeout_s", cell_timeout_s),
        ("limit_s", limit_s),
    ):
        if number is not None and number < 1:
            raise SuiteError(f"{name} must be at least 1, got {number}")
    if resources and not cluster:
        raise SuiteError("resources are of a cluster's workers; give the cluster's address as well")
    names = [check_job_name(job.name) for job in jobs]
    if len({name.casefold() for name in names}) < len(names):
        raise SuiteError("two jobs have one name; names become folders and must differ")
    try:
        out = Path(out).resolve()
        out.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError, RuntimeError) as error:  # a zero byte; a circle of links
        why = getattr(error, "strerror", None) or str(error)
        raise SuiteError(f"cannot make the folder {str(out)!r}: {why}; choose another") from error
    at_once = jobs_at_once or 2
    limits = Limits(cell_timeout_s=cell_timeout_s, limit_s=limit_s, threads=threads_each(at_once))
    with _lock(out):
        _remove_leftovers(out)
        batch = _Batch(jobs, out, at_once=at_once, progress=progress)
        batch.keep()
        if batch.waiting:
            batch.run(_runner(batch, limits, jobs_at_once, cluster, resources))
        batch.write_summary(complete=True)
    return batch.statuses()


def exit_code(statuses: Sequence[JobStatus]) -> int:
    """Return 0 if every notebook succeeded over all runs that were asked for, now or before, else 1."""
    return int(any(status.state != "succeeded" or status.left_out for status in statuses))


def read_statuses(out: Path) -> list[JobStatus]:
    """Return the statuses of all notebooks that execute() has put below a folder, sorted by name.

    Where one cannot be read, it is a failed execution whose error says so.
    """
    folders = sorted(
        path for path in Path(out).iterdir() if path.is_dir() and not path.is_symlink()
    )
    found = [read_status(folder) or damaged_status(folder) for folder in folders]
    return [status for status in found if status is not None]


def read_summary(out: Path) -> dict[str, Any] | None:
    """Read what became of the last batch, with the truth about one whose process was killed.

    Args:
        out: The folder that was given to execute().

    Returns:
        The content of ``summary.json``; where the process that wrote it is gone before its end, what it
        was executing is ``interrupted``. None if there is no summary.
    """
    try:
        data = read_json(Path(out) / "summary.json")
        if data["complete"] or not is_gone(data["host"], data["pid"], data["pid_started"]):
            return data
        for job in data["jobs"]:
            if job["state"] == "running":
                found = read_status(Path(out) / str(job["name"]))
                job["state"] = "interrupted" if found is None else found.state
                job["error"] = "the process that executed it is gone"
        states = [job["state"] for job in data["jobs"]]
    except (FileNotFoundError, NotADirectoryError, DamagedFile, KeyError, TypeError):
        return None
    return {**data, "states": {state: states.count(state) for state in STATES if state in states}}


class _Batch:
    """What of a batch is waiting, in flight and done, and the summary that says so."""

    def __init__(
        self, jobs: Sequence[NotebookJob], out: Path, *, at_once: int, progress: bool
    ) -> None:
        self.jobs, self.out = list(jobs), out
        self.waiting: list[NotebookJob] = []
        self.running: dict[str, JobStatus] = {}
        self.done: dict[str, JobStatus] = {}
        self.began = time.monotonic()
        self.written, self.changed = 0.0, False
        self.identities: dict[str, str] = {}
        known: MutableMapping[str, str] = {}
        for job in self.jobs:
            # Before anything starts: data that change from now on make this identity an outdated one,
            # so that the next start executes again.
            if job.refused is None:
                with contextlib.suppress(OSError):
                    self.identities[job.name] = identity(job, known)
        named = [job for job in self.jobs if job.name in self.identities]
        guess = estimate_batch(named, out, at_once=at_once, identities=self.identities)
        seconds = {one.job.name: 0.0 if one.kept else one.seconds for one in guess.jobs}
        expected = {
            job.name: 0.0 if job.refused else seconds.get(job.name, ASSUMED_S) for job in self.jobs
        }
        self.say = Progress(expected, at_once=at_once, on=progress)

    def keep(self) -> None:
        """Set aside what was executed before on the same inputs."""
        for job in self.jobs:
            current = self.identities.get(job.name)
            earlier = kept(job, self.out, current) if current else None
            if earlier is None:
                self.waiting.append(job)
            else:
                self.ended(earlier)

    def ended(self, status: JobStatus) -> None:
        self.running.pop(status.name, None)
        self.done[status.name] = status
        self.changed = True
        self.say.ended(status)

    def run(self, runner: Runner) -> None:
        """Execute what waits, and write down the state of what did not get to its end."""
        try:
            self.write_summary(complete=False)
            while self.waiting or self.running:
                while self.waiting and runner.has_room():
                    self._start(runner)
                time.sleep(POLL_S)
                for status in runner.poll():
                    self.ended(status)
                if self.changed and time.monotonic() - self.written > _SUMMARY_EVERY_S:
                    self.write_summary(complete=False)
                self.say.places(runner.places())
        except BaseException as error:
            reason = f"stopped by {type(error).__name__}"
            for status in runner.stop(reason):
                self.done[status.name] = status
            for job in self.waiting:
                never = new_status(job, state="interrupted", error=f"{reason} before it was begun")
                self.done[job.name] = never
            self.waiting, self.running = [], {}
            self.write_summary(complete=True)
            raise
        finally:
            runner.close()

    def _start(self, runner: Runner) -> None:
        job, self.changed = self.waiting.pop(0), True
        current = self.identities.get(job.name)
        if current is None:
            reason = job.refused or f"the notebook {str(job.notebook)!r} cannot be read"
            self.ended(refuse(job, self.out, reason))
            return
        self.running[job.name] = new_status(job, state="running", identity=current)
        runner.start(job, current)
        self.say.started(job.name)

    def statuses(self) -> list[JobStatus]:
        """Return what is done, in the order of the jobs."""
        return [self.done[job.name] for job in self.jobs if job.name in self.done]

    def write_summary(self, *, complete: bool) -> None:
        """Write the summary, for the time being or for good."""
        self.written, self.changed = time.monotonic(), False
        shown = {**self.done, **self.running}
        statuses = [shown[job.name] for job in self.jobs if job.name in shown]
        states = [status.state for status in statuses]
        done = self.statuses()
        summary = {
            "schema_version": STATUS_VERSION,
            "complete": complete,
            "exit_code": exit_code(done) if complete else None,
            "seconds": round(self.written - self.began, 3),
            "bytes": sum(status.bytes for status in done),
            "executed": sum(not status.skipped for status in done),
            "kept": sum(status.skipped for status in done),
            "waiting": [job.name for job in self.waiting],
            "states": {state: states.count(state) for state in STATES if state in states},
            "jobs": [asdict(status) for status in statuses],
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "pid_started": process_start(os.getpid()),
        }
        try:
            write_json_atomic(self.out / "summary.json", summary)
        except BvitError:
            if complete:  # until then the statuses say the same
                raise


def _runner(
    batch: _Batch,
    limits: Limits,
    at_once: int | None,
    cluster: str | None,
    resources: Mapping[str, float] | None,
) -> Runner:
    if cluster is None:
        return LocalRunner(batch.out, limits, at_once=at_once or 2)
    possible = [job for job in batch.waiting if job.refused is None]
    return ClusterRunner(
        cluster, batch.out, limits, jobs=possible, at_once=at_once, resources=resources
    )


def _remove_leftovers(out: Path) -> None:
    """Remove what a batch that was killed has left in the folder; the states of its notebooks stay."""
    for pattern in (".*.tmp", "*/.*.tmp", f"{MARKER}*", f"*/{CLAIM}*"):
        for path in out.glob(pattern):
            with contextlib.suppress(OSError):  # of a read-only folder, or a folder of that name
                path.unlink(missing_ok=True)


@contextlib.contextmanager
def _lock(out: Path) -> Iterator[None]:
    """Keep a second suite out of the folder; the system lifts the lock when its process ends."""
    import filelock

    lock = filelock.FileLock(out / ".suite.lock")
    try:
        # filelock waits where it may not write, as if somebody else held the lock.
        (out / ".suite.lock").open("a").close()
        lock.acquire(blocking=False)
    except filelock.Timeout as error:
        raise SuiteError(
            f"another process is executing notebooks into {str(out)!r}; "
            "wait for it or choose another folder"
        ) from error
    except (OSError, NotImplementedError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise SuiteError(
            f"cannot write into the folder {str(out)!r}: {why}; choose one that is writable"
        ) from error
    try:
        yield
    finally:
        lock.release()
