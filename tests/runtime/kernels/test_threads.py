"""Threads that run programs: helpers come and go, and no result depends on them."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from numpy import ndarray

from bvit_analysis.runtime.kernels import products as kernels
from bvit_analysis.runtime.kernels import programs, threads
from bvit_analysis.runtime.kernels.compilation import machine_code
from bvit_analysis.runtime.kernels.memory import (
    address,
)
from bvit_analysis.runtime.kernels.operations import MAIL, Input, Status
from bvit_analysis.runtime.kernels.programs import Program, constant
from tests.support.bits import (
    PACKAGE,
    compiled,
    draw,
    layer,
    same,
    transposed,
)
from tests.support.fresh_process import in_process

pytestmark = pytest.mark.skipif(kernels.available() != "numba", reason="programs need numba")


@pytest.fixture(autouse=True)
def _threads_for_any_work(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(programs, "_WORTH_HELP", 0)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def sign_program(x: ndarray, out: ndarray, number: int, times: int = 1) -> Program:
    program = Program(number)
    add = program.keep(constant(x.shape[1], -0.0))
    source = Input(address(x), x.shape[1], x.shape[1], add, len(x), address(out))
    for _ in range(times):
        program.sign(source, len(x), "sign")
    return program


@pytest.mark.slow
def test_helpers_take_pieces() -> None:
    x, out = draw(1, 4000, 640), np.zeros((4000, 10), np.uint64)
    program = sign_program(x, out, 2, times=40)
    table = program.table()
    wanted = kernels.sign_pack(x, backend="numpy")
    helped = False
    for _ in range(50):
        state = threads.new_state(len(table), 2)
        out[:] = 0
        assert threads.run(table, state, 0) == len(table)
        np.testing.assert_array_equal(out, wanted)
        assert (state["done"].sum(axis=1) == table["cut"]["pieces"]).all()
        # who finds a share taken has counted one more: both threads have asked for pieces of a share
        helped = helped or bool((state["taken"] == state["done"] + 2).any())
    assert helped


@pytest.mark.parametrize("own", [0, 1, 2])
def test_one_thread_takes_all_shares(own: int) -> None:
    x, out = draw(1, 500, 64), np.zeros((500, 1), np.uint64)
    table = sign_program(x, out, 3).table()
    state, mail = threads.new_state(1, 3), np.zeros(1, MAIL)
    assert machine_code("post")(mail, table, state, 0, own) == Status.IDLE
    # serves what is posted, looks ten times, and sleeps
    assert machine_code("work")(mail, 10) == 1
    assert mail["status"] == Status.ASLEEP
    np.testing.assert_array_equal(out, kernels.sign_pack(x, backend="numpy"))
    assert state["done"].sum() == table["cut"]["pieces"][0] > 3


def test_a_helper_sleeps_and_wakes() -> None:
    x, out = draw(1, 400, 64), np.zeros((400, 1), np.uint64)
    program = sign_program(x, out, 2)
    wanted = kernels.sign_pack(x, backend="numpy")
    for _ in range(3):
        out[:] = 0
        program.run()
        np.testing.assert_array_equal(out, wanted)
        helper = threads._team.helpers[0]
        limit = time.monotonic() + 20
        while helper.mail["status"] != Status.ASLEEP:
            assert time.monotonic() < limit
            time.sleep(0.01)


def test_a_helper_that_is_still_busy_is_not_waited_for() -> None:
    x, out = draw(1, 400, 64), np.zeros((400, 1), np.uint64)
    sign_program(x, out, 2).run()
    helper = threads._team.helpers[0]
    limit = time.monotonic() + 20
    while helper.mail["status"] != Status.ASLEEP:
        assert time.monotonic() < limit
        time.sleep(0.01)
    kept = helper.kept
    helper.mail["status"] = Status.POSTED  # as if it had not come back
    try:
        out[:] = 0
        sign_program(x, out, 2).run()
        np.testing.assert_array_equal(out, kernels.sign_pack(x, backend="numpy"))
        assert helper.kept is kept  # what it reads is not let go
    finally:
        helper.mail["status"] = Status.ASLEEP


def test_a_second_caller_runs_alone() -> None:
    x, out = draw(1, 400, 64), np.zeros((400, 1), np.uint64)
    with threads._team.lock:
        sign_program(x, out, 2).run()
    np.testing.assert_array_equal(out, kernels.sign_pack(x, backend="numpy"))


def test_an_interruption_lets_no_memory_go_before_helpers_are_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, out = draw(1, 4000, 640), np.zeros((4000, 10), np.uint64)
    table = sign_program(x, out, 2, times=20).table()
    state = threads.new_state(len(table), 2)
    post = threads._team.post

    def interrupted(*given: object) -> None:
        post(*given)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(threads._team, "post", interrupted)
    with pytest.raises(KeyboardInterrupt):
        threads.run(table, state, 0)
    assert (state["done"].sum(axis=1) == table["cut"]["pieces"]).all()
    np.testing.assert_array_equal(out, kernels.sign_pack(x, backend="numpy"))
    assert threads._team.lock.acquire(blocking=False)
    threads._team.lock.release()


def test_torchs_threads_are_lent_and_given_back() -> None:
    torch.set_num_threads(3)
    with threads.lent_threads():
        assert threads.thread_count() == 3
        if threads._openmp():
            assert torch.get_num_threads() == 1
        with threads.lent_threads():
            assert threads.thread_count() == 3
        assert threads.thread_count() == 3
        found: list[int] = []
        other = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
        other.start()
        other.join()
        assert found == [3]  # what another thread has is its own
    assert torch.get_num_threads() == threads.thread_count() == 3
    with pytest.raises(KeyError), threads.lent_threads():
        raise KeyError
    assert torch.get_num_threads() == 3


def test_a_late_helper_finds_nothing_to_do() -> None:
    x, out = draw(1, 40, 64), np.zeros((40, 1), np.uint64)
    table = sign_program(x, out, 2).table()
    state = threads.new_state(1, 1)
    threads.run(table, state, 0)
    out[:] = 7
    mail = np.zeros(1, MAIL)
    machine_code("post")(mail, table, state, 0, 0)
    assert machine_code("work")(mail, 0) == 1
    assert (out == 7).all()


def test_little_work_is_done_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    shares: list[int] = []
    run = threads.run
    monkeypatch.setattr(
        threads,
        "run",
        lambda rows, state, first: shares.append(state.shape[1]) or run(rows, state, first),
    )
    x, out = draw(1, 400, 64), np.zeros((400, 1), np.uint64)
    sign_program(x, out, 2).run()
    sign_program(x, out, 2, times=1000).run()
    assert shares == [1, 2]


def test_threads_are_as_many_as_torchs() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert threads.thread_count() == 3
    finally:
        torch.set_num_threads(before)


@compiled
def test_two_python_threads_may_call_at_once() -> None:
    x, weight, scale = draw(1, 800, 384), draw(2, 384, 384), draw(3, 384)
    words = transposed(weight)
    packed = [kernels.sign_pack(x, heads=6)] * 3
    options = {"tokens": 100, "head_dim": 64, "score_scale": scale[:6], "value_scale": scale[:6]}
    product = layer(x, weight, scale, None, x)
    context = kernels.attention(*packed, level=None, backend="numpy", **options)
    wrong: list[str] = []

    def work() -> None:
        for _ in range(15):
            a = kernels.sign_pack(x)
            if not same(kernels.linear(a, words, 384, scale, None, x), product):
                wrong.append("linear")
            if not same(kernels.attention(*packed, level=None, **options), context):
                wrong.append("attention")

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        workers = [threading.Thread(target=work) for _ in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    finally:
        torch.set_num_threads(before)
    assert wrong == []


@compiled
def test_kernels_release_the_gil() -> None:
    rows, words = 30_000, 24
    a = np.zeros((rows, words), np.uint64)
    weight = np.zeros((words, 512), np.uint64)
    scale = np.ones(512, np.float32)
    kernels.linear(a[:8], weight, 64 * words, scale)  # compiled
    busy = threading.Thread(target=kernels.linear, args=(a, weight, 64 * words, scale))
    busy.start()
    ticks = 0
    while busy.is_alive():
        time.sleep(0)
        ticks += 1
    # with the GIL held this thread would get its turn once or twice, before and after
    assert ticks > 20


@pytest.mark.processes
@compiled
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_has_threads_of_its_own() -> None:
    script = """
import os, warnings
import numpy as np
from bvit_analysis.runtime.kernels import products as kernels
from bvit_analysis.runtime.kernels import programs
from bvit_analysis.runtime.kernels import threads
threads.thread_count, programs._WORTH_HELP = (lambda: 2), 0
x = np.linspace(-1, 1, 4000 * 384, dtype=np.float32).reshape(4000, 384)
def right():
    return (kernels.sign_pack(x) == kernels.sign_pack(x, backend="numpy")).all()
assert right() and len(threads._team.helpers) == 1
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # newer Pythons warn of any fork beside threads
    child = os.fork()
if child == 0:
    os._exit(0 if not threads._team.helpers and right() and len(threads._team.helpers) == 1 else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert in_process(PACKAGE.parent, script) == "0"
