"""Measures against a second witness: scipy, brute-force loops, closed forms and the published calibration."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bvit_analysis import measures as m
from bvit_analysis.errors import ConfigError

LO, HI, BINS = -4.0, 4.0, 81
THETA, STEPS = 0.99, 1500


def valley(u: torch.Tensor) -> float:
    return m.valley_depth(m.histogram(u, LO, HI, BINS), LO, HI)


def one_row(values: np.ndarray) -> torch.Tensor:
    return m.normalise_rows(torch.from_numpy(values)[None])


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


# Flips


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


# Bimodality


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


# Information


@pytest.mark.parametrize("n", [1, 8, 49, 1000])
def test_plugin_entropy_equals_scipy(n: int) -> None:
    positive = torch.arange(n + 1)
    expected = scipy.stats.entropy(np.stack([positive, n - positive]), base=2)
    got = m.channel_entropy_bits(positive, n, corrected=False)
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-12)
    assert got.min() >= 0
    assert got.max() <= 1


@pytest.mark.parametrize(("n", "plugin", "corrected"), [(8, 0.902, 0.992), (49, 0.985, 1.0), (196, 0.996, 1.0)])  # fmt: skip
def test_miller_madow_removes_the_bias_of_fair_coins(
    n: int, plugin: float, corrected: float
) -> None:
    positive = torch.arange(n + 1)
    weight = torch.from_numpy(scipy.stats.binom.pmf(positive.numpy(), n, 0.5))
    mean = [float((weight * m.channel_entropy_bits(positive, n, corrected=c)).sum()) for c in (False, True)]  # fmt: skip
    assert mean == pytest.approx([plugin, corrected], abs=6e-4)


def test_miller_madow_counts_the_signs_seen() -> None:
    got = m.channel_entropy_bits(torch.tensor([0, 4, 8]), 8)
    assert got.tolist() == pytest.approx([0, 1 + 1 / (16 * math.log(2)), 0])


@pytest.mark.parametrize(("offset", "bits"), [(0, 1), (0.5, 0.89), (1, 0.63), (2, 0.16)])
def test_gaussian_channel_entropy(offset: float, bits: float) -> None:
    p = scipy.stats.norm.cdf(offset)
    assert float(m.binary_entropy_bits(p)) == pytest.approx(bits, abs=6e-3)


def test_pooling_channels_hides_constant_ones() -> None:
    n = 100
    positive = torch.tensor([n] * 8 + [0] * 8)
    assert float(m.binary_entropy_bits(positive.sum() / (16 * n))) == 1
    entropies = m.channel_entropy_bits(positive, n)
    assert entropies.tolist() == [0] * 16
    assert m.near_constant_share(entropies) == 1
    assert m.constant_share(positive, n) == 1


def test_shares_of_channels() -> None:
    positive = torch.tensor([0, 1, 50, 100])
    assert m.constant_share(positive, 100) == 0.5
    assert m.near_constant_share(m.channel_entropy_bits(positive, 100)) == 0.75
    edge = scipy.stats.norm.cdf(torch.tensor([1.22, 1.24]).numpy())
    assert m.near_constant_share(m.binary_entropy_bits(torch.from_numpy(edge))) == 0.5


def test_channel_moments_and_spread_equal_numpy() -> None:
    x = torch.randn(50, 9, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    x = x * torch.tensor([1, 2, 3, 4, 5, 6]) + torch.tensor([0, 1, 5, 0, -4, 2])
    flat = x.flatten(0, 1)
    mean, std = m.channel_moments(450, flat.sum(0), flat.square().sum(0))
    np.testing.assert_allclose(mean, flat.numpy().mean(0))
    np.testing.assert_allclose(std, flat.numpy().std(0))
    assert m.channel_spread(mean, std) == pytest.approx((flat.numpy().mean(0) / flat.numpy().std(0)).std())  # fmt: skip
    constant = torch.full((6,), 0.1, dtype=torch.float64)
    mean, std = m.channel_moments(3, 3 * constant, 3 * constant.square())
    assert std.max() == 0
    assert math.isnan(m.channel_spread(mean, std))
    assert m.channel_spread(torch.tensor([2.0, 1.0, 9.0]), torch.tensor([1.0, 1.0, 0.0])) == 0.5


def test_binarization_error_equals_numpys_correlation() -> None:
    x = torch.randn(40, 5, 3, generator=torch.Generator().manual_seed(3)) + torch.tensor(
        [0, 0.5, 2]
    )
    errors = m.binarization_error(x, (0, 1))
    for channel in range(3):
        values = x[..., channel].flatten().double().numpy()
        expected = 1 - np.corrcoef(values, np.where(values >= 0, 1, -1))[0, 1] ** 2
        assert float(errors[channel]) == pytest.approx(expected)


def test_binarization_error_limits() -> None:
    gaussian = torch.randn(400_000, 1, generator=torch.Generator().manual_seed(4))
    assert float(m.binarization_error(gaussian, 0)) == pytest.approx(1 - 2 / math.pi, abs=2e-3)
    x = torch.tensor([[1.0, 1.0, -2.0, 0.0], [2.0, 1.0, 2.0, 0.0]])
    errors = m.binarization_error(x, 0).tolist()
    assert errors[0] == 1  # varies, its sign does not
    assert math.isnan(errors[1])
    assert errors[2] == pytest.approx(0, abs=1e-12)
    assert math.isnan(errors[3])
    assert m.binarization_error(torch.empty(0, 4), 0).isnan().all()


def test_streaming_sums_add_up() -> None:
    x = torch.randn(64, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    sums = [
        (b.sum(0), b.square().sum(0), b.abs().sum(0), (b >= 0).sum(0))
        for b in (x[:10], x[10:40], x[40:])
    ]
    streamed = m.binarization_error_from_sums(64, *[sum(part) for part in zip(*sums, strict=True)])  # type: ignore[arg-type]
    np.testing.assert_allclose(streamed, m.binarization_error(x, 0))


def test_sign_agreement_uses_plus_one_at_zero() -> None:
    a = torch.tensor([0.0, -0.0, math.nan, -1.0, 2.0])
    b = torch.tensor([1.0, 3.0, -2.0, 1.0, 0.0])
    assert m.sign_agreement(a, b) == 0.8


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
