"""One execution of one notebook: a child process with a kernel, watched from its parent.

The parent writes ``status.json``; the executed notebook itself is evidence, not a witness, since papermill
marks cells of a dead kernel as completed. Neither the child nor the kernel outlives the parent, even if that
one is killed outright (on Linux; elsewhere the kernel notices within a second).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, final

from bvit_analysis.errors import SuiteError
from bvit_analysis.job_status import (
    STATUS_VERSION,
    JobStatus,
    NotebookJob,
    State,
    identity,
    new_status,
    versions,
)
from bvit_analysis.parameters import read_notebook
from bvit_analysis.run_files import DamagedFile, read_json, write_json_atomic
from bvit_analysis.run_lock import process_start

_EXECUTING = ".executing.ipynb"

# A kernel must not outlive the process that asked for it, even if that one is killed outright.
_DIE_WITH_PARENT = (
    "import ctypes, sys\nif sys.platform == 'linux': ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)\n"
)
_KERNEL = _DIE_WITH_PARENT + (
    "import runpy; runpy.run_module('ipykernel_launcher', run_name='__main__', alter_sys=True)"
)
_CHILD = _DIE_WITH_PARENT + (
    "import os\n"
    "if os.getppid() != int(sys.argv[2]): sys.exit('the parent process is gone')\n"
    "from bvit_analysis.execution import run_job; run_job(sys.argv[1])"
)


@final
class Execution:
    """A child process that executes one notebook, and the files by which the two speak."""

    def __init__(self, job: NotebookJob, out: Path, cell_timeout_s: int, limit_s: int) -> None:
        self.job, self.limit_s = job, limit_s
        self.folder = out / job.name
        self.folder.mkdir(exist_ok=True)
        for leftover in ("notebook.ipynb", _EXECUTING):
            (self.folder / leftover).unlink(missing_ok=True)  # of other inputs, or half done
        self.status = new_status(
            job,
            state="running",
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            identity=identity(job),
            versions=versions(),
        )
        self._write(self.status)
        self.work = _private_folder()
        self.began = time.monotonic()
        try:
            self._start(cell_timeout_s)
        except BaseException:
            shutil.rmtree(self.work, ignore_errors=True)
            raise

    def _start(self, cell_timeout_s: int) -> None:
        spec = self.work / "kernels" / "python3"
        spec.mkdir(parents=True)
        argv = [sys.executable, "-c", _KERNEL, "-f", "{connection_file}"]
        kernel = {"argv": argv, "display_name": "Python 3", "language": "python"}
        (spec / "kernel.json").write_text(json.dumps(kernel), encoding="utf-8")
        order = {
            "notebook": str(self.job.notebook),
            "output": str(self.folder / _EXECUTING),
            "parameters": self.job.parameters,
            "cell_timeout_s": cell_timeout_s,
        }
        (self.work / "job.json").write_text(json.dumps(order), encoding="utf-8")
        with (self.work / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _CHILD, str(self.work), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=_environment(self.work),
                start_new_session=True,  # Ctrl-C is the parent's to handle
            )

    def where(self) -> str:
        """Return how far it is, for a person."""
        cell, cells = self._cell()
        return self.job.name if cell is None else f"{self.job.name} cell {cell + 1}/{cells}"

    def poll(self) -> JobStatus | None:
        """Return what became of it, or None while it runs."""
        if self.process.poll() is None:
            if time.monotonic() - self.began <= self.limit_s:
                return None
            return self.stop(
                "timeout", f"the notebook took longer than its limit of {self.limit_s} s"
            )
        result = _read_own(self.work / "result.json")
        if result:
            return self._end(result["state"], result["error"], result["cell"])
        code = self.process.returncode
        if code < 0:
            reason = f"the process that executed it was killed ({signal.Signals(-code).name})"
            return self._end("interrupted", reason, self._cell()[0])
        lines = (self.work / "log").read_text(encoding="utf-8", errors="replace").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), f"exit code {code}")
        return self._end("failed", f"the notebook could not be executed: {last[:300]}", None)

    def stop(self, state: State, reason: str) -> JobStatus:
        """Kill the process, its kernel and all their children, and write down why."""
        import psutil  # type: ignore[import-untyped]

        try:
            family = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.Error:
            family = []
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        for member in family:
            with contextlib.suppress(psutil.Error):
                member.kill()
        self.process.wait()
        psutil.wait_procs(family, timeout=5)
        return self._end(state, reason, self._cell()[0])

    def _cell(self) -> tuple[int | None, int]:
        found = _read_own(self.work / "progress.json")
        return (found["cell"], found["cells"]) if found else (None, 0)

    def _end(self, state: State, error: str | None, cell: int | None) -> JobStatus:
        executing = self.folder / _EXECUTING
        if _is_json(executing):  # papermill writes in place, so a kill can leave half of it
            executing.replace(self.folder / "notebook.ipynb")
        seconds = round(time.monotonic() - self.began, 3)
        status = replace(self.status, state=state, error=error, cell=cell, seconds=seconds)
        self._write(status)
        shutil.rmtree(self.work, ignore_errors=True)
        return status

    def _write(self, status: JobStatus) -> None:
        data = asdict(status)
        del data["skipped"]
        owner = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "pid_started": process_start(os.getpid()),
        }
        write_json_atomic(
            self.folder / "status.json", {"schema_version": STATUS_VERSION, **data, **owner}
        )


def _private_folder() -> Path:
    """Make a folder with a path short enough for a socket's name, which holds about 100 bytes."""
    for place in (tempfile.gettempdir(), "/tmp"):
        if len(place) <= 60 and os.access(place, os.W_OK):
            return Path(tempfile.mkdtemp(prefix="bvit-", dir=Path(place).resolve()))
    raise SuiteError(
        "no writable temporary folder with a short path; set TMPDIR to one such as /tmp"
    )


def _environment(work: Path) -> dict[str, str]:
    child = dict(os.environ)
    # A backend set for the parent would keep figures out of the notebooks.
    child.pop("MPLBACKEND", None)
    child.setdefault("OMP_NUM_THREADS", "1")  # several notebooks share the cores
    # The kernelspec found first is ours, so that the kernel is this very interpreter.
    child["JUPYTER_PATH"] = os.pathsep.join(filter(None, [str(work), child.get("JUPYTER_PATH")]))
    child["JUPYTER_RUNTIME_DIR"] = str(work / "runtime")
    child["IPYTHONDIR"] = str(work / "ipython")  # no personal start-up files, no shared history
    child["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"
    package = str(Path(__file__).resolve().parents[1])
    child["PYTHONPATH"] = os.pathsep.join(filter(None, [package, child.get("PYTHONPATH")]))
    return child


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


# One execution, in the child --------------------------------------------------------------------


def run_job(work: str) -> None:
    """Execute the notebook that a folder's ``job.json`` orders; the entry point of the child process."""
    folder = Path(work)
    order = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    result = _run_notebook(order, folder)
    write_json_atomic(folder / "result.json", result)


def _run_notebook(order: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    cells = len(read_notebook(Path(order["notebook"])).cells) + bool(order["parameters"])
    limit = int(order["cell_timeout_s"])
    at, since = 0, time.monotonic()

    def began(cell: object, cell_index: int) -> None:
        nonlocal at, since
        at, since = cell_index, time.monotonic()
        write_json_atomic(folder / "progress.json", {"cell": cell_index, "cells": cells})

    def ended(state: State, error: str | None) -> dict[str, Any]:
        return {"state": state, "error": error, "cell": None if state == "succeeded" else at}

    config = Config()
    config.KernelManager.transport = "ipc"
    config.KernelManager.ip = str(folder / "k")  # absolute and unique, or kernels cross over
    too_long = f"cell {{}} took longer than its limit of {limit} s"
    try:
        executed = papermill.execute_notebook(
            _not_a_template(order["notebook"]),
            _not_a_template(order["output"]),
            parameters=order["parameters"],
            kernel_name="python3",
            language="python",
            progress_bar=False,
            start_timeout=180,
            execution_timeout=limit,
            interrupt_on_timeout=True,
            autosave_cell_every=60,
            config=config,
            on_cell_start=began,
        )
    except PapermillExecutionError as error:
        if error.ename == "KeyboardInterrupt" and time.monotonic() - since >= limit:
            return ended("timeout", too_long.format(at + 1))
        if error.ename == "SystemExit":
            return ended(
                "early_exit", f"cell {at + 1} left the notebook: SystemExit: {error.evalue}"
            )
        return ended("failed", _one_line(f"cell {at + 1}: {error.ename}: {error.evalue}"))
    except CellTimeoutError:
        return ended("timeout", too_long.format(at + 1))
    except DeadKernelError:
        return ended("kernel_died", f"the kernel died in cell {at + 1}; is the memory exhausted?")
    except Exception as error:  # whatever else papermill raises ends this notebook only
        return ended("failed", _one_line(f"cell {at + 1}: {type(error).__name__}: {error}"))
    if executed.metadata.get("papermill", {}).get("exception"):
        # sys.exit(0) raises nothing here, yet the cells behind it were never executed.
        return ended("early_exit", f"cell {at + 1} left the notebook before its end")
    return ended("succeeded", None)


def _not_a_template(path: str) -> str:
    """Escape braces, since papermill puts every path through str.format."""
    return path.replace("{", "{{").replace("}", "}}")


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]
