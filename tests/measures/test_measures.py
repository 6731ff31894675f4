"""What holds for all measures: edges are defined or NaN, and the laws that no weight breaks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bvit_analysis import measures as m
from bvit_analysis.errors import ConfigError

LO, HI, BINS = -4.0, 4.0, 81


def valley(u: torch.Tensor) -> float:
    return m.valley_depth(m.histogram(u, LO, HI, BINS), LO, HI)


# Edges: defined or NaN, never a warning (warnings are errors here)


def test_empty_inputs_are_nan() -> None:
    none = torch.empty(0)
    signs = np.empty((4, 0))
    figures = [
        m.flip_rate(none, none),
        m.flip_back_probability(signs, 1),
        m.frequent_share(none, 5),
        m.concentration(none),
        m.near_threshold_share(none, 1.0),
        *m.skew_and_kurtosis(none),
        m.bimodality_coefficient(none),
        m.otsu_ratio(none),
        m.mass_near_zero(none, 0.1),
        m.near_constant_share(none),
        m.constant_share(none, 3),
        m.channel_spread(none, none),
        m.sign_agreement(none, none),
        m.frequent_share(np.ones(3), 0),
        m.concentration(np.zeros(3)),
        m.constant_share(torch.zeros(3), 0),
        m.share(0, 0),
    ]
    assert all(math.isnan(figure) for figure in figures)
    assert m.gross_flips(signs).shape == (0,)
    assert m.flip_flop_ratio(none, none) == 0
    assert m.normalise_rows(torch.empty(2, 0)).shape == (2, 0)
    assert m.normalise_rows(torch.empty(0, 2)).shape == (0, 2)
    assert m.channel_entropy_bits(torch.zeros(2), 0).isnan().all()


def test_one_sign_snapshot_never_flips() -> None:
    assert m.gross_flips(np.ones((1, 5))).tolist() == [0] * 5
    assert math.isnan(m.flip_back_probability(np.ones((1, 5)), 1))


@pytest.mark.parametrize("value", [0.0, 0.1, -3.0, 1e-40])
def test_constant_weights_have_no_shape(value: float) -> None:
    u = torch.full((3, 7), value)
    assert math.isnan(m.kurtosis(u))
    assert math.isnan(m.bimodality_coefficient(u))
    assert m.otsu_ratio(u) == pytest.approx(1) if value else math.isnan(m.otsu_ratio(u))


def test_not_a_number_shows() -> None:
    u = torch.tensor([1.0, -1.0, math.nan])
    for figure in (m.kurtosis(u), m.otsu_ratio(u), m.mass_near_zero(u, 0.1), m.near_threshold_share(u, 1.0)):  # fmt: skip
        assert math.isnan(figure)
    assert math.isnan(m.near_constant_share(torch.tensor([0.1, math.nan])))


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ConfigError, match=r"one shape, got \(2,\) and \(3,\)"):
        m.flip_rate(torch.ones(2), torch.ones(3))
    with pytest.raises(ConfigError, match="k must be at least 1"):
        m.flip_back_probability(np.ones((3, 1)), 0)
    with pytest.raises(ConfigError, match="top must be"):
        m.concentration(np.ones(3), top=0)
    with pytest.raises(ConfigError, match="correlation"):
        m.arccos_flip_probability(1.5)


# Laws that hold for any weights

ROWS = hnp.arrays(
    np.float64,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=8),
    elements=st.one_of(st.just(0.0), st.floats(-1e3, -1e-6), st.floats(1e-6, 1e3)),
)
SIGNS = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12))


@pytest.mark.slow
@settings(deadline=None, max_examples=60, derandomize=True)
@given(ROWS, st.sampled_from([2.0**-30, 0.25, 4.0, 2.0**20]))
def test_weight_measures_hold_their_ranges_symmetry_and_scale(w: np.ndarray, scale: float) -> None:
    u = m.normalise_rows(torch.from_numpy(w))
    figures = (m.kurtosis, m.bimodality_coefficient, m.otsu_ratio, lambda x: m.mass_near_zero(x, 0.1))  # fmt: skip
    values = [figure(u) for figure in figures]
    for figure, value in zip(figures, values, strict=True):
        assert figure(-u) == pytest.approx(value, nan_ok=True, rel=1e-9)
        scaled = m.normalise_rows(torch.from_numpy(w * scale))
        assert figure(scaled) == pytest.approx(value, nan_ok=True, rel=1e-9)
    kurtosis, coefficient, otsu, near = values
    assert math.isnan(kurtosis) or kurtosis >= 1 - 1e-9
    assert math.isnan(coefficient) or 0 <= coefficient <= 1 + 1e-9
    assert math.isnan(otsu) or 0 <= otsu <= 1 + 1e-9
    assert 0 <= near <= 1
    depth = valley(u)
    assert math.isnan(depth) or 0 <= depth <= 1
    row_means = u.abs().mean(dim=1)
    assert (((row_means - 1).abs() < 1e-9) | (row_means == 0)).all()


@pytest.mark.slow
@settings(deadline=None, max_examples=60, derandomize=True)
@given(SIGNS, st.integers(1, 12))
def test_flip_measures_hold_their_ranges_and_symmetry(signs: np.ndarray, k: int) -> None:
    gross, net = m.gross_flips(signs), m.net_flips(signs)
    assert (m.gross_flips(~signs) == gross).all()
    assert ((net >= 0) & (net <= gross) & (gross <= len(signs) - 1)).all()
    assert (gross % 2 == net % 2).all()
    assert net.sum() == 0 or m.flip_flop_ratio(gross, net) >= 1
    back = m.flip_back_probability(signs, k)
    assert math.isnan(back) or 0 <= back <= 1
    assert back == pytest.approx(m.flip_back_probability(~signs, k), nan_ok=True)
    top = m.concentration(gross)
    assert math.isnan(top) or 1 / gross.size - 1e-12 <= top <= 1


@settings(deadline=None, max_examples=60, derandomize=True)
@given(ROWS)
def test_activation_measures_hold_their_ranges(x: np.ndarray) -> None:
    error = m.binarization_error(torch.from_numpy(x), 0)
    assert (error.isnan() | ((error >= 0) & (error <= 1))).all()
    scaled = m.binarization_error(torch.from_numpy(4 * x), 0)
    np.testing.assert_allclose(scaled, error, atol=1e-6)
    positive = (torch.from_numpy(x) >= 0).sum(0)
    entropies = m.channel_entropy_bits(positive, len(x), corrected=False)
    assert ((entropies >= 0) & (entropies <= 1)).all()
    assert m.constant_share(positive, len(x)) <= m.near_constant_share(entropies)
