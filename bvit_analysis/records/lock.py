"""Who writes a run folder: one process at a time, whether it still lives, and what a killed one left there."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from bvit_analysis.errors import RunError
from bvit_analysis.files import DamagedFile, read_json, write_fault
from bvit_analysis.processes import Lock, LockHeldError, is_gone, read_owner
from bvit_analysis.records.format import LOCK

SILENT_AFTER_S = 600.0
"A run without a sign of life for so many seconds is no longer called running."
_LOCK_BYTES = 512


class RunHeldError(RunError):
    """Another process writes the run folder, and is not known to be gone."""


def take_lock(run_dir: Path) -> Lock:
    """Become the one writer of a folder, which is made if it is missing.

    Raises:
        RunHeldError: If another process that may live owns the folder.
        RunError: If this very process owns it already, or the lock cannot be written.
    """
    path = run_dir / LOCK
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_fault(run_dir, 0, error) from error
    try:
        return Lock(path, partial(_is_stale, run_dir))
    except LockHeldError as held:
        if held.is_own:
            raise RunError(
                f"run {run_dir} is being written by process {held.owner['pid']}, which is this very one: a watch or "
                "writer of it is still open here (was a notebook cell run twice?); close it with close() or leave its "
                "`with` block, restart the kernel, or choose another folder"
            ) from None
        raise RunHeldError(
            f"run {run_dir} is being written by process {held.owner.get('pid', '?')} on "
            f"{held.owner.get('host', '?')}; stop it (or close its writer), choose another folder, "
            f"or remove {path} if that process is gone"
        ) from None
    except OSError as error:
        raise write_fault(path, _LOCK_BYTES, error) from error


def writer_of(run_dir: Path) -> Mapping[str, Any] | None:
    """Return the process that owns a folder (host, pid, pid_started, created), or None if none lives."""
    owner = read_owner(run_dir / LOCK)
    return None if owner is None or _is_stale(run_dir, owner) else owner


def leftovers(run_dir: Path) -> list[Path]:
    """Return what a killed writer may have left in a folder: half files, its lock, and what moved such a lock.

    Of a folder that somebody owns they may be somebody's; only the owner may remove them.
    """
    patterns = (".*.tmp", "*/.*.tmp", LOCK, f".{LOCK}.stale-*")
    return [path for pattern in patterns for path in run_dir.glob(pattern)]


def remove_leftovers(run_dir: Path) -> None:
    """Remove what a killed writer left in a folder; only the owner of its lock may."""
    for path in leftovers(run_dir):
        if path.name != LOCK:
            with contextlib.suppress(IsADirectoryError):
                path.unlink(missing_ok=True)


def _is_stale(run_dir: Path, owner: Mapping[str, Any]) -> bool:
    try:
        status = read_json(run_dir / "status.json")
    except (FileNotFoundError, DamagedFile):
        status = {}
    if not owner:
        # A lock that tells nothing: then the status says who wrote last, and whether it had ended.
        if status.get("state") != "running":
            return True
        owner = status
    if is_gone(owner.get("host"), owner.get("pid"), owner.get("pid_started")):
        return True
    if owner.get("host") == socket.gethostname():
        return False
    # Another machine's processes cannot be asked; their last sign of life can.
    signs = [owner.get("created"), status.get("heartbeat")]
    seen = [sign for sign in signs if isinstance(sign, (int, float))]
    return bool(seen) and max(seen) < time.time() - SILENT_AFTER_S
