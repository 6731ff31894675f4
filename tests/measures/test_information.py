"""Entropies, shares and errors against scipy, numpy and the Gaussian."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch

from bvit_analysis import measures as m


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
