"""Processes: children that never outlive this one, who is alive, and the lock that says who owns a folder.

A child dies with its parent, even if that one is killed outright (on Linux; elsewhere nobody tells it), and is
killed with all its descendants. A lock is a file that is linked into place when it is written, so it never exists
empty, and names its owner, so whoever comes next can see that the owner is gone.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import signal
import socket
import stat
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, final

# Who is alive ------------------------------------------------------------------------------------


def process_start(pid: int) -> int | None:
    """Return when a process began, in ticks since boot, or None where the system does not say."""
    try:
        return int(_facts(pid)[19])
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
    try:
        facts = _facts(pid)
    except OSError:
        return False
    # Who was killed keeps its number until its parent asks, which in many containers nobody ever does.
    if facts[:1] in (["Z"], ["X"]):
        return True
    now = process_start(pid)
    # The same number may by now belong to another process, which then began at another time.
    return isinstance(started, int) and now is not None and now != started


def _facts(pid: int) -> list[str]:
    """Return what Linux says of a process behind its name: state first, start 19 places later."""
    text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    return text.rpartition(")")[2].split()


def cpu_seconds(pid: int) -> float:
    """Return the processor time that a process and its descendants have used, seconds; 0 if it is gone."""
    import psutil  # type: ignore[import-untyped]

    used = 0.0
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        for member in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                times = member.cpu_times()
                used += times.user + times.system
    return used


# Children ----------------------------------------------------------------------------------------

# Small, since each child begins with it; what it asks of the system outlives the exec. A parent that was
# killed before the question is seen by its number. Python's ignored signals are not for other programs.
_BOUND = (
    "import os, signal, sys\n"
    "if sys.platform == 'linux':\n"
    "    import ctypes\n"
    "    ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)  # PR_SET_PDEATHSIG, SIGKILL\n"
    "if os.getppid() != int(os.environ.get(sys.argv[1], sys.argv[1])):\n"
    "    sys.exit('the parent process is gone')\n"
    "for name in ('SIGPIPE', 'SIGXFSZ'):\n"
    "    signal.signal(getattr(signal, name), signal.SIG_DFL)\n"
    "os.execvp(sys.argv[2], sys.argv[2:])"
)


def bound(command: Sequence[str], parent: int | str) -> list[str]:
    """Return a command that dies when the process that started it dies, whatever killed it.

    Args:
        command: Program and arguments.
        parent: Number of the process that will start it, or the environment variable that has the number.
    """
    return [sys.executable, "-I", "-S", "-c", _BOUND, str(parent), *command]


@final
class Child:
    """A child process that dies with this one and is killed with all its descendants.

    It gets a session of its own: Ctrl-C is for the parent, which decides what becomes of its children. The thread
    that starts it has to live as long as the child may.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        output: int | IO[bytes] = subprocess.DEVNULL,
        errors: int | IO[bytes] = subprocess.STDOUT,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
        words: bytes = b"",
    ) -> None:
        """Start it.

        Args:
            command: Program and arguments.
            output: Takes what it writes to its standard output.
            errors: Takes what it writes to its standard error; by default the same.
            environment: Its variables; by default those of this process. A Python child finds this package.
            folder: Where it works; by default here.
            words: Its standard input.

        Raises:
            OSError: If no process can be started.
        """
        variables = dict(os.environ if environment is None else environment)
        package = str(Path(__file__).resolve().parents[1])
        places = [package, variables.get("PYTHONPATH")]
        variables["PYTHONPATH"] = os.pathsep.join(filter(None, places))
        self._process = subprocess.Popen(
            bound(command, os.getpid()),
            stdin=subprocess.PIPE if words else subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            env=variables,
            cwd=folder,
            start_new_session=True,
        )
        self.pid = self._process.pid
        if words:
            assert self._process.stdin is not None
            with contextlib.suppress(BrokenPipeError), self._process.stdin as pipe:
                pipe.write(words)  # a child that has ended says so by its exit code

    def poll(self) -> int | None:
        """Return its exit code, negative for a signal, or None while it runs."""
        return self._process.poll()

    def wait(self, seconds: float | None = None) -> int | None:
        """Wait until it has ended, at most so long; return its exit code, or None if it runs still."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def ask_to_stop(self) -> None:
        """Send it SIGTERM, which a training answers with a checkpoint."""
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()

    def kill(self) -> None:
        """Kill it with all its descendants and wait until they are gone."""
        import psutil

        family = _stopped_family(self.pid) if self.poll() is None else []
        for member in family:
            with contextlib.suppress(psutil.Error):
                member.kill()
        # A descendant whose own parent is gone is still in the session, unless it left that as well.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        psutil.wait_procs(family, timeout=5)


def _stopped_family(pid: int) -> list[Any]:
    """Return a process and all its descendants, each stopped, so that none starts another meanwhile."""
    import psutil

    family: list[Any] = []
    with contextlib.suppress(psutil.Error):
        head = psutil.Process(pid)
        fresh = [head]
        while fresh:
            for member in fresh:
                with contextlib.suppress(psutil.Error):
                    member.suspend()
            family += fresh
            fresh = [one for one in head.children(recursive=True) if one not in family]
    return family


# The lock ----------------------------------------------------------------------------------------

UNREADABLE_S = 10.0
"So long a lock may be without a readable owner before it counts as left behind, seconds."
_POLL_S = 0.05
_CONTESTED = 100
_MAX_BYTES = 2**16
_NO_LINKS = (errno.EPERM, errno.EACCES, errno.EINVAL, errno.EMLINK, errno.ENOSYS, errno.EOPNOTSUPP)


class LockHeldError(Exception):
    """A lock has an owner that is not known to be gone."""

    def __init__(self, owner: Mapping[str, Any]) -> None:
        super().__init__("the lock has an owner")
        self.owner = owner
        "As it describes itself: host, pid, pid_started, created; empty if the file cannot be read."

    @property
    def is_own(self) -> bool:
        """Whether the owner is this very process."""
        return self.owner.get("host") == socket.gethostname() and (
            self.owner.get("pid"),
            self.owner.get("pid_started"),
        ) == (os.getpid(), process_start(os.getpid()))


@final
class Lock:
    """A file that says which process owns a folder, from its making to release(), or to the end of the process."""

    def __init__(self, path: Path, is_stale: Callable[[Mapping[str, Any]], bool]) -> None:
        """Take the lock, from an owner that is gone if need be.

        Args:
            path: The file; `.NAME.*.tmp` beside it are names of a moment.
            is_stale: Says of an owner whether it is gone. It gets an empty mapping for a file that holds no owner
                and has not for some seconds: of an earlier release, or of a file system without hard links, where
                the file is made first and written then, and its maker was killed between the two.

        Raises:
            LockHeldError: If there is an owner that is not gone.
            OSError: If the file cannot be written or read.
        """
        self.path = path
        text = json.dumps(_owner()).encode()
        since: float | None = None
        for _ in range(_CONTESTED):
            if _create(path, text):
                self._release = weakref.finalize(self, _give_up, path, text, os.getpid())
                return
            while (found := _content(path)) is not None:
                owner = owner_of(found)
                if not owner:  # perhaps it is just being written
                    since = time.monotonic() if since is None else since
                    if time.monotonic() - since < UNREADABLE_S and not _is_old(path):
                        time.sleep(_POLL_S)
                        continue
                if not is_stale(owner):
                    raise LockHeldError(owner)
                _remove_exactly(path, found)
                break
        raise LockHeldError({})

    def release(self) -> None:
        """Give the folder up if this process still has it; a second call does nothing."""
        self._release()


def read_owner(path: Path) -> Mapping[str, Any] | None:
    """Return the owner that a lock names, empty if it names none, or None if there is no lock."""
    found = _content(path)
    return None if found is None else owner_of(found)


def owner_of(content: bytes) -> Mapping[str, Any]:
    """Return the owner that the content of a lock names; empty if it names none."""
    try:
        owner = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    named = isinstance(owner, dict) and isinstance(owner.get("host"), str) and "pid" in owner
    return owner if named else {}


def _owner() -> dict[str, Any]:
    pid = os.getpid()
    return {
        "host": socket.gethostname(),
        "pid": pid,
        "pid_started": process_start(pid),
        "created": time.time(),
        "token": secrets.token_hex(8),
    }


def _give_up(path: Path, text: bytes, pid: int) -> None:
    # A forked child inherits the object but not the lock.
    if os.getpid() == pid:
        with contextlib.suppress(OSError):
            _remove_exactly(path, text)


def _create(path: Path, text: bytes) -> bool:
    """Make the file with this text at once; return False if there is one, or another try is needed."""
    hidden = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        _write(hidden, text)
        os.link(hidden, path)
        return True
    except FileNotFoundError:
        return False  # whoever had the lock meanwhile has cleaned up
    except FileExistsError:
        # Over a network the answer to a link that was made may be lost, and the link is asked for again.
        with contextlib.suppress(FileNotFoundError):
            return hidden.stat().st_nlink == 2
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS or not hidden.exists():
            raise
    finally:
        hidden.unlink(missing_ok=True)
    with contextlib.suppress(FileExistsError):
        _write(path, text)
        return True
    return False


def _write(path: Path, text: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        rest = memoryview(text)
        while len(rest):
            rest = rest[os.write(handle, rest) :]
        os.fsync(handle)
    except OSError:
        path.unlink()
        raise
    finally:
        os.close(handle)


def _open(path: Path, flags: int) -> int:
    # Without O_NONBLOCK, opening a pipe that nobody writes to would wait for ever.
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))


def _content(path: Path) -> bytes | None:
    """Return the bytes of a lock, none for what is no regular file of its size, or None if there is no lock."""
    try:
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode) or found.st_size > _MAX_BYTES:
            return b""
        handle = _open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        return os.read(handle, _MAX_BYTES)
    finally:
        os.close(handle)


def _is_old(path: Path) -> bool:
    try:
        return time.time() - path.lstat().st_mtime > UNREADABLE_S
    except FileNotFoundError:
        return False


def _remove_exactly(path: Path, content: bytes) -> None:
    """Remove a lock if it is still the file with this content.

    Two processes may find the same lock stale; the second must not remove what the first has put in its place. So
    a file is removed only by who holds the system's lock of that very file, which no kill leaves behind.
    """
    try:
        handle = _open(path, os.O_RDWR if os.access(path, os.W_OK) else os.O_RDONLY)
    except FileNotFoundError:
        return
    except OSError:  # no regular file, so nobody's lock
        path.unlink()
        return
    try:
        with contextlib.suppress(ImportError, OSError):  # where there is none, the question must do
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            there = os.path.samestat(os.fstat(handle), path.lstat())
            if there and _content(path) == content:
                path.unlink()
    finally:
        os.close(handle)
