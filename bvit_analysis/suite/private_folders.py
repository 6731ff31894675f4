"""Short-lived folders for sockets and orders, known to be abandoned when nobody holds their lock.

A process that is killed outright tidies nothing up. The system lifts its locks, though, and by that the
next one knows which folders to remove, whatever process numbers and host names have become since.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
import time
from pathlib import Path
from typing import final

from bvit_analysis.errors import SuiteError

_PREFIX, _LOCK = "bvit-", "owner"
_MOMENT_S = 60.0
_LONGEST = 60  # a socket's name holds about 100 bytes


@final
class PrivateFolder:
    """A folder of this process alone, with a path short enough for the name of a socket in it."""

    def __init__(self) -> None:
        import filelock  # of the extra 'notebooks'; reading results needs none

        hidden = Path(tempfile.mkdtemp(prefix=f".{_PREFIX}", dir=_place()))
        # Locked under another name first: whoever finds the final name finds the lock held.
        self._lock = filelock.FileLock(hidden / _LOCK, thread_local=False)
        self._lock.acquire(blocking=False)
        self.path = hidden.rename(hidden.with_name(hidden.name[1:]))

    def remove(self) -> None:
        """Remove the folder and all in it."""
        shutil.rmtree(_hidden(self.path), ignore_errors=True)
        self._lock.release()


def remove_abandoned() -> int:
    """Remove this user's folders whose processes are gone, and return how many they were."""
    found = [path for start in ("", ".") for path in _place().glob(f"{start}{_PREFIX}*")]
    return sum(map(_remove_if_abandoned, found))


def _remove_if_abandoned(path: Path) -> bool:
    import filelock

    try:
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            return False
        if not path.name.startswith("."):
            if not (path / _LOCK).is_file():
                return False
        elif time.time() - found.st_mtime < _MOMENT_S:
            return False  # it is just being made or removed; a kill in that moment leaves one without a lock
        with filelock.FileLock(path / _LOCK, blocking=False):
            shutil.rmtree(_hidden(path))
    except OSError:  # not one of ours, or its owner lives
        return False
    return True


def _hidden(path: Path) -> Path:
    """Return a folder under a name by which it is known to be ours even when its lock is removed already."""
    if path.name.startswith("."):
        return path
    try:
        return path.rename(path.with_name(f".{path.name}"))
    except OSError:
        return path


def _place() -> Path:
    for place in (tempfile.gettempdir(), "/tmp"):
        with contextlib.suppress(OSError):
            real = str(Path(place).resolve())
            if len(real) <= _LONGEST and os.access(real, os.W_OK):
                return Path(real)
    raise SuiteError(
        "no writable temporary folder with a short path; set TMPDIR to one such as /tmp"
    )
