"""What is to be executed, what became of it, and whether that still holds for the same inputs."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from bvit_analysis.run_files import DamagedFile, read_json
from bvit_analysis.run_lock import is_gone

State = Literal[
    "succeeded", "failed", "timeout", "kernel_died", "interrupted", "early_exit", "running"
]
STATES: tuple[str, ...] = State.__args__  # type: ignore[attr-defined]
STATUS_VERSION = 1
_RECORDED = ("bvit_analysis", "papermill", "nbclient", "ipykernel", "numpy", "pandas", "matplotlib")


@dataclass(frozen=True, kw_only=True)
class NotebookJob:
    """One notebook to execute with checked parameters."""

    notebook: Path
    "Absolute path of the source; never written to."
    parameters: dict[str, object]
    "JSON-ready values, among them the absolute run folders as 'runs'."
    name: str
    "Names the output folder: the notebook's stem."


@dataclass(frozen=True, kw_only=True)
class JobStatus:
    """What became of one notebook; the content of its ``status.json``."""

    name: str
    "The job's name, which is its folder's."
    notebook: str
    "Path of the source."
    state: str
    "One of STATES."
    error: str | None = None
    "One line, None where all went well."
    cell: int | None = None
    "Zero-based position in the executed notebook of the cell it stopped at."
    parameters: dict[str, Any] = field(default_factory=dict)
    "As injected."
    started: str = ""
    "ISO time, UTC."
    seconds: float = 0.0
    "Wall-clock time of the execution."
    identity: str = ""
    "Hash of notebook source, parameters, library source and data of the runs."
    versions: dict[str, str] = field(default_factory=dict)
    "Of Python and the packages that matter."
    skipped: bool = False
    "True if an earlier execution with the same identity was kept; not stored."


def new_status(job: NotebookJob, **values: Any) -> JobStatus:
    """Return the status of a job with the given values set."""
    return JobStatus(
        name=job.name, notebook=str(job.notebook), parameters=dict(job.parameters), **values
    )


def read_status(folder: Path) -> JobStatus | None:
    """Read what became of one notebook, as untrusted data.

    Args:
        folder: ``out/<notebook>``.

    Returns:
        The status, ``interrupted`` if it says running but its process is gone; None if there is none.
    """
    try:
        data = read_json(Path(folder) / "status.json")
    except (FileNotFoundError, NotADirectoryError, DamagedFile):
        return None
    try:
        if data["schema_version"] != STATUS_VERSION or data["state"] not in STATES:
            return None
        cell = data["cell"]
        status = JobStatus(
            name=Path(folder).name,
            notebook=str(data["notebook"]),
            state=str(data["state"]),
            error=None if data["error"] is None else str(data["error"]),
            cell=cell if isinstance(cell, int) else None,
            parameters=dict(data["parameters"]),
            started=str(data["started"]),
            seconds=float(data["seconds"]),
            identity=str(data["identity"]),
            versions={str(key): str(value) for key, value in dict(data["versions"]).items()},
        )
    except (KeyError, TypeError, ValueError):
        return None
    owner = data.get("host"), data.get("pid"), data.get("pid_started")
    if status.state == "running" and is_gone(*owner):
        return replace(status, state="interrupted", error="the process that executed it is gone")
    return status


@functools.lru_cache(maxsize=1)
def _library_hash() -> str:
    """Hash this package's own source, which is what a version number fails to do while it is worked on."""
    digest = hashlib.sha256()
    root = Path(__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\0".encode())
        digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()


def _data_hash(run_dir: Path) -> str:
    """Hash what a notebook can read of a run; checkpoints, set-aside rows and heartbeats are left out."""
    digest = hashlib.sha256()
    for place, folders, files in os.walk(run_dir):
        folders[:] = sorted(
            name for name in folders if name != "checkpoints" and not name.startswith("superseded")
        )
        for name in sorted(files):
            path = Path(place) / name
            if name.startswith(".") or name == "lock" or path.is_symlink() or not path.is_file():
                continue
            digest.update(f"\0{path.relative_to(run_dir)}\0".encode(errors="surrogateescape"))
            if name == "status.json":
                with contextlib.suppress(FileNotFoundError, DamagedFile):
                    status = read_json(path)
                    digest.update(repr((status.get("state"), status.get("step"))).encode())
                continue
            with contextlib.suppress(OSError), path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def identity(job: NotebookJob) -> str:
    """Return a hash of all that decides what a notebook shows, 32 hexadecimal digits."""
    runs = job.parameters.get("runs", [])
    parts = {
        "notebook": hashlib.sha256(job.notebook.read_bytes()).hexdigest(),
        "parameters": job.parameters,
        "library": _library_hash(),
        "data": [_data_hash(Path(run)) for run in runs] if isinstance(runs, list) else [],
    }
    text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that shape a figure or an execution."""
    found = {"python": platform.python_version()}
    for package in _RECORDED:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def kept(job: NotebookJob, out: Path) -> JobStatus | None:
    """Return the earlier status of a job that succeeded on the same inputs, or None."""
    folder = out / job.name
    status = read_status(folder)
    if status is None or status.state != "succeeded" or not (folder / "notebook.ipynb").is_file():
        return None
    return replace(status, skipped=True) if status.identity == identity(job) else None
