"""Bimodality on distributions whose figures are known, and against scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch

from bvit_analysis import measures as m
from bvit_analysis.errors import ConfigError

LO, HI, BINS = -4.0, 4.0, 81


def valley(u: torch.Tensor) -> float:
    return m.valley_depth(m.histogram(u, LO, HI, BINS), LO, HI)


def one_row(values: np.ndarray) -> torch.Tensor:
    return m.normalise_rows(torch.from_numpy(values)[None])


CALIBRATION = {
    # law: (kurtosis, bimodality coefficient, otsu ratio, mass within .1, is there a valley?)
    "laplace": (6.0, 0.17, 0.50, 0.095, False),
    "gaussian": (3.0, 0.333, 0.637, 0.064, False),
    "uniform": (1.8, 0.555, 0.75, 0.050, False),
    "mix 1": (2.5, 0.40, 0.68, 0.057, False),
    "mix 0.5": (1.72, 0.58, 0.81, 0.022, True),
    "mix 0.25": (1.23, 0.81, 0.94, 0.0, True),
    "three peaks": (2.04, 0.49, 0.57, 0.205, False),
}


def draw(law: str, n: int = 400_000) -> np.ndarray:
    rng = np.random.default_rng(7)
    if law == "laplace":
        return rng.laplace(size=n)
    if law == "gaussian":
        return rng.standard_normal(n)
    if law == "uniform":
        return rng.uniform(-1, 1, n)
    if law == "three peaks":
        return rng.choice([-1, 0, 1], n, p=[0.25, 0.5, 0.25]) + 0.1 * rng.standard_normal(n)
    return rng.choice([-1, 1], n) + float(law.split()[1]) * rng.standard_normal(n)


@pytest.mark.parametrize("law", CALIBRATION)
def test_calibration(law: str) -> None:
    kurtosis, coefficient, otsu, near, has_valley = CALIBRATION[law]
    u = one_row(draw(law))
    assert m.kurtosis(u) == pytest.approx(kurtosis, rel=0.02)
    assert m.bimodality_coefficient(u) == pytest.approx(coefficient, abs=0.006)
    assert m.otsu_ratio(u) == pytest.approx(otsu, abs=0.006)
    assert m.mass_near_zero(u, 0.1) == pytest.approx(near, abs=0.002)
    if has_valley:
        assert valley(u) > 0.6
    else:
        assert 0 <= valley(u) < 0.03


def test_gaussian_mass_near_zero() -> None:
    u = one_row(draw("gaussian"))
    for delta, null in ((0.05, 0.032), (0.1, 0.064), (0.2, 0.127)):
        assert m.mass_near_zero(u, delta) == pytest.approx(null, abs=1.5e-3)


def test_moments_equal_scipy() -> None:
    w = np.random.default_rng(3).gamma(2.0, size=(16, 50))
    u = m.normalise_rows(torch.from_numpy(w))
    skew, kurtosis = m.skew_and_kurtosis(u)
    assert skew == pytest.approx(scipy.stats.skew(u.numpy(), axis=None))
    assert kurtosis == pytest.approx(scipy.stats.kurtosis(u.numpy(), axis=None, fisher=False))
    assert m.bimodality_coefficient(u) == pytest.approx((skew**2 + 1) / kurtosis)


def test_a_one_peaked_exponential_has_five_ninths_without_two_modes() -> None:
    u = one_row(np.random.default_rng(4).exponential(size=400_000))
    assert m.bimodality_coefficient(u) == pytest.approx(0.56, abs=0.01)
    assert valley(u) == pytest.approx(0, abs=0.03)


def test_otsu_ratio_is_one_minus_relative_binarization_error() -> None:
    w = torch.randn(8, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    w = w * torch.logspace(-3, 3, 8, dtype=torch.float64)[:, None]
    u = m.normalise_rows(w)
    sign = torch.where(w >= 0, 1.0, -1.0)
    best = sign * w.abs().mean(dim=1, keepdim=True) / w.abs().mean(dim=1, keepdim=True)
    error = (u - best).square().sum() / u.square().sum()
    assert m.otsu_ratio(u) == pytest.approx(1 - float(error), abs=1e-12)


def test_pooling_rows_of_unequal_scale_hides_modes() -> None:
    rng = np.random.default_rng(8)
    rows = rng.choice([-1, 1], (200, 500)) + 0.2 * rng.standard_normal((200, 500))
    w = torch.from_numpy(rows * np.exp(rng.standard_normal(200))[:, None])
    pooled = m.bimodality_coefficient(w)
    normalised = m.bimodality_coefficient(m.normalise_rows(w))
    assert pooled < 0.45
    assert normalised > 0.82
    assert m.kurtosis(w) > 2 * m.kurtosis(m.normalise_rows(w))


def test_normalise_rows() -> None:
    w = torch.tensor([[1.0, -3.0], [0.0, 0.0], [2.0, 2.0]])
    assert m.normalise_rows(w).tolist() == [[0.5, -1.5], [0, 0], [1, 1]]
    assert m.normalise_rows(w, centre=True).tolist() == [[1, -1], [0, 0], [0, 0]]
    third = torch.full((2, 7), 1 / 3)  # its mean need not be 1/3 in floating point
    assert m.normalise_rows(third, centre=True).abs().max() == 0
    tiny = torch.full((1, 4), 1e-44)
    assert m.normalise_rows(tiny).tolist() == [[1, 1, 1, 1]]
    assert m.normalise_rows(w.half()).dtype == torch.float32
    assert m.normalise_rows(w.reshape(3, 2, 1)).shape == (3, 2, 1)
    with pytest.raises(ConfigError, match=r"expected weights of shape \(O, I\), got shape \(3,\)"):
        m.normalise_rows(torch.ones(3))


@pytest.mark.parametrize("seed", [0, 1])
def test_histogram_equals_numpy_with_overflow_in_the_ends(seed: int) -> None:
    x = torch.randn(5000, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3
    expected = np.histogram(x.clamp(LO, HI).numpy(), bins=BINS, range=(LO, HI))[0]
    counts = m.histogram(x, LO, HI, BINS)
    assert counts.dtype == torch.int64
    assert counts.tolist() == expected.tolist()


def test_histogram_survives_what_is_not_a_number() -> None:
    x = torch.tensor([math.nan, math.inf, -math.inf, 0.0, -0.0, 4.0, -4.0, 1e-45])
    counts = m.histogram(x, LO, HI, BINS)
    assert counts[0] == 2
    assert counts[-1] == 2
    assert counts[40] == 3  # the middle bin is centred on 0
    assert counts.sum() == 7
    assert m.histogram(torch.empty(0), 0, 1, 3).tolist() == [0, 0, 0]
    with pytest.raises(ConfigError, match="hi > lo"):
        m.histogram(x, 1, 1, 3)


def test_valley_depth_by_hand() -> None:
    counts = np.zeros(BINS)
    assert math.isnan(m.valley_depth(counts, LO, HI))
    counts[[0, -1]] = 100  # overflow is no peak
    assert math.isnan(m.valley_depth(counts, LO, HI))
    counts[[30, 50]] = 70
    assert m.valley_depth(counts, LO, HI) == 1
    counts[40] = 35  # each spike keeps 70/256 of itself and none reaches the next
    assert m.valley_depth(counts, LO, HI) == pytest.approx(0.5)
    counts[30] = 0
    assert m.valley_depth(counts, LO, HI) == 0  # one side has no peak of its own
    with pytest.raises(ConfigError, match="lo < 0 < hi"):
        m.valley_depth(counts, 0, 1)


def test_valley_noise_of_a_small_gaussian_layer() -> None:
    depths = [
        valley(m.normalise_rows(torch.randn(64, 64, generator=torch.Generator().manual_seed(s))))
        for s in range(20)
    ]
    assert max(depths) < 0.2
