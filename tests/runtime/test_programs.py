"""Programs of operations: each against another form of itself, however many threads take its pieces."""

from __future__ import annotations

import copy
import importlib.util
import pickle
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy import ndarray
from torch import Tensor, nn
from torch.nn import functional

from bvit_analysis.config import RECIPES, ModelConfig, Recipe
from bvit_analysis.layers.shift import TokenMeanShift, token_mean
from bvit_analysis.runtime.kept_programs import KeptPrograms
from bvit_analysis.runtime.kernels import operations as op
from bvit_analysis.runtime.kernels import products as kernels
from bvit_analysis.runtime.kernels import programs, threads
from bvit_analysis.runtime.kernels.compilation import machine_code, norm_lanes
from bvit_analysis.runtime.kernels.programs import (
    Input,
    Program,
    Workspace,
    address,
    constant,
    norm_agrees,
)
from bvit_analysis.runtime.model import PackedModel, load_runtime
from bvit_analysis.runtime.parity import random_weights

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("numba") is None, reason="programs need numba"
)
SMALL = ModelConfig(patch_size=7, embed_dim=48, depth=2, num_heads=2)


@pytest.fixture(autouse=True)
def _threads_for_any_work(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(programs, "_WORTH_HELP", 0)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def draw(seed: int, *shape: int) -> ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def small(recipe: str | Recipe = "binaryvit") -> nn.Module:
    return random_weights(SMALL, recipe, img_size=28, in_chans=1, num_classes=10)


def images(count: int = 3, seed: int = 1) -> Tensor:
    return torch.randn(count, 1, 28, 28, generator=torch.Generator().manual_seed(seed))


def logits(model: nn.Module, batch: Tensor) -> Tensor:
    with torch.no_grad():
        return model(batch)


def layer_by_layer(model: PackedModel, batch: Tensor) -> Tensor:
    """Return the logits when the modules of the blocks run: that is what a hook asks for."""
    seen: list[int] = []
    block = model.get_submodule("skeleton.blocks.0")
    handle = block.register_forward_hook(lambda *_: seen.append(1))
    found = logits(model, batch)
    handle.remove()
    assert seen
    return found


# --- operations -------------------------------------------------------------------------------------------------


def norm(x: ndarray, weight: ndarray, bias: ndarray, eps: float, number: int = 1) -> ndarray:
    out = np.empty_like(x)
    program = Program(number)
    eps_array = np.array([eps], np.float32)
    program.norm(address(x), address(out), len(x), weight, bias, eps_array, "norm")
    program.run()
    return out


@settings(max_examples=40)
@given(
    rows=st.integers(0, 23),
    vectors=st.one_of(st.integers(1, 40), st.sampled_from([64, 128, 256, 300])),
    size=st.sampled_from([1e-6, 1.0, 300.0]),
    seed=st.integers(0, 99),
)
def test_norm_is_torchs_to_the_bit(rows: int, vectors: int, size: float, seed: int) -> None:
    channels = vectors * norm_lanes()
    x = draw(seed, rows, channels) * np.float32(size) + np.float32(size / 3)
    weight, bias = draw(seed + 1, channels), draw(seed + 2, channels)
    tensors = (torch.from_numpy(array) for array in (weight, bias))
    wanted = functional.layer_norm(torch.from_numpy(x), [channels], *tensors, 1e-6).numpy()
    np.testing.assert_array_equal(norm(x, weight, bias, 1e-6), wanted)


def test_norm_is_the_equation() -> None:
    x, weight, bias = draw(1, 9, 96).astype(np.float64) * 3 + 1, draw(2, 96), draw(3, 96)
    mean, variance = x.mean(1, keepdims=True), x.var(1, keepdims=True)
    wanted = (x - mean) / np.sqrt(variance + 1e-5) * weight + bias
    got = norm(x.astype(np.float32), weight, bias, 1e-5)
    np.testing.assert_allclose(got, wanted, rtol=2e-5, atol=2e-6)


def test_norm_carries_what_is_not_finite() -> None:
    x = draw(1, 8, 64)
    x[1, 3], x[2, 0], x[3], x[4] = np.nan, np.inf, 0, 1e38
    weight, bias = np.ones(64, np.float32), np.zeros(64, np.float32)
    wanted = functional.layer_norm(torch.from_numpy(x), [64], eps=1e-6).numpy()
    np.testing.assert_array_equal(norm(x, weight, bias, 1e-6), wanted)


def test_a_norm_that_differs_in_one_bit_is_noticed() -> None:
    weight, bias = draw(1, 64), draw(2, 64)
    tensors = [torch.from_numpy(array) for array in (weight, bias)]

    def torchs(rows: ndarray) -> ndarray:
        return functional.layer_norm(torch.from_numpy(rows), [64], *tensors, 1e-6).numpy()

    def other(rows: ndarray) -> ndarray:
        wrong = torchs(rows)
        wrong[-1, 7] = np.nextafter(wrong[-1, 7], np.float32(1e9))
        return wrong

    assert norm_agrees(torchs, weight, bias, 1e-6)
    assert not norm_agrees(other, weight, bias, 1e-6)
    assert not norm_agrees(torchs, weight[:63], bias[:63], 1e-6)  # no whole number of vectors


@pytest.mark.parametrize(("count", "tokens", "channels"), [(1, 1, 1), (2, 17, 64), (3, 50, 200)])
def test_mean_is_what_the_shift_adds(count: int, tokens: int, channels: int) -> None:
    wide = draw(1, count, tokens, channels + 5) + np.float32(0.2)  # rows may go on
    bias, share, out = draw(2, channels), draw(3, channels), np.empty((count, channels), np.float32)
    program = Program(2)
    sums = np.empty(count * -(-tokens // op.BLOCK) * channels)
    at_sums, at_out = address(sums), address(out)
    program.mean(address(wide), channels + 5, count, tokens, bias, share, at_sums, at_out, "mean")
    program.run()
    x = torch.from_numpy(wide[..., :channels].copy())
    np.testing.assert_array_equal(out, bias - share * token_mean(x).numpy())
    np.testing.assert_allclose(
        out, bias - share * wide[..., :channels].mean(1, dtype=np.float64), rtol=1e-6, atol=1e-7
    )
    shift = TokenMeanShift(channels).eval()
    shift.load_state_dict({"bias": torch.from_numpy(bias), "share": torch.from_numpy(share)})
    with torch.no_grad():
        assert torch.equal(shift(x), x + torch.from_numpy(out)[:, None])
        close = shift.train()(x)  # torch's mean in float32
    torch.testing.assert_close(close, x + torch.from_numpy(out)[:, None], rtol=1e-5, atol=1e-5)


@given(units=st.integers(0, 400), number=st.integers(1, 5), rows=st.integers(1, 2000))
def test_pieces_cover_everything_once(units: int, number: int, rows: int) -> None:
    program = Program(number)
    program.sign(Input(1, rows, rows, 1, 1, 1), units, "sign")
    [line] = program.rows()
    pieces = [
        (p * line[op.EACH], min((p + 1) * line[op.EACH], units)) for p in range(line[op.PIECES])
    ]
    assert [i for first, last in pieces for i in range(first, last)] == list(range(units))
    assert len(pieces) <= 4 * number
    assert all(first < last for first, last in pieces)


# --- threads ----------------------------------------------------------------------------------------------------


def sign_program(x: ndarray, out: ndarray, number: int, times: int = 1) -> Program:
    program = Program(number)
    add = program.keep(constant(x.shape[1], -0.0))
    source = Input(address(x), x.shape[1], x.shape[1], add, len(x), address(out))
    for _ in range(times):
        program.sign(source, len(x), "sign")
    return program


def test_helpers_take_pieces() -> None:
    x, out = draw(1, 4000, 640), np.zeros((4000, 10), np.uint64)
    program = sign_program(x, out, 2, times=40)
    rows = program.rows()
    wanted = kernels.sign_pack(x, backend="numpy")
    helped = False
    for _ in range(50):
        state = threads.new_state(len(rows), 2)
        out[:] = 0
        assert threads.run(rows, state, 0) == len(rows)
        np.testing.assert_array_equal(out, wanted)
        assert (state[:, :, op.DONE].sum(axis=1) == rows[:, op.PIECES]).all()
        # who finds a share taken has counted one more: both threads have asked for pieces of a share
        helped = helped or bool((state[:, :, op.TAKEN] == state[:, :, op.DONE] + 2).any())
    assert helped


@pytest.mark.parametrize("own", [0, 1, 2])
def test_one_thread_takes_all_shares(own: int) -> None:
    x, out = draw(1, 500, 64), np.zeros((500, 1), np.uint64)
    rows = sign_program(x, out, 3).rows()
    state, mail = threads.new_state(1, 3), np.zeros(op.MAIL_FIELDS, np.int64)
    program = (address(rows), len(rows), address(state), 0, own, 3)
    mail[op.MAIL_OPS : op.MAIL_SHARES + 1] = program
    mail[op.MAIL_STATUS] = op.POSTED
    nothing = np.zeros((0, 0), np.int64), np.zeros((0, 0, 0), np.int64)
    machine_code("work")(
        *nothing, 0, mail, 10
    )  # serves what is posted, looks ten times, and sleeps
    assert mail[op.MAIL_STATUS] == op.ASLEEP
    np.testing.assert_array_equal(out, kernels.sign_pack(x, backend="numpy"))
    assert state[0, :, op.DONE].sum() == rows[0, op.PIECES] > 3


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
        while helper.mail[op.MAIL_STATUS] != op.ASLEEP:
            assert time.monotonic() < limit
            time.sleep(0.01)


def test_a_helper_that_is_still_busy_is_not_waited_for() -> None:
    x, out = draw(1, 400, 64), np.zeros((400, 1), np.uint64)
    sign_program(x, out, 2).run()
    helper = threads._team.helpers[0]
    limit = time.monotonic() + 20
    while helper.mail[op.MAIL_STATUS] != op.ASLEEP:
        assert time.monotonic() < limit
        time.sleep(0.01)
    kept = helper.kept
    helper.mail[op.MAIL_STATUS] = op.POSTED  # as if it had not come back
    try:
        out[:] = 0
        sign_program(x, out, 2).run()
        np.testing.assert_array_equal(out, kernels.sign_pack(x, backend="numpy"))
        assert helper.kept is kept  # what it reads is not let go
    finally:
        helper.mail[op.MAIL_STATUS] = op.ASLEEP


def test_a_second_caller_runs_alone() -> None:
    x, out = draw(1, 400, 64), np.zeros((400, 1), np.uint64)
    with threads._team.lock:
        sign_program(x, out, 2).run()
    np.testing.assert_array_equal(out, kernels.sign_pack(x, backend="numpy"))


def test_an_interruption_lets_no_memory_go_before_helpers_are_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, out = draw(1, 4000, 640), np.zeros((4000, 10), np.uint64)
    rows = sign_program(x, out, 2, times=20).rows()
    state = threads.new_state(len(rows), 2)
    post = threads._team.post

    def interrupted(*given: object) -> None:
        post(*given)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(threads._team, "post", interrupted)
    with pytest.raises(KeyboardInterrupt):
        threads.run(rows, state, 0)
    assert (state[:, :, op.DONE].sum(axis=1) == rows[:, op.PIECES]).all()
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
    rows = sign_program(x, out, 2).rows()
    state = threads.new_state(1, 1)
    threads.run(rows, state, 0)
    out[:] = 7
    no_mail = np.zeros(0, np.int64)
    assert machine_code("work")(rows, state, 0, no_mail, 0) == 1
    assert (out == 7).all()


# --- blocks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("recipe", [*RECIPES, "static", "boolean"])
def test_one_program_is_the_modules_one_by_one(recipe: str, number: int) -> None:
    torch.set_num_threads(number)
    extra = {
        "static": Recipe(shift="static"),
        "boolean": Recipe(attention="boolean", shift="token_mean"),
    }
    model = small(extra.get(recipe, recipe))
    runtime = load_runtime(model, backend="numba")
    assert runtime.skeleton.blocks.by_layer is None
    for count in (1, 3, 7):
        batch = images(count)
        got = logits(runtime, batch)
        assert torch.equal(got, logits(model, batch))
        assert torch.equal(got, layer_by_layer(runtime, batch))


def test_what_programs_do_not_have_runs_by_modules() -> None:
    reasons = {
        "bottleneck": (small(Recipe(shift="bottleneck")), "BottleneckShift"),
        "activation": (small(Recipe(rprelu=False)), "GELU"),
        "narrow": (
            random_weights(
                ModelConfig(patch_size=7, embed_dim=36, depth=1, num_heads=2),
                "asm",
                img_size=28,
                in_chans=1,
                num_classes=3,
            ),
            "layer norm",
        ),
    }
    for model, reason in reasons.values():
        runtime = load_runtime(model, backend="numba")
        assert reason in runtime.skeleton.blocks.by_layer
        assert reason in repr(runtime)
        assert torch.equal(logits(runtime, images()), logits(model, images()))
    assert load_runtime(small(), backend="numpy").skeleton.blocks.by_layer == "backend numpy"


def test_rows_near_a_tie_are_settled_inside_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small()
    runtime = load_runtime(model, backend="numba")
    settled: list[int] = []
    settle = kernels.settle
    monkeypatch.setattr(kernels, "tie_margin", lambda *_: 0.5)

    def counted(out: ndarray, near: ndarray, *rest: object) -> None:
        settled.append(int(near.sum()))
        settle(out, near, *rest)

    monkeypatch.setattr(kernels, "settle", counted)
    for number in (1, 2):
        torch.set_num_threads(number)
        settled.clear()
        assert torch.equal(logits(runtime, images(4)), logits(model, images(4)))
        assert len(settled) == 2  # one a block
        assert min(settled) > 0


def test_memory_of_a_program_is_used_again() -> None:
    runtime = load_runtime(small(), backend="numba")
    blocks = runtime.skeleton.blocks
    wanted = logits(runtime, images(2))
    [(_, program)] = blocks._programs._free
    assert torch.equal(logits(runtime, images(2)), wanted)
    assert [kept for _, kept in blocks._programs._free] == [program]
    logits(runtime, images(3))
    logits(runtime, images(4))
    assert len(blocks._programs._free) == 2  # the oldest was let go
    assert torch.equal(logits(runtime, images(2)), wanted)


def test_a_workspace_is_there_during_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    space = Workspace()
    places = [space.take(np.float32, 3), space.take(np.uint64, 20), space.take(np.bool_, 0)]
    assert len(set(places)) == 3
    for kept_bytes in (0, 2**20):
        monkeypatch.setattr(programs, "_KEPT_BYTES", kept_bytes)
        with space.there() as given:
            assert given is not None
            assert (given[1] % 64 == 0).all()
            view = space.view(places[1], np.uint64, 5, 4)
            assert address(view) == given[1][1]
            view[:] = 7
            assert view.flags.writeable
        with space.there() as again:
            assert (again is None) == (kept_bytes > 0)
    small_memory = load_runtime(small(), backend="numba")
    wanted = logits(small_memory, images(3))
    monkeypatch.setattr(programs, "_KEPT_BYTES", 0)
    large_memory = load_runtime(small(), backend="numba")
    for _ in range(3):
        assert torch.equal(logits(small_memory, images(3)), wanted)
        assert torch.equal(logits(large_memory, images(3)), wanted)


def test_programs_follow_their_weights() -> None:
    runtime = load_runtime(small("asm"), backend="numba")
    other = load_runtime(small("asm"), backend="numba")
    generator = torch.Generator().manual_seed(5)
    for parameter in other.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    other.skeleton.blocks.forget()
    before, wanted = logits(runtime, images()), layer_by_layer(other, images())
    assert not torch.equal(before, wanted)
    twins = [copy.deepcopy(runtime), pickle.loads(pickle.dumps(runtime))]
    runtime.load_state_dict(other.state_dict())
    assert torch.equal(logits(runtime, images()), wanted)
    for twin in twins:
        assert torch.equal(logits(twin, images()), before)
        twin.load_state_dict(other.state_dict(), assign=True)
        assert torch.equal(logits(twin, images()), wanted)


def test_a_batch_in_parts_is_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = load_runtime(small(), backend="numba")
    whole = logits(runtime, images(7))
    monkeypatch.setattr("bvit_analysis.runtime.blocks.CHUNK_BYTES", 2 * 4 * 17 * 192)  # two images
    sizes: list[int] = []
    forward = runtime.skeleton.forward_features
    monkeypatch.setattr(
        runtime.skeleton, "forward_features", lambda x: sizes.append(len(x)) or forward(x)
    )
    assert torch.equal(logits(runtime, images(7)), whole)
    assert sizes == [2, 2, 2, 1]


def test_times_of_parts_are_of_the_same_result() -> None:
    runtime = load_runtime(small(), backend="numba")
    x = torch.from_numpy(draw(1, 3, 17, 48))
    seconds = runtime.skeleton.blocks.timed(x)
    assert set(seconds) == {"norms", "shifts, signs", "block linears", "attention products"}
    assert min(seconds.values()) > 0


def test_kept_programs_serve_one_call_at_a_time() -> None:
    kept: KeptPrograms[list[int]] = KeptPrograms(spare=2)
    made: list[list[int]] = []

    def make() -> list[int]:
        made.append([])
        return made[-1]

    with kept.lent("a", make) as first, kept.lent("a", make) as second:
        assert first is not second
    with kept.lent("a", make) as again:
        assert again is first or again is second
    assert len(made) == 2
    with pytest.raises(KeyError), kept.lent("a", make):
        raise KeyError  # what failed half way is not used again
    assert len(kept._free) == 1
    assert copy.deepcopy(kept)._free == []


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


def test_many_threads_over_one_model() -> None:
    torch.set_num_threads(2)
    runtime = load_runtime(small(), backend="numba")
    batches = [images(5, seed) for seed in range(4)]
    wanted = [logits(runtime, batch) for batch in batches]
    wrong: list[int] = []

    def work(index: int) -> None:
        torch.set_num_threads(2)
        for _ in range(20):
            if not torch.equal(logits(runtime, batches[index]), wanted[index]):
                wrong.append(index)

    workers = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []
