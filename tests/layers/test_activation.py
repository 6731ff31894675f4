"""RPReLU against its equation: values and all four gradients, at the kink too."""

from __future__ import annotations

import numpy as np
import torch

from bvit_analysis.layers import RPReLU


def test_values_and_gradients_equal_numpy():
    rng = np.random.default_rng(0)
    module = RPReLU(3).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.tensor(rng.normal(size=3)))
    gamma, slope, zeta = (p.detach().numpy() for p in (module.gamma, module.slope, module.zeta))
    y = rng.normal(size=(2, 5, 3))
    y[0, 0] = gamma  # exactly at the kink, where the negative branch counts
    tensor = torch.tensor(y, requires_grad=True)
    up = rng.normal(size=y.shape)
    out = module(tensor)
    out.backward(torch.tensor(up))

    z = y - gamma
    factor = np.where(z > 0, 1.0, slope)
    np.testing.assert_allclose(
        out.detach().numpy(), np.where(z > 0, z, slope * z) + zeta, rtol=1e-12
    )
    np.testing.assert_allclose(tensor.grad.numpy(), up * factor, rtol=1e-12)
    np.testing.assert_allclose(module.gamma.grad.numpy(), -(up * factor).sum((0, 1)), rtol=1e-12)
    np.testing.assert_allclose(
        module.slope.grad.numpy(), (up * np.minimum(z, 0)).sum((0, 1)), rtol=1e-12
    )
    np.testing.assert_allclose(module.zeta.grad.numpy(), up.sum((0, 1)), rtol=1e-12)


def test_slope_one_is_the_identity():
    y = torch.randn(2, 4, 6)
    assert torch.equal(RPReLU(6, slope=1.0)(y), y)
