from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from bvit_analysis.errors import ConfigError
from bvit_analysis.instruments.verification import check_signs, used_weight
from bvit_analysis.sites import Site, find_sites


class Centred(nn.Linear):
    """Somebody else's binarizer: sign(w - mean w), with a hidden state and noise in its forward pass."""

    calls = 0

    def binarized(self) -> torch.Tensor:
        w = self.weight - self.weight.mean(1, keepdim=True)
        return w.abs().mean(1, keepdim=True) * torch.where(w >= 0, 1.0, -1.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        noise = torch.rand(()) * 0
        return functional.linear(x, self.binarized(), self.bias) + noise


class CentredConv(nn.Conv2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        w = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return functional.conv2d(x, w.sign(), None, groups=self.groups)


class Strange(nn.Linear):
    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return x @ self.weight.T * mask


def raw(module: nn.Module) -> torch.Tensor:
    return module.weight


def own_mean(module: nn.Module) -> torch.Tensor:
    dims = tuple(range(1, module.weight.ndim))
    return module.weight - module.weight.mean(dims, keepdim=True)


def site_of(module: nn.Module, effective) -> Site:
    (site,) = find_sites(nn.Sequential(module), effective_sign={type(module): effective})
    return site


@pytest.mark.parametrize(
    "module", [Centred(30, 8), CentredConv(6, 4, 3, groups=2)], ids=["linear", "conv"]
)
def test_a_wrong_sign_is_refused_and_the_right_one_accepted(module: nn.Module) -> None:
    with torch.no_grad():
        module.weight.add_(0.05)
    check_signs([site_of(module, own_mean)])
    name = type(module).__name__
    with pytest.raises(ConfigError, match=rf"site 0: \d+\.\d+% of .*effective_sign=\{{{name}: fn"):
        check_signs([site_of(module, raw)])


def test_the_check_leaves_no_trace() -> None:
    module = Centred(30, 8)
    heard = []
    module.register_forward_hook(lambda *_: heard.append(1))
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    assert torch.equal(used_weight(site_of(module, own_mean)), module.binarized())
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == random.getstate()
    np.testing.assert_array_equal(states[2], np.random.get_state()[1])  # noqa: NPY002
    assert (module.calls, module.training, heard) == (0, True, [])


def test_zeros_of_the_used_weight_are_left_out() -> None:
    module = CentredConv(2, 1, 1)
    with torch.no_grad():
        module.weight.fill_(1.0)  # centred: all 0, which sign() maps to 0
    check_signs([site_of(module, lambda m: -torch.ones_like(m.weight))])


def test_a_layer_that_cannot_be_tried_is_passed_over() -> None:
    site = site_of(Strange(4, 3), raw)
    assert used_weight(site) is None
    check_signs([site])


def test_own_binary_weight_is_asked_first() -> None:
    class Own(Centred):
        def binary_weight(self) -> torch.Tensor:
            return -self.binarized()

    with pytest.raises(ConfigError, match=r"100\.00%"):
        check_signs([site_of(Own(9, 4), own_mean)])
