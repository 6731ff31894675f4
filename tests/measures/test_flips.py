"""Flips against loops over every weight, and against what theory says of an AR(1)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch

from bvit_analysis import measures as m

THETA, STEPS = 0.99, 1500


@pytest.fixture(scope="module")
def ar1_signs() -> np.ndarray:
    """Signs of stationary Gaussian AR(1) weights, (T + 1, weights)."""
    rng = np.random.default_rng(5)
    x = rng.standard_normal(4000)
    history = [x >= 0]
    for _ in range(STEPS):
        x = THETA * x + math.sqrt(1 - THETA**2) * rng.standard_normal(4000)
        history.append(x >= 0)
    return np.array(history)


@pytest.fixture(scope="module")
def few_signs() -> np.ndarray:
    return np.where(np.random.default_rng(1).random((30, 3, 4)) < 0.6, 1, -1).astype(np.int8)


def test_flips_equal_a_loop(few_signs: np.ndarray) -> None:
    gross = m.gross_flips(few_signs)
    for row in range(3):
        for column in range(4):
            path = few_signs[:, row, column].tolist()
            assert gross[row, column] == sum(a != b for a, b in zip(path, path[1:], strict=False))
            assert m.net_flips(few_signs)[row, column] == (path[0] != path[-1])
    rates = [m.flip_rate(torch.tensor(a), torch.tensor(b)) for a, b in zip(few_signs, few_signs[1:], strict=False)]  # fmt: skip
    assert sum(rates) == pytest.approx(gross.mean())
    oscillating = m.oscillating_flips(few_signs)
    assert (oscillating % 2 == 0).all()
    assert (oscillating == gross - m.net_flips(few_signs)).all()
    assert m.flip_flop_ratio(gross, m.net_flips(few_signs)) == gross.sum() / m.net_flips(few_signs).sum()  # fmt: skip


@pytest.mark.parametrize("k", [1, 2, 5, 28, 29, 40])
def test_flip_back_equals_a_loop(few_signs: np.ndarray, k: int) -> None:
    followed = returned = 0
    for path in few_signs.reshape(30, -1).T.tolist():
        flips = [t for t in range(1, 30) if path[t] != path[t - 1]]
        for t in flips:
            if t + k <= 29:
                followed += 1
                returned += any(t < later <= t + k for later in flips)
    expected = returned / followed if followed else math.nan
    assert m.flip_back_probability(few_signs, k) == pytest.approx(expected, nan_ok=True)
    assert m.flip_back_probability(torch.tensor(few_signs), k) == pytest.approx(expected, nan_ok=True)  # fmt: skip


def test_flip_rate_of_gaussian_ar1_is_the_arccos_law(ar1_signs: np.ndarray) -> None:
    expected = m.arccos_flip_probability(THETA)
    assert expected == pytest.approx(0.045, abs=5e-4)
    assert m.gross_flips(ar1_signs).mean() / STEPS == pytest.approx(expected, rel=0.02)
    assert m.arccos_flip_probability(0) == 0.5
    assert m.arccos_flip_probability(0.999) == pytest.approx(0.014, abs=5e-4)


@pytest.mark.parametrize(("stride", "seen"), [(10, 0.31), (50, 0.13), (100, 0.08), (500, 0.02)])
def test_a_stride_hides_flips(ar1_signs: np.ndarray, stride: int, seen: float) -> None:
    theory = math.acos(THETA**stride) / (stride * math.acos(THETA))
    assert theory == pytest.approx(seen, abs=0.006)
    strided = m.gross_flips(ar1_signs[::stride]).sum() / m.gross_flips(ar1_signs).sum()
    assert strided == pytest.approx(theory, rel=0.06)


@pytest.mark.parametrize(("k", "null"), [(1, 0.29), (5, 0.60), (10, 0.71), (50, 0.89), (100, 0.94)])
def test_flip_back_of_ar1(ar1_signs: np.ndarray, k: int, null: float) -> None:
    assert m.flip_back_probability(ar1_signs, k) == pytest.approx(null, abs=0.012)


def test_flip_back_of_white_noise() -> None:
    signs = np.random.default_rng(2).random((400, 500)) < 0.5
    for k in (1, 3, 5):
        assert m.flip_back_probability(signs, k) == pytest.approx(1 - 2.0**-k, abs=0.005)


def test_flip_flop_and_concentration_of_ar1(ar1_signs: np.ndarray) -> None:
    gross, net = m.gross_flips(ar1_signs), m.net_flips(ar1_signs)
    assert m.flip_flop_ratio(gross, net) == pytest.approx(137, rel=0.06)
    assert m.concentration(gross) == pytest.approx(0.019, abs=0.001)
    assert net.mean() == pytest.approx(0.5, abs=0.03)


def test_concentration_by_sorting() -> None:
    gross = torch.tensor([[5, 0, 1], [0, 2, 2]])
    assert m.concentration(gross, top=1 / 6) == 0.5
    assert m.concentration(gross, top=0.4) == 0.9  # ceil(2.4) = 3 weights: 5 + 2 + 2 of 10
    assert m.concentration(gross, top=1) == 1
    assert m.concentration(np.ones(100)) == 0.01


def test_frequent_share_is_strict() -> None:
    assert m.frequent_share(np.array([0, 2, 3, 50]), 100, 0.02) == 0.5


def test_near_threshold_share_of_a_gaussian() -> None:
    w = torch.randn(200_000, generator=torch.Generator().manual_seed(0)) * 3
    expected = 2 * scipy.stats.norm.cdf(0.3 / 3) - 1
    assert m.near_threshold_share(w, 0.3) == pytest.approx(expected, abs=2e-3)
    per_weight = torch.tensor([0.1, 0.0])
    assert m.near_threshold_share(torch.tensor([0.05, 0.0]), per_weight) == 0.5
