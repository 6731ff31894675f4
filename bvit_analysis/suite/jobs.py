"""What is to be executed, what became of it, and whether that still holds for the same inputs."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import stat
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from bvit_analysis.files import DamagedFile, read_json
from bvit_analysis.outputs import FRAMES
from bvit_analysis.processes import is_gone

State = Literal[
    "succeeded",
    "failed",
    "timeout",
    "kernel_died",
    "interrupted",
    "early_exit",
    "worker_lost",
    "running",
]
STATES: tuple[str, ...] = State.__args__  # type: ignore[attr-defined]
STATUS_VERSION = 1
_MOST_SECONDS = 1e9
_MOST_TEXT = 4000
_MOST_HASHED = 2**30
DAMAGED = "its status.json"
"How the error of an execution begins whose status cannot be read."
_RECORDED = ("bvit_analysis", "papermill", "nbclient", "ipykernel", "numpy", "pandas", "matplotlib")


@dataclass(frozen=True, kw_only=True)
class NotebookJob:
    """One notebook to execute with checked parameters."""

    notebook: Path
    "Absolute path of the source; never written to."
    parameters: dict[str, object]
    "JSON-ready values, among them the absolute run folders as 'runs'."
    name: str
    "Names the output folder: the notebook's stem, then what sets this execution apart."
    frames: int = FRAMES
    "Pictures that each explorer draws ahead for a page without a kernel."
    left_out: tuple[str, ...] = ()
    "A sentence for each run that was asked for and cannot be read; the others are executed over."
    refused: str | None = None
    "Why it is not executed at all: its one run or its notebook cannot be read."


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
    bytes: int = 0
    "Size of the folder of results at the end."
    frames: int = FRAMES
    "Pictures that each explorer drew ahead."
    identity: str = ""
    "Hash of notebook source, parameters, frames, library source and data of the runs."
    versions: dict[str, str] = field(default_factory=dict)
    "Of Python and the packages that matter."
    left_out: list[str] = field(default_factory=list)
    "A sentence for each run that was asked for and could not be read."
    skipped: bool = False
    "True if an earlier execution with the same identity was kept; not stored."


def new_status(job: NotebookJob, **values: Any) -> JobStatus:
    """Return the status of a job with the given values set."""
    return JobStatus(
        name=job.name,
        notebook=str(job.notebook),
        parameters=dict(job.parameters),
        frames=job.frames,
        left_out=list(job.left_out),
        **values,
    )


def status_from(name: str, data: Mapping[str, Any]) -> JobStatus | None:
    """Return the status that data of a file or of another machine describe, or None if they do not."""
    try:
        if data["schema_version"] != STATUS_VERSION or data["state"] not in STATES:
            return None
        cell = data["cell"]
        seconds, size = float(data["seconds"]), int(data.get("bytes", 0))
        if not (0 <= seconds < _MOST_SECONDS and 0 <= size < 2**60):
            return None
        return JobStatus(
            name=name,
            notebook=str(data["notebook"]),
            state=str(data["state"]),
            error=None if data["error"] is None else str(data["error"])[:_MOST_TEXT],
            cell=cell if isinstance(cell, int) else None,
            parameters=dict(data["parameters"]),
            started=str(data["started"]),
            seconds=seconds,
            bytes=size,
            frames=int(data.get("frames", FRAMES)),
            identity=str(data["identity"]),
            versions={str(key): str(value) for key, value in dict(data["versions"]).items()},
            left_out=[str(text) for text in data.get("left_out", [])],
        )
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


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
    status = status_from(Path(folder).name, data)
    if status is None:
        return None
    owner = data.get("host"), data.get("pid"), data.get("pid_started")
    if status.state == "running" and is_gone(*owner):
        return replace(status, state="interrupted", error="the process that executed it is gone")
    return status


def damaged_status(folder: Path) -> JobStatus | None:
    """Return a failed status that says why the one of an execution's folder cannot be read, or None if there is none.

    Args:
        folder: ``out/<notebook>``.
    """
    try:
        read_json(folder / "status.json")
        why = "does not say what a status says"
    except (FileNotFoundError, NotADirectoryError):
        if not (folder / "notebook.ipynb").is_file():
            return None
        why = "is missing"
    except DamagedFile as error:
        why = str(error)
    return JobStatus(
        name=folder.name,
        notebook=f"{folder.name}.ipynb",
        state="failed",
        error=f"{DAMAGED} {why}; execute it again with `bvit notebooks`",
    )


@functools.lru_cache(maxsize=1)
def library_hash(root: Path = Path(__file__).parents[1]) -> str:
    """Hash a package's whole source, by default this one's: a version number stands still while it is worked on."""
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\0".encode())
        digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()


def _data_hash(run_dir: Path) -> str:
    """Hash what a notebook can read of a run; checkpoints, set-aside rows and heartbeats are left out."""
    from bvit_analysis.records.format import CHECKPOINTS, LOCK, SUPERSEDED  # a child needs none

    digest = hashlib.sha256()
    for place, folders, files in os.walk(run_dir):
        folders[:] = sorted(
            name for name in folders if name != CHECKPOINTS and not name.startswith(SUPERSEDED)
        )
        for name in sorted(files):
            path = Path(place) / name
            if name.startswith(".") or name == LOCK or path.is_symlink() or not path.is_file():
                continue
            digest.update(f"\0{path.relative_to(run_dir)}\0".encode(errors="surrogateescape"))
            if name == "status.json":
                with contextlib.suppress(FileNotFoundError, DamagedFile):
                    status = read_json(path)
                    digest.update(repr((status.get("state"), status.get("step"))).encode())
                continue
            with contextlib.suppress(OSError), path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                if (
                    size > _MOST_HASHED
                ):  # more than any reader takes; a hole may be as large as it likes
                    digest.update(str(size).encode())
                    continue
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def identity(job: NotebookJob, known: MutableMapping[str, str] | None = None) -> str:
    """Return a hash of all that decides what a notebook shows, 32 hexadecimal digits.

    Args:
        job: What is to be executed.
        known: Hashes of runs' data by folder; used and filled, since many jobs may read the same runs.
    """
    hashes = {} if known is None else known
    runs = job.parameters.get("runs", [])
    folders = [str(run) for run in runs] if isinstance(runs, list) else []
    for folder in folders:
        if folder not in hashes:
            hashes[folder] = _data_hash(Path(folder))
    parts = {
        "notebook": hashlib.sha256(job.notebook.read_bytes()).hexdigest(),
        "parameters": job.parameters,
        "frames": job.frames,
        "library": library_hash(),
        "data": [hashes[folder] for folder in folders],
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


def kept(job: NotebookJob, out: Path, current: str | None = None) -> JobStatus | None:
    """Return the earlier status of a job that succeeded on the same inputs, or None.

    Args:
        job: What is to be executed.
        out: Folder that holds the job's folder.
        current: Its identity, if known already.
    """
    folder = out / job.name
    status = None if job.refused else read_status(folder)
    if status is None or status.state != "succeeded" or not (folder / "notebook.ipynb").is_file():
        return None
    same = status.identity == (current or identity(job))
    return replace(status, skipped=True, left_out=list(job.left_out)) if same else None


def folder_bytes(folder: Path) -> int:
    """Return the size of all regular files below a folder, bytes; links are not followed."""
    total = 0
    for place, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(OSError):
                found = (Path(place) / name).lstat()
                total += found.st_size if stat.S_ISREG(found.st_mode) else 0
    return total
