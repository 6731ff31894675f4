"""Operations of a program: each against another form of itself."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy import ndarray
from torch.nn import functional

from bvit_analysis.layers.shift import TokenMeanShift, token_mean
from bvit_analysis.runtime.kernels import operations as op
from bvit_analysis.runtime.kernels import products as kernels
from bvit_analysis.runtime.kernels import programs
from bvit_analysis.runtime.kernels.compilation import norm_lanes
from bvit_analysis.runtime.kernels.memory import Address, address
from bvit_analysis.runtime.kernels.programs import Program, norm_agrees
from tests.support.bits import (
    draw,
)

pytestmark = pytest.mark.skipif(kernels.available() != "numba", reason="programs need numba")


@pytest.fixture(autouse=True)
def _threads_for_any_work(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(programs, "_WORTH_HELP", 0)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def norm(x: ndarray, weight: ndarray, bias: ndarray, eps: float, number: int = 1) -> ndarray:
    out = np.empty_like(x)
    program = Program(number)
    program.norm(address(x), address(out), len(x), weight, bias, eps, "norm")
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
    somewhere = Address(8)
    program.sign(op.Input(somewhere, rows, rows, somewhere, 1, somewhere), units, "sign")
    [kind], [cut] = program.table()["kind"], program.table()["cut"]
    assert kind == op.Kind.SIGN
    pieces = [(p * cut["each"], min((p + 1) * cut["each"], units)) for p in range(cut["pieces"])]
    assert [i for first, last in pieces for i in range(first, last)] == list(range(units))
    assert len(pieces) <= 4 * number
    assert all(first < last for first, last in pieces)
