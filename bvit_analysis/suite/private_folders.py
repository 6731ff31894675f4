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
        import fcntl  # POSIX only, as all executions are; reading results is not

        hidden = Path(tempfile.mkdtemp(prefix=f".{_PREFIX}", dir=_place()))
        # Locked under another name first: whoever finds the final name finds the lock held.
        self._lock = (hidden / _LOCK).open("wb")
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self.path = hidden.rename(hidden.with_name(hidden.name[1:]))

    def remove(self) -> None:
        """Remove the folder and all in it."""
        shutil.rmtree(_hidden(self.path), ignore_errors=True)
        self._lock.close()


def remove_abandoned() -> int:
    """Remove this user's folders whose processes are gone, and return how many they were."""
    found = [path for start in ("", ".") for path in _place().glob(f"{start}{_PREFIX}*")]
    return sum(map(_remove_if_abandoned, found))


def _remove_if_abandoned(path: Path) -> bool:
    import fcntl

    try:
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            return False
        create = 0
        if path.name.startswith(
            "."
        ):  # it is just being made or removed, unless that has taken long
            if time.time() - found.st_mtime < _MOMENT_S:
                return False
            create = os.O_CREAT  # who made or removed it may have been killed while it had no lock
        with os.fdopen(os.open(path / _LOCK, os.O_RDWR | os.O_NOFOLLOW | create), "r+b") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
