from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from bvit_analysis.tables import textbook_laws


def test_coins_flip_back_every_other_time() -> None:
    assert textbook_laws.coin_flip_back([1, 2, 10]).tolist() == [0.5, 0.75, 1 - 2**-10]


def test_flip_back_null_equals_simulation() -> None:
    random, theta, steps, weights = np.random.default_rng(1), 0.95, 4000, 200
    x = np.empty((steps, weights))
    x[0] = random.standard_normal(weights)
    for t in range(1, steps):
        noise = random.standard_normal(weights)
        x[t] = theta * x[t - 1] + math.sqrt(1 - theta**2) * noise
    flips = np.diff(x >= 0, axis=0)
    rate = math.acos(theta) / math.pi
    assert flips.mean() == pytest.approx(rate, rel=0.02)
    for k in (1, 5, 20):
        later = np.zeros_like(flips[:-k])
        for lag in range(1, k + 1):
            later |= flips[lag : lag + len(later)]
        measured = later[flips[:-k]].mean()
        assert textbook_laws.ar1_flip_back(rate, [k])[0] == pytest.approx(measured, abs=0.01)


def test_flip_back_null_first_step_is_the_orthant_probability() -> None:
    for theta in (0.5, 0.9, 0.999):
        alternating = 0.125 + (math.asin(theta**2) - 2 * math.asin(theta)) / (4 * math.pi)
        rate = math.acos(theta) / math.pi
        expected = 2 * alternating / rate
        assert textbook_laws.ar1_flip_back(rate, [1])[0] == pytest.approx(expected, abs=2e-3)
    assert np.isnan(textbook_laws.ar1_flip_back(0.0, [1, 5])).all()


def test_poisson_equals_scipy_and_adds_up() -> None:
    np.testing.assert_allclose(
        textbook_laws.poisson_shares(6.3, 40), stats.poisson.pmf(np.arange(41), 6.3), rtol=1e-9
    )
    assert textbook_laws.poisson_shares(0.0, 3).tolist() == [1, 0, 0, 0]


def test_simulated_flip_counts_have_the_rate_asked_for() -> None:
    flips = textbook_laws.ar1_flip_counts(0.05, 800, weights=2000)
    assert flips.mean() / 800 == pytest.approx(0.05, rel=0.03)
    assert (flips == textbook_laws.ar1_flip_counts(0.05, 800, weights=2000)).all()
