"""Processes of this machine and others: who began when, and who is gone."""

from __future__ import annotations

import os
import socket
from pathlib import Path


def process_start(pid: int) -> int | None:
    """Return when a process began, in ticks since boot, or None where the system does not say."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
        return int(text.rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None


def is_gone(host: object, pid: object, started: object) -> bool:
    """Return True if that process ran on this machine and certainly runs no more."""
    if host != socket.gethostname() or not isinstance(pid, int) or not 0 < pid < 2**31:
        return False
    if os.name != "posix":
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    now = process_start(pid)
    # The same number may by now belong to another process, which then began at another time.
    return isinstance(started, int) and now is not None and now != started
