"""Processes: children die with their parent, families are killed whole, and a lock survives a kill at any moment."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from bvit_analysis import processes
from bvit_analysis.processes import (
    Child,
    Lock,
    LockHeldError,
    bound,
    cpu_seconds,
    is_gone,
    process_start,
    read_owner,
)
from tests.support.waiting import alive, wait_for

HOST = socket.gethostname()
SLEEPER = [sys.executable, "-S", "-c", "import time; time.sleep(600)"]


# Who is alive -----------------------------------------------------------------------------------------


def test_a_process_is_gone_when_it_has_ended_or_its_number_is_anothers() -> None:
    me, began = os.getpid(), process_start(os.getpid())
    assert began is not None
    assert not is_gone(HOST, me, began)
    assert is_gone(HOST, me, began - 1)
    assert not is_gone(HOST, me, None)
    assert not is_gone("elsewhere", me, began - 1)
    for nonsense in (None, -1, 0, 2**40, "1", 1.5):
        assert not is_gone(HOST, nonsense, began)


def test_the_start_is_what_psutil_finds() -> None:
    ticks = process_start(os.getpid())
    assert ticks is not None
    began = psutil.boot_time() + ticks / os.sysconf("SC_CLK_TCK")
    assert began == pytest.approx(psutil.Process().create_time(), abs=1.0)


def test_who_was_killed_is_gone_before_its_parent_asks() -> None:
    """In a container nobody may ever ask, and the number stays for good."""
    process = subprocess.Popen(SLEEPER)
    began = process_start(process.pid)
    assert not is_gone(HOST, process.pid, began)
    process.kill()
    try:
        wait_for(lambda: psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE)
        assert is_gone(HOST, process.pid, began)
    finally:
        process.wait()
    assert is_gone(HOST, process.pid, began)


@pytest.mark.processes
def test_processor_time_counts_descendants_and_nothing_that_sleeps() -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'while True: pass'])"
    busy, idle = Child([sys.executable, "-c", code]), Child(SLEEPER)
    try:
        wait_for(lambda: cpu_seconds(busy.pid) > 0.5)
        before = cpu_seconds(idle.pid)
        wait_for(lambda: cpu_seconds(busy.pid) > 1.0)
        assert cpu_seconds(idle.pid) - before < 0.2
    finally:
        busy.kill()
        idle.kill()
    assert cpu_seconds(busy.pid) == 0.0


# Children ---------------------------------------------------------------------------------------------


@pytest.mark.processes
def test_a_child_gets_its_words_and_its_end_is_told(tmp_path: Path) -> None:
    code = "import os, sys; print(os.getcwd(), sys.stdin.read(), os.environ['X']); sys.exit(3)"
    with (tmp_path / "log").open("wb") as log:
        child = Child(
            [sys.executable, "-c", code],
            output=log,
            environment={**os.environ, "X": "set"},
            folder=tmp_path,
            words=b"some words",
        )
        assert child.wait() == 3
    assert child.poll() == 3
    assert (tmp_path / "log").read_text() == f"{tmp_path} some words set\n"
    child.ask_to_stop()
    child.kill()  # of one that has ended: nothing happens


@pytest.mark.processes
def test_a_child_finds_this_package_and_takes_signals_as_any_program(tmp_path: Path) -> None:
    code = (
        "import signal, sys; del sys.path[0]; import bvit_analysis\n"
        "print(bvit_analysis.__file__, open('/proc/self/status').read().split('SigIgn:')[1].split()[0])"
    )
    # Whoever started the tests may have ignored some, as make does with one of the system's own.
    inherited = Path("/proc/self/status").read_text().split("SigIgn:")[1].split()[0]
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with (tmp_path / "log").open("wb") as log:
        # -c with -S shows what was ignored at its start only for signals that Python leaves alone
        child = Child([sys.executable, "-c", code], output=log, environment=variables)
        assert child.wait() == 0
    path, ignored = (tmp_path / "log").read_text().split()
    assert Path(path) == Path(processes.__file__).parent / "__init__.py"
    by_python = sum(1 << s - 1 for s in (signal.SIGPIPE, signal.SIGXFSZ))
    assert int(ignored, 16) & ~(by_python | int(inherited, 16)) == 0


def test_a_child_that_is_asked_stops_and_one_that_ends_early_takes_no_words() -> None:
    child = Child(SLEEPER)
    assert child.wait(0.01) is None
    child.ask_to_stop()
    assert child.wait() == -signal.SIGTERM
    assert Child(["false"], words=b"x" * 10**6).wait() == 1


FAMILY = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
sleeper = [sys.executable, '-S', '-c', 'import time; time.sleep(600)']
child = [sys.executable, '-S', '-c', 'import subprocess, sys, time; print(subprocess.Popen('
         'sys.argv[1:], start_new_session=True).pid, flush=True); time.sleep(600)', *sleeper]
one = subprocess.Popen(child, start_new_session=True, stdout=subprocess.PIPE, text=True)
two = int(one.stdout.readline())
orphan = subprocess.run([sys.executable, '-S', '-c', 'import subprocess, sys; print(subprocess.Popen('
                         'sys.argv[1:], stdout=-3, stderr=-3).pid)', *sleeper],
                        capture_output=True, text=True)
open(sys.argv[1] + '.part', 'w').write(f'{os.getpid()} {one.pid} {two} {int(orphan.stdout)}')
os.rename(sys.argv[1] + '.part', sys.argv[1])
time.sleep(600)
"""


@pytest.mark.processes
def test_a_family_is_killed_whole_across_sessions_and_orphans(tmp_path: Path) -> None:
    """A child in a session of its own, its child in another one, and one whose own parent is gone."""
    child = Child([sys.executable, "-c", FAMILY, str(tmp_path / "pids")])
    wait_for((tmp_path / "pids").exists)
    family = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert family[0] == child.pid
    assert all(map(alive, family))
    child.kill()
    assert child.poll() == -signal.SIGKILL
    wait_for(lambda: not any(map(alive, family)))


PARENT = """
import os, signal, sys, threading, time
from bvit_analysis.processes import Child
children = [Child([sys.executable, '-S', '-c', 'import time; time.sleep(600)']) for _ in range(3)]
print(*[child.pid for child in children], flush=True)
if sys.argv[1] == 'kill':
    time.sleep(600)
"""


@pytest.mark.processes
@pytest.mark.parametrize("way", ["kill", "end"])
def test_no_child_outlives_its_parent(way: str) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, way], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    with parent.stdout:
        children = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(children) == 3
    if way == "kill":
        assert all(map(alive, children))
        parent.kill()
    parent.wait()
    wait_for(lambda: not any(map(alive, children)))


@pytest.mark.processes
def test_a_child_whose_parent_is_gone_before_it_can_ask_does_not_begin(tmp_path: Path) -> None:
    command = bound(["touch", str(tmp_path / "begun")], os.getppid())
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (1, "the parent process is gone\n")
    assert not (tmp_path / "begun").exists()
    mine = {**os.environ, "WHO": str(os.getpid())}
    subprocess.run(bound(["touch", str(tmp_path / "begun")], "WHO"), env=mine, check=True)
    assert (tmp_path / "begun").exists()


# The lock ---------------------------------------------------------------------------------------------


def gone(owner: Any) -> bool:
    return not owner or is_gone(owner["host"], owner["pid"], owner["pid_started"])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_lock_names_its_owner_and_goes_with_it(tmp_path: Path) -> None:
    lock = Lock(tmp_path / "lock", gone)
    owner = read_owner(tmp_path / "lock")
    assert owner is not None
    assert (owner["host"], owner["pid"]) == (HOST, os.getpid())
    assert owner["pid_started"] == process_start(os.getpid())
    assert abs(owner["created"] - time.time()) < 600
    assert names(tmp_path) == ["lock"]
    with pytest.raises(LockHeldError) as held:
        Lock(tmp_path / "lock", gone)
    assert held.value.is_own
    assert held.value.owner == owner
    lock.release()
    lock.release()
    assert names(tmp_path) == []
    assert read_owner(tmp_path / "lock") is None
    Lock(tmp_path / "lock", gone)  # not kept, so given up at once
    assert names(tmp_path) == []


def test_a_release_leaves_the_lock_of_another(tmp_path: Path) -> None:
    lock = Lock(tmp_path / "lock", gone)
    (tmp_path / "lock").write_text('{"host": "elsewhere", "pid": 1}')
    lock.release()
    assert read_owner(tmp_path / "lock") == {"host": "elsewhere", "pid": 1}
    with pytest.raises(LockHeldError) as held:
        Lock(tmp_path / "lock", lambda owner: False)
    assert not held.value.is_own


OPERATIONS = ("open", "write", "fsync", "close", "link", "unlink", "lstat", "read")


def run_until(operation: int, path: Path, after: bool) -> int:
    """Take and give up a lock in a forked process that is killed at its n-th file operation; return its signal."""

    def taker() -> None:
        count = 0

        def fatal(function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **keywords: Any) -> Any:
                nonlocal count
                count += 1
                number = count
                if number == operation and not after:
                    os.kill(os.getpid(), signal.SIGKILL)
                try:
                    return function(*arguments, **keywords)
                finally:
                    if number == operation and after:
                        os.kill(os.getpid(), signal.SIGKILL)

            return call

        for name in OPERATIONS:
            setattr(os, name, fatal(getattr(os, name)))
        Lock(path, gone).release()
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=taker)
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


@pytest.mark.processes
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("state", ["free", "stale"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_kill_at_any_step_of_taking_a_lock_blocks_nobody(
    tmp_path: Path, state: str, after: bool
) -> None:
    """Before or after every file operation: the next start succeeds, and the lock is never there without owner."""
    path = tmp_path / "lock"
    dead = {"host": HOST, "pid": os.getpid(), "pid_started": 1, "created": 0.0}
    kills = 0
    for operation in range(1, 100):
        for leftover in tmp_path.iterdir():
            leftover.unlink()
        if state == "stale":
            path.write_text(json.dumps(dead))
        code = run_until(operation, path, after)
        if code == 0:
            break
        assert code == -signal.SIGKILL
        kills += 1
        owner = read_owner(path)
        assert owner is None or owner["host"] == HOST, f"an empty lock after operation {operation}"
        assert all(name == "lock" or name.endswith(".tmp") for name in names(tmp_path))
        lock = Lock(path, gone)
        lock.release()
        assert "lock" not in names(tmp_path)
    assert kills >= (8 if state == "free" else 14)
    assert code == 0


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"", b'{"host": "x', b"[1]", b"{}", b"\xff\x00"])
def test_a_lock_without_an_owner_counts_as_left_behind_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    path = tmp_path / "lock"
    path.write_bytes(content)
    asked: list[Any] = []

    def stale(owner: Any) -> bool:
        asked.append(dict(owner))
        return True

    monkeypatch.setattr(processes, "UNREADABLE_S", 0.3)
    began = time.monotonic()
    lock = Lock(path, stale)
    assert time.monotonic() - began >= 0.3
    assert asked == [{}]
    lock.release()
    # One that is old already needs no watching.
    monkeypatch.setattr(processes, "UNREADABLE_S", 1000.0)
    path.write_bytes(content)
    os.utime(path, (time.time() - 2000, time.time() - 2000))
    Lock(path, stale).release()
    assert names(tmp_path) == []
    # Whoever asked may know better.
    path.write_bytes(content)
    monkeypatch.setattr(processes, "UNREADABLE_S", 0.1)
    with pytest.raises(LockHeldError) as held:
        Lock(path, lambda owner: False)
    assert held.value.owner == {}
    assert path.read_bytes() == content


def test_a_lock_that_is_just_being_written_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lock"
    path.touch()
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            path.write_text(json.dumps({"host": "elsewhere", "pid": 5}))

    monkeypatch.setattr(processes.time, "sleep", sleep)
    with pytest.raises(LockHeldError) as held:
        Lock(path, lambda owner: not owner)
    assert len(waits) == 3
    assert held.value.owner["pid"] == 5


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS])
def test_without_hard_links_the_lock_is_written_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*arguments: Any, **keywords: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    lock = Lock(tmp_path / "lock", gone)
    assert names(tmp_path) == ["lock"]
    assert read_owner(tmp_path / "lock")["pid"] == os.getpid()
    with pytest.raises(LockHeldError):
        Lock(tmp_path / "lock", gone)
    lock.release()
    assert names(tmp_path) == []
    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match=os.strerror(number)):
        Lock(tmp_path / "lock", gone)
    assert names(tmp_path) == []


def test_a_link_whose_answer_was_lost_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def twice(*arguments: Any) -> None:
        link(*arguments)
        link(*arguments)

    monkeypatch.setattr(os, "link", twice)
    Lock(tmp_path / "lock", lambda owner: pytest.fail("it is ours")).release()
    assert names(tmp_path) == []


def test_a_full_disk_is_told_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for name in ("write", "fsync", "link"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, full)
            with pytest.raises(OSError, match="No space"):
                Lock(tmp_path / "lock", gone)
        assert names(tmp_path) == []


def test_what_is_no_file_is_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "UNREADABLE_S", 0.05)
    path, target = tmp_path / "lock", tmp_path / "target"
    target.write_text("precious")
    path.symlink_to(target)
    Lock(path, gone).release()
    os.mkfifo(path)
    Lock(path, gone).release()
    path.write_bytes(b" " * 2**17)
    Lock(path, gone).release()
    assert names(tmp_path) == ["target"]
    assert target.read_text() == "precious"
    path.mkdir()
    with pytest.raises(OSError, match=r"Is a directory|not permitted"):
        Lock(path, gone)
    assert names(tmp_path) == ["lock", "target"]


def test_a_stale_lock_taken_by_another_meanwhile_stays_the_others(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    live = json.dumps({"host": "other", "pid": 5})
    for replace in (path.write_text, lambda text: (path.unlink(), path.write_text(text))):
        path.write_text('{"host": "dead", "pid": 1}')

        def stale(owner: Any, replace: Callable[[str], Any] = replace) -> bool:
            if owner["host"] == "other":
                return False
            replace(live)  # another process was faster
            return True

        with pytest.raises(LockHeldError) as held:
            Lock(path, stale)
        assert held.value.owner["pid"] == 5
        assert path.read_text() == live
        assert names(tmp_path) == ["lock"]


RACER = """
import json, os, sys, time
from pathlib import Path
from bvit_analysis.processes import Lock, LockHeldError, is_gone
folder, taken = Path(sys.argv[1]), 0
def gone(owner):
    return not owner or is_gone(owner['host'], owner['pid'], owner['pid_started'])
while taken < 60:
    try:
        lock = Lock(folder / 'lock', gone)
    except LockHeldError:
        continue
    mine = os.open(folder / 'inside', os.O_CREAT | os.O_EXCL)  # raises if another is inside
    os.unlink(folder / 'inside')
    os.close(mine)
    taken += 1
    if taken % 3 == 0:  # leave it behind, as who was killed would
        lock._release.detach()
        (folder / 'lock').write_text(json.dumps({'host': os.uname().nodename, 'pid': os.getpid(), 'pid_started': 1}))
    else:
        lock.release()
print('done')
"""


@pytest.mark.processes
def test_locks_that_many_find_stale_have_one_owner_at_a_time(tmp_path: Path) -> None:
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    said = [racer.communicate()[0] for racer in racers]
    assert said == ["done\n"] * 4
    assert set(names(tmp_path)) <= {"lock"}
