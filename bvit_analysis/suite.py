"""Execute notebooks over runs in batches: checked before anything starts, killed cleanly, never done twice.

    out/summary.json
    out/<notebook>/notebook.ipynb     as far as it came
    out/<notebook>/status.json        state, error, parameters, times, versions, identity

POSIX only: kernels talk over private sockets, because TCP ports are chosen by a race.
"""

from __future__ import annotations

import contextlib
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from bvit_analysis.errors import SuiteError
from bvit_analysis.execution import Execution
from bvit_analysis.job_status import (
    STATES,
    STATUS_VERSION,
    JobStatus,
    NotebookJob,
    kept,
    new_status,
    read_status,
)
from bvit_analysis.parameters import (
    Parameter,
    ParameterText,
    check_parameter,
    declared_parameters,
    parse_assignments,
    parse_parameter,
    require_notebooks,
    resolve_parameters,
)
from bvit_analysis.records import RunWarning, load_run, write_json_atomic

__all__ = [
    "JobStatus",
    "NotebookJob",
    "Parameter",
    "ParameterText",
    "declared_parameters",
    "discover_notebooks",
    "execute",
    "exit_code",
    "parse_assignments",
    "parse_parameter",
    "plan",
    "read_status",
    "read_statuses",
]


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
    notebooks: Sequence[Path], runs: Sequence[Path], parameters: Mapping[str, object]
) -> list[NotebookJob]:
    """Check all that can be checked before a kernel starts, and return what is to be executed.

    Args:
        notebooks: Paths of sources; their stems must differ.
        runs: Run folders, given to each notebook that declares ``runs``.
        parameters: Name to value for all notebooks; each takes those it declares. Text of a command
            line comes as ParameterText (parse_assignments) and is typed by the notebook's schema.

    Returns:
        One job a notebook, in the given order.

    Raises:
        SuiteError: If a notebook, a name or a value is wrong; the text names the nearest right one.
        RunError: If a run folder is missing, damaged or of another schema version.
    """
    require_notebooks()
    if not notebooks:
        raise SuiteError("no notebooks chosen; give at least one .ipynb file")
    paths = [Path(notebook).resolve() for notebook in notebooks]
    stems = [_check_stem(path.stem) for path in paths]
    twice = sorted({stem for stem in stems if stems.count(stem) > 1})
    if twice:
        raise SuiteError(f"two notebooks are named {twice[0]!r}; rename one, names become folders")
    schemas = {path.stem: declared_parameters(path) for path in paths}
    values = resolve_parameters(schemas, parameters)
    folders = [str(Path(run).resolve()) for run in runs]
    for folder in folders:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RunWarning)  # the report names damaged parts
            load_run(folder)
    jobs = []
    for path in paths:
        schema, chosen = schemas[path.stem], values[path.stem]
        if "runs" in schema and folders:
            chosen = {"runs": check_parameter(schema["runs"], folders), **chosen}
        elif "runs" in schema and not schema["runs"].default:
            raise SuiteError(
                f"notebook {path.stem!r} needs run folders and none is given; "
                "make some with `bvit train` or `bvit ablate`"
            )
        jobs.append(NotebookJob(notebook=path, parameters=chosen, name=path.stem))
    return jobs


def _check_stem(name: str) -> str:
    if name.startswith(".") or Path(name).name != name:
        raise SuiteError(f"{name!r} cannot name a folder of results; rename the notebook")
    return name


def execute(
    jobs: Sequence[NotebookJob],
    out: Path,
    *,
    jobs_at_once: int = 2,
    cell_timeout_s: int = 600,
    limit_s: int = 1800,
    progress: bool = True,
) -> list[JobStatus]:
    """Execute jobs, several at once, except those that succeeded before on the same inputs.

    Args:
        jobs: From plan().
        out: Folder for the results; made if missing.
        jobs_at_once: Notebooks in flight.
        cell_timeout_s: A cell that takes longer is interrupted and its notebook ends, seconds.
        limit_s: A notebook that takes longer is killed, seconds.
        progress: Tell on stderr what starts and ends.

    Returns:
        One status a job, in the order of jobs; a notebook that fails never stops the others. The
        same is in ``out/summary.json``.

    Raises:
        SuiteError: If a number is out of range or another process executes into the same folder.
        KeyboardInterrupt: On Ctrl-C, after the kernels are gone and the states are written.
    """
    require_notebooks()
    for name, number in (
        ("jobs_at_once", jobs_at_once),
        ("cell_timeout_s", cell_timeout_s),
        ("limit_s", limit_s),
    ):
        if number < 1:
            raise SuiteError(f"{name} must be at least 1, got {number}")
    for job in jobs:
        _check_stem(job.name)
    out = Path(out).resolve()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SuiteError(f"cannot make the folder {str(out)!r}: {error.strerror}") from error
    say = _Progress(len(jobs), on=progress)
    began = time.monotonic()
    done: dict[str, JobStatus] = {}
    with _lock(out):
        waiting = []
        for job in jobs:
            earlier = kept(job, out)
            if earlier is None:
                waiting.append(job)
            else:
                done[job.name] = earlier
                say.ended(earlier)
        running: list[Execution] = []
        try:
            while waiting or running:
                while waiting and len(running) < jobs_at_once:
                    running.append(Execution(waiting.pop(0), out, cell_timeout_s, limit_s))
                    say.started(running[-1].job.name)
                time.sleep(0.05)
                for execution in list(running):
                    status = execution.poll()
                    if status is not None:
                        running.remove(execution)
                        done[status.name] = status
                        say.ended(status)
                say.cells([execution.where() for execution in running])
        except BaseException as error:
            reason = f"stopped by {type(error).__name__}"
            for execution in running:
                status = execution.stop("interrupted", reason)
                done[status.name] = status
            for job in waiting:
                never = new_status(job, state="interrupted", error=f"{reason} before it was begun")
                done[job.name] = never
            raise
        finally:
            statuses = [done[job.name] for job in jobs if job.name in done]
            _write_summary(out, statuses, time.monotonic() - began)
    return statuses


def exit_code(statuses: Sequence[JobStatus]) -> int:
    """Return 0 if every notebook succeeded, now or before, else 1."""
    return int(any(status.state != "succeeded" for status in statuses))


def read_statuses(out: Path) -> list[JobStatus]:
    """Return the statuses of all notebooks that execute() has put below a folder, sorted by name."""
    folders = sorted(
        path for path in Path(out).iterdir() if path.is_dir() and not path.is_symlink()
    )
    found = [read_status(folder) for folder in folders]
    return [status for status in found if status is not None]


@contextlib.contextmanager
def _lock(out: Path) -> Iterator[None]:
    """Keep a second suite out of the folder; the system lifts the lock when its process ends."""
    import fcntl

    with (out / ".suite.lock").open("w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SuiteError(
                f"another process is executing notebooks into {str(out)!r}; "
                "wait for it or choose another folder"
            ) from error
        yield


def _write_summary(out: Path, statuses: Sequence[JobStatus], seconds: float) -> None:
    counts = {state: sum(status.state == state for status in statuses) for state in STATES}
    summary = {
        "schema_version": STATUS_VERSION,
        "exit_code": exit_code(statuses),
        "seconds": round(seconds, 3),
        "executed": sum(not status.skipped for status in statuses),
        "skipped": sum(status.skipped for status in statuses),
        "states": {state: count for state, count in counts.items() if count},
        "jobs": [asdict(status) for status in statuses],
    }
    write_json_atomic(out / "summary.json", summary)


class _Progress:
    """Lines on stderr; on a terminal also one that changes in place."""

    def __init__(self, total: int, *, on: bool) -> None:
        self.total, self.on, self.ends = total, on, 0
        self.live = on and sys.stderr.isatty()
        self.shown = ""

    def _line(self, text: str) -> None:
        if self.on:
            sys.stderr.write(("\r\x1b[K" if self.live else "") + _printable(text) + "\n")
            sys.stderr.flush()
            self.shown = ""

    def started(self, name: str) -> None:
        self._line(f"{name} started")

    def ended(self, status: JobStatus) -> None:
        self.ends += 1
        how = (
            "kept, inputs unchanged"
            if status.skipped
            else f"{status.state}, {status.seconds:.1f} s"
        )
        why = "" if status.error is None else f": {status.error}"
        self._line(f"[{self.ends}/{self.total}] {status.name}: {how}{why}")

    def cells(self, places: Sequence[str]) -> None:
        text = _printable(", ".join(places))[:100]
        if self.live and text != self.shown:
            sys.stderr.write(f"\r\x1b[K{text}")
            sys.stderr.flush()
            self.shown = text


def _printable(text: str) -> str:
    """Replace what could move a terminal's cursor: names and errors come from notebooks."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
