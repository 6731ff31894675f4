"""Every quantizer against numpy retyped from its docstring, with exact zeros, ones, and values beyond the clip."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bvit_analysis.quantizers import (
    boolean_levels,
    channel_scale,
    clipped_sign,
    elastic_levels,
    polynomial_sign,
    sign,
)

POINTS = np.array(
    [-3.0, -1.0, -0.75, -0.5, -1e-8, -0.0, 0.0, 1e-8, 0.25, 1.0, 1.0000001, 2.0], dtype=np.float32
)


def gradient(function, x: np.ndarray, upstream: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    tensor = torch.tensor(x, requires_grad=True)
    y = function(tensor)
    y.backward(torch.tensor(upstream))
    return y.detach().numpy(), tensor.grad.numpy()


def upstream_for(x: np.ndarray) -> np.ndarray:
    return np.linspace(-2, 3, x.size, dtype=np.float32).reshape(x.shape)


def test_sign_is_never_zero_and_nan_is_minus_one():
    x = torch.tensor([-math.inf, -1.0, -0.0, 0.0, 1.0, math.inf, math.nan])
    assert sign(x).tolist() == [-1, -1, 1, 1, 1, 1, -1]


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=30))
@settings(max_examples=50, deadline=None)
def test_sign_equals_a_python_loop(values):
    got = sign(torch.tensor(values, dtype=torch.float32)).tolist()
    assert got == [1.0 if value >= 0 else -1.0 for value in values]


def test_sign_keeps_half_precision_and_gradient_free():
    x = torch.tensor([1.0, -2.0], dtype=torch.bfloat16, requires_grad=True)
    assert sign(x).dtype == torch.bfloat16
    assert not sign(x).requires_grad


def test_polynomial_sign_gradient():
    up = upstream_for(POINTS)
    y, got = gradient(polynomial_sign, POINTS, up)
    slope = np.where(
        (POINTS >= -1) & (POINTS < 0),
        2 + 2 * POINTS,
        np.where((POINTS >= 0) & (POINTS <= 1), 2 - 2 * POINTS, 0),
    )
    np.testing.assert_array_equal(y, np.where(POINTS >= 0, 1, -1))
    np.testing.assert_allclose(got, up * slope, rtol=1e-6, atol=0)
    assert got[POINTS == 0].tolist() == (2 * up[POINTS == 0]).tolist()


def test_clipped_sign_gradient():
    up = upstream_for(POINTS)
    y, got = gradient(clipped_sign, POINTS, up)
    np.testing.assert_array_equal(y, np.where(POINTS >= 0, 1, -1))
    np.testing.assert_array_equal(got, up * (np.abs(POINTS) <= 1))


def test_channel_scale_is_the_least_squares_scale():
    weight = torch.randn(5, 40, generator=torch.Generator().manual_seed(0))
    scale = channel_scale(weight)
    assert scale.shape == (5, 1)
    for row in range(5):
        w = weight[row].numpy()
        best = np.linalg.lstsq(np.sign(w)[:, None], w, rcond=None)[0][0]
        assert scale[row].item() == pytest.approx(best, rel=1e-5)


def test_channel_scale_is_constant_in_differentiation():
    weight = torch.randn(3, 4, requires_grad=True)
    assert not channel_scale(weight).requires_grad


def test_elastic_levels_forward_and_both_gradients():
    rng = np.random.default_rng(0)
    x = rng.uniform(-0.2, 1.2, size=(2, 3, 4, 4)).astype(np.float32)
    scale = np.array([0.3, 0.5, 0.8], dtype=np.float32).reshape(3, 1, 1)
    x[0, 0, 0] = [0.0, 0.15, 0.3, 0.150001]  # exact zero, tie, exact top, just above the tie
    up = upstream_for(x)
    tensor, a = torch.tensor(x, requires_grad=True), torch.tensor(scale, requires_grad=True)
    y = elastic_levels(tensor, a)
    y.backward(torch.tensor(up))

    inside = (x >= 0) & (x <= scale)
    np.testing.assert_array_equal(y.detach().numpy(), (x >= scale / 2).astype(np.float32))
    np.testing.assert_allclose(tensor.grad.numpy(), up * inside / scale, rtol=1e-6)
    expected = -(up * inside * x / scale**2).sum(axis=(0, 2, 3)).reshape(3, 1, 1)
    np.testing.assert_allclose(a.grad.numpy(), expected, rtol=1e-4)


def test_scaled_levels_have_the_gradients_of_bit():
    """a * b has the rules of arXiv 2205.13016: dy/dx = I and dy/da = b - I x / a."""
    x = torch.tensor([-0.1, 0.0, 0.1, 0.2, 0.39, 0.4, 0.7], requires_grad=True)
    a = torch.tensor(0.4, requires_grad=True)
    up = torch.arange(1.0, 8.0)
    (a * elastic_levels(x, a)).backward(up)
    inside = np.array([0, 1, 1, 1, 1, 1, 0])
    np.testing.assert_allclose(x.grad.numpy(), up.numpy() * inside, rtol=1e-6)
    bits = np.array([0, 0, 0, 1, 1, 1, 1])
    slope = bits - inside * x.detach().numpy() / 0.4
    assert a.grad.item() == pytest.approx(float((up.numpy() * slope).sum()), rel=1e-5)


def test_boolean_levels_gradient():
    up = upstream_for(POINTS)
    y, got = gradient(boolean_levels, POINTS, up)
    np.testing.assert_array_equal(y, (POINTS >= 0).astype(np.float32))
    np.testing.assert_array_equal(got, up * (np.abs(POINTS) <= 1))
