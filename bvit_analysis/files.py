"""Files of a run: written whole or not at all, and read without trusting what is found."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import math
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bvit_analysis.errors import BvitError, RunError

MAX_JSON_BYTES = 16 * 2**20
MAX_JSON_DEPTH = 64
"Levels of objects and lists in one another that are read; what walks through them may recurse."


class RunWarning(UserWarning):
    """A part of a run folder was left out; the text names the file and the reason."""


class DamagedFile(Exception):
    """A file of a run cannot be trusted; the text is the reason, without the path."""


def plain(value: Any) -> Any:
    """Return a value as JSON-ready data; a non-finite number becomes None, since JSON has no NaN."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, Iterable):
        return [plain(item) for item in value]
    return str(value)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable, where the system can."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_synced(path: Path, data: bytes | memoryview) -> None:
    """Create a file with these bytes and make them durable."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        rest = memoryview(data)
        while len(rest):
            rest = rest[os.write(handle, rest) :]
        os.fsync(handle)
    finally:
        os.close(handle)


def write_fault(
    path: Path, need: int, error: OSError, kind: Callable[[str], BvitError] = RunError
) -> BvitError:
    """Return the one-line error of a write that failed, with the room it needs and the room there is."""
    try:
        free: int | str = shutil.disk_usage(path.parent).free
    except OSError:
        free = "an unknown number of"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return kind(
            f"No space left for {path}: need {need} bytes, have {free} in {path.parent}; "
            "free some space and resume, all that was written before is intact"
        )
    reason = error.strerror or str(error) or type(error).__name__
    return kind(
        f"cannot write {path} (need {need} bytes): {reason}; check that it is in a writable folder, "
        "all that was written before is intact"
    )


def write_bytes_atomic(path: Path, data: bytes | memoryview) -> None:
    """Write a file so that a reader or a crash sees all of it or none.

    Raises:
        RunError: If the bytes cannot be stored; what had been there before is intact.
    """
    hidden = path.parent / f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp"
    try:
        write_synced(hidden, data)
        hidden.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        fault = write_fault(path, len(data), error)
        # The first error is the one to report; the next writer cleans what is left.
        with contextlib.suppress(OSError):
            hidden.unlink(missing_ok=True)
        raise fault from error


def write_json_atomic(path: str | Path, obj: Any) -> None:
    """Write data as JSON so that a reader or a crash sees all of it or none.

    Args:
        path: The file to write or replace.
        obj: Mappings, sequences, numbers (NaN and infinity become null), text.

    Raises:
        RunError: If it cannot be stored.
    """
    text = json.dumps(plain(obj), indent=1, ensure_ascii=True, allow_nan=False)
    write_bytes_atomic(Path(path), (text + "\n").encode())


def open_regular(path: Path, limit: int) -> io.BufferedReader:
    """Open a file for reading if it is a regular one of at most so many bytes.

    Raises:
        DamagedFile: If it is a link, pipe, device or folder, is too large or cannot be opened.
        FileNotFoundError: If there is none.
    """
    # Without O_NONBLOCK, opening a pipe that nobody writes to would wait for ever.
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    if path.is_symlink():
        raise DamagedFile("is a symbolic link; expected a regular file")
    try:
        handle = os.open(path, flags | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DamagedFile(f"cannot be opened: {error.strerror}") from error
    found = os.fstat(handle)
    if not stat.S_ISREG(found.st_mode):
        os.close(handle)
        raise DamagedFile("is not a regular file")
    if found.st_size > limit:
        os.close(handle)
        raise DamagedFile(f"is too large: {found.st_size} bytes, at most {limit} are read")
    return os.fdopen(handle, "rb")


def read_json(path: Path, limit: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """Read a JSON object from a regular file of bounded size.

    Raises:
        DamagedFile: If it is none.
        FileNotFoundError: If there is no such file.
    """
    with open_regular(path, limit) as file:
        data = file.read(limit + 1)
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DamagedFile(f"is not valid JSON ({type(error).__name__})") from error
    if not isinstance(value, dict):
        raise DamagedFile(f"holds a JSON {type(value).__name__}; expected an object")
    if _is_deeper(value, MAX_JSON_DEPTH):
        raise DamagedFile(f"is nested deeper than {MAX_JSON_DEPTH} levels")
    return value


def _is_deeper(value: Any, levels: int) -> bool:
    here = [value]
    for _ in range(levels):
        here = [
            inner
            for one in here
            for inner in (one.values() if isinstance(one, dict) else one)
            if isinstance(inner, (dict, list))
        ]
        if not here:
            return False
    return True
