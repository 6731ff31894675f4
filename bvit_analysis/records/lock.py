"""Who writes a run folder: one process at a time, and whether it still lives."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bvit_analysis.errors import RunError
from bvit_analysis.files import DamagedFile, read_json, write_fault, write_synced
from bvit_analysis.processes import is_gone, process_start

SILENT_AFTER_S = 600.0
"A run without a sign of life for so many seconds is no longer called running."


def _lock_text() -> str:
    pid = os.getpid()
    return json.dumps(
        {
            "host": socket.gethostname(),
            "pid": pid,
            "pid_started": process_start(pid),
            "created": time.time(),
            "token": secrets.token_hex(8),
        }
    )


def release_lock(lock: Path, text: str, pid: int) -> None:
    """Give a folder up if this process took it and still has it."""
    # A forked child inherits the writer but not the lock.
    try:
        if os.getpid() == pid and lock.read_text(encoding="utf-8") == text:
            lock.unlink()
    except (OSError, ValueError):
        pass


def _is_stale(run_dir: Path, owner: Mapping[str, Any]) -> bool:
    if is_gone(owner.get("host"), owner.get("pid"), owner.get("pid_started")):
        return True
    if owner.get("host") == socket.gethostname():
        return False
    # Another machine's processes cannot be asked; its heartbeat can.
    try:
        heartbeat = read_json(run_dir / "status.json").get("heartbeat")
    except (FileNotFoundError, DamagedFile):
        heartbeat = owner.get("created")
    return isinstance(heartbeat, (int, float)) and time.time() - heartbeat > SILENT_AFTER_S


def take_lock(run_dir: Path) -> tuple[Path, str]:
    """Become the one writer of a folder.

    Returns:
        The lock file and the text in it, as release_lock wants them.

    Raises:
        RunError: If a live process owns the folder, or the lock cannot be written.
    """
    lock, text = run_dir / "lock", _lock_text()
    for _ in range(3):
        try:
            write_synced(lock, text.encode())
            return lock, text
        except FileExistsError:
            pass
        except OSError as error:
            fault = write_fault(lock, len(text), error)
            with contextlib.suppress(OSError):
                lock.unlink(missing_ok=True)
            raise fault from error
        try:
            found = lock.read_text(encoding="utf-8")
            owner = read_json(lock, limit=2**16)
        except FileNotFoundError:
            continue
        except (OSError, ValueError, DamagedFile) as error:
            owner, found = {}, ""
            if not isinstance(error, DamagedFile):
                raise RunError(
                    f"cannot read {lock}: {error}; remove it if no run uses it"
                ) from error
        if not _is_stale(run_dir, owner):
            raise RunError(
                f"run {run_dir} is being written by process {owner.get('pid', '?')} on "
                f"{owner.get('host', '?')}; stop it (or close its writer), choose another folder, "
                f"or remove {lock} if that process is gone"
            )
        aside = run_dir / f".lock.stale-{secrets.token_hex(4)}"
        try:
            lock.rename(aside)
            if aside.read_text(encoding="utf-8") != found:
                os.link(aside, lock)  # somebody was faster, and what was moved is a live lock
            aside.unlink()
        except OSError:
            continue
    raise RunError(f"could not take {lock}: others keep taking it; try again in a moment")
