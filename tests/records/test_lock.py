"""Who writes a run folder: one at a time, told from the dead, and nothing of a killed one stays."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from bvit_analysis import processes
from bvit_analysis.errors import RunError
from bvit_analysis.processes import process_start
from bvit_analysis.records import RunWriter, load_run, write_json_atomic
from bvit_analysis.records.lock import (
    RunHeldError,
    leftovers,
    remove_leftovers,
    take_lock,
    writer_of,
)
from tests.support.waiting import wait_for

HOST = socket.gethostname()


def put_scalars(writer: RunWriter, start: int, stop: int) -> None:
    for step in range(start, stop):
        writer.append("scalars", {"step": step, "loss": 1.0 / step, "lr": 0.1})


def set_status(path: Path, **values: Any) -> None:
    write_json_atomic(path / "status.json", {**load_run(path).status, **values})


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "r"
    writer = RunWriter(path, info={})
    owner = writer_of(path)
    assert owner is not None
    assert owner["pid"] == os.getpid()
    with pytest.raises(RunError, match=f"written by process {os.getpid()}"):
        RunWriter(path, info={}, resume_step=0)
    del writer  # as when a notebook's cell gives its name to something else
    assert writer_of(path) is None
    RunWriter(path, info={}, resume_step=0).close()
    assert leftovers(path) == []


def test_ones_own_process_is_not_to_be_stopped(tmp_path: Path) -> None:
    """A notebook cell run twice: the owner is the kernel itself, and the text says how to go on."""
    path = tmp_path / "r"
    writer = RunWriter(path, info={})
    with pytest.raises(RunError, match="this very one.*cell run twice.*close") as caught:
        RunWriter(path, info={}, resume_step=0)
    assert not isinstance(caught.value, RunHeldError)
    assert "stop it" not in str(caught.value)
    assert "\n" not in str(caught.value)
    writer.close()
    # Another number, or the same one of another time, is another process.
    for other in ({"pid": os.getppid()}, {"pid_started": 1}):
        owner = {"host": HOST, "pid": os.getpid(), "pid_started": process_start(os.getpid())}
        owner |= {"created": time.time(), **other}
        if "pid" in other:
            owner["pid_started"] = process_start(os.getppid())
        (path / "lock").write_text(json.dumps(owner))
        if "pid" in other:
            with pytest.raises(RunHeldError, match=f"process {os.getppid()} on {HOST}; stop it"):
                RunWriter(path, info={}, resume_step=0)
        else:
            RunWriter(path, info={}, resume_step=0).close()


@pytest.mark.parametrize("lock", [True, False], ids=["readable", "empty"])
@pytest.mark.parametrize(
    ("host", "age", "free"), [("elsewhere", 0, False), ("elsewhere", 700, True)]
)
def test_a_writer_on_another_machine_lives_by_its_heartbeat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lock: bool, host: str, age: float, free: bool
) -> None:
    """Where the lock tells nothing, the status says who wrote last."""
    monkeypatch.setattr(processes, "UNREADABLE_S", 0.1)
    path = tmp_path / "r"
    RunWriter(path, info={}).close()
    (path / "lock").write_text(json.dumps({"host": host, "pid": 1}) if lock else "")
    set_status(path, state="running", host=host, pid=1, heartbeat=time.time() - age)
    if free:
        assert writer_of(path) is None
        RunWriter(path, info={}, resume_step=0).close()
    else:
        assert writer_of(path) is not None
        with pytest.raises(RunHeldError, match=r"is being written by.*remove .*lock if"):
            RunWriter(path, info={}, resume_step=0)


def test_a_lock_just_taken_elsewhere_counts_whatever_an_old_status_says(tmp_path: Path) -> None:
    path = tmp_path / "r"
    RunWriter(path, info={}).close()
    set_status(path, heartbeat=time.time() - 10_000)
    owner = {"host": "elsewhere", "pid": 1, "created": time.time()}
    (path / "lock").write_text(json.dumps(owner))
    with pytest.raises(RunHeldError):
        RunWriter(path, info={}, resume_step=0)
    for nonsense in (None, "now", 10**400):
        (path / "lock").write_text(json.dumps({**owner, "created": nonsense}))
        if nonsense == 10**400:
            with pytest.raises(RunHeldError):
                RunWriter(path, info={}, resume_step=0)
        else:
            RunWriter(path, info={}, resume_step=0).close()
            set_status(path, heartbeat=time.time() - 10_000)


@pytest.mark.parametrize("content", ["", '{"host": "', "{}"])
@pytest.mark.parametrize("state", ["running", "interrupted", "none"])
def test_a_half_lock_of_an_earlier_release_blocks_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, state: str
) -> None:
    monkeypatch.setattr(processes, "UNREADABLE_S", 0.1)
    path = tmp_path / "r"
    RunWriter(path, info={}).close()
    if state == "none":
        (path / "status.json").unlink()
    else:  # its process is gone
        set_status(path, state=state, pid_started=1)
    (path / "lock").write_text(content)
    RunWriter(path, info={}, resume_step=0).close()
    assert leftovers(path) == []


def test_a_half_lock_of_a_writer_that_lives_is_respected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "UNREADABLE_S", 0.1)
    path = tmp_path / "r"
    writer = RunWriter(path, info={})
    (path / "lock").write_text("")
    with pytest.raises(RunHeldError):
        RunWriter(path, info={}, resume_step=0)
    writer.close()
    RunWriter(path, info={}, resume_step=0).close()


def test_leftovers_are_named_and_removed_but_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "r"
    RunWriter(path, info={}).close()
    before = sorted(path.rglob("*"))
    assert leftovers(path) == []
    names = (".status.json.1-ab.tmp", "scalars/.part-000000.parquet.1-ab.tmp", ".lock.1-ab.tmp")
    names += ("counts/.x.npz.1-ab.tmp", ".lock.stale-0011")
    for name in names:
        (path / name).write_text("half")
    lock = take_lock(path)
    assert {str(one.relative_to(path)) for one in leftovers(path)} == {*names, "lock"}
    remove_leftovers(path)
    assert leftovers(path) == [path / "lock"]
    lock.release()
    assert sorted(path.rglob("*")) == before
    assert leftovers(tmp_path / "missing") == []


def test_an_unwritable_folder_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "UNREADABLE_S", 0.1)
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot write"):
        take_lock(tmp_path / "file" / "r")
    (tmp_path / "r" / "lock").mkdir(parents=True)
    with pytest.raises(RunError, match=r"cannot write .*lock"):
        RunWriter(tmp_path / "r", info={})


# Kills --------------------------------------------------------------------------------------------------

OPERATIONS = ("open", "write", "fsync", "link", "unlink", "rename", "replace", "mkdir", "lstat")


def killed_at(operation: int, work: Callable[[], None]) -> bool:
    """Do some work in a forked process that is killed at its n-th file operation; return whether it came to that."""

    def doomed() -> None:
        count = 0

        def fatal(function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **keywords: Any) -> Any:
                nonlocal count
                count += 1
                if count == operation:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*arguments, **keywords)

            return call

        for name in OPERATIONS:
            setattr(os, name, fatal(getattr(os, name)))
        work()
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=doomed)
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def write_all(path: Path) -> None:
    """Begin a run or go on with it, and finish it."""
    started = (path / "run.json").exists()
    with RunWriter(path, info={}, resume_step=0 if started else None) as writer:
        put_scalars(writer, 1, 11)
        writer.seal()
        put_scalars(writer, 11, 21)


@pytest.mark.processes
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_kill_at_any_file_operation_of_a_whole_run_is_made_good(tmp_path: Path) -> None:
    """From the making of the folder to the lock's end; the next start finishes and leaves nothing."""
    seed = random.SystemRandom().randrange(10**6)
    chance = random.Random(seed)
    total = 1
    while killed_at(total, partial(write_all, tmp_path / f"r{total}")):
        total += 20
    moments = sorted({*range(1, 26), *chance.sample(range(26, total), min(25, total - 26))})
    kills = 0
    for moment in moments:
        path = tmp_path / f"k{moment}"
        if not killed_at(moment, partial(write_all, path)):
            continue
        kills += 1
        if chance.random() < 0.5:
            killed_at(chance.randrange(1, total), partial(write_all, path))
        write_all(path)
        assert load_run(path).scalars["step"].tolist() == list(range(1, 21)), (moment, seed)
        assert load_run(path).state == "finished"
        assert leftovers(path) == [], (moment, seed)
    assert kills > 30


@pytest.mark.processes
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_run_called_finished_has_every_row(tmp_path: Path) -> None:
    """Killed at any file operation, a run that says finished is complete."""
    said = 0
    for moment in range(1, 400, 3):
        path = tmp_path / f"k{moment}"
        killed = killed_at(moment, partial(write_all, path))
        status = path / "status.json"
        if status.exists() and json.loads(status.read_text())["state"] == "finished":
            said += 1
            assert load_run(path).scalars["step"].tolist() == list(range(1, 21)), moment
        if not killed:
            break
    assert said > 2


WRITER = """
import sys, time
from bvit_analysis.records import RunWriter
writer = RunWriter(sys.argv[1], info={})
print('open', flush=True)
time.sleep(600)
"""


@pytest.mark.processes
def test_the_lock_of_a_killed_process_is_taken_over_before_anyone_asked_for_it(
    tmp_path: Path,
) -> None:
    """A zombie still has its number; that it is dead is known all the same."""
    path = tmp_path / "r"
    child = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    with child.stdout:
        assert child.stdout.readline() == "open\n"
        with pytest.raises(RunHeldError, match=f"written by process {child.pid} on {HOST}"):
            RunWriter(path, info={}, resume_step=0)
        child.kill()
        # Its files are closed a moment before it is dead; nobody asks for its exit code.
        wait_for(lambda: psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE)
    try:
        RunWriter(path, info={}, resume_step=0).close()
        assert leftovers(path) == []
    finally:
        assert child.wait() == -signal.SIGKILL
