"""Other projects' ways to binarize and quantize, watched from outside, against counts by hand."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from bvit_analysis.config import WatchConfig
from bvit_analysis.errors import ConfigError
from bvit_analysis.measures import bimodality_coefficient
from bvit_analysis.records import load_run
from bvit_analysis.sites import Site, find_sites
from bvit_analysis.watch import Watch

EACH = WatchConfig(flips_every=1, distribution_every=4, activation_every=50, trajectory_weights=3)


class _Sign(torch.autograd.Function):
    @staticmethod
    def forward(ctx, w):
        return torch.where(w >= 0, 1.0, -1.0)

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class FlatConv(nn.Module):
    """As ReActNet's HardBinaryConv: the parameter is `weights`, a flat one."""

    def __init__(self) -> None:
        super().__init__()
        self.shape = (6, 4, 3, 3)
        self.weights = nn.Parameter(torch.rand(6 * 4 * 9, 1) * 0.1 - 0.05)

    def forward(self, x: Tensor) -> Tensor:
        w = self.weights.view(self.shape)
        scale = w.abs().mean((1, 2, 3), keepdim=True).detach()
        b, c = scale * torch.sign(w), w.clamp(-1, 1)
        return functional.conv2d(x, b.detach() - c.detach() + c, padding=1)


class SubclassOfWeight(nn.Parameter):
    """As facebookresearch/bit: a parameter class of its own, of which no deep copy can be made."""

    def __deepcopy__(self, memo):
        raise RuntimeError("cannot be copied")


class OfBit(nn.Linear):
    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes, bias=False)
        self.weight = SubclassOfWeight(self.weight.data)
        self.scale = nn.Parameter(torch.zeros(()))
        self.begun = False

    def used(self) -> Tensor:
        w = self.weight - self.weight.mean()
        if not self.begun:  # set in the first pass, as many learned scales are
            self.scale.data.copy_(w.detach().abs().mean())
            self.begun = True
        return self.scale * _Sign.apply(w)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.used().t()


class MoreOfBit(OfBit):
    """A subclass, found by its base."""


class Binary(nn.Module):
    def forward(self, w: Tensor) -> Tensor:
        return _Sign.apply(w) * w.abs().mean(1, keepdim=True)


def by_hand(model, sites, run_dir, inputs, positive, *, optimizer=None, steps=8):
    """Train, and compare the flips of the first site's every weight with the signs that the passes used."""
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    signs = []
    with Watch(model, run_dir, sites=sites, config=EACH, optimizer=optimizer) as watch:
        for t in range(steps):
            torch.manual_seed(t)
            loss = model(inputs()).square().mean() + model(inputs()).mean()
            if not signs:
                signs.append(positive())
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            signs.append(positive())
            watch.step(loss=loss)
    run = load_run(run_dir)
    flips = np.diff(np.stack(signs).astype(int), axis=0) != 0
    gross = run.counts(sites[0].name)["gross"]
    np.testing.assert_array_equal(gross, flips.sum(0).reshape(gross.shape))
    assert gross.sum() > 0
    assert run.info["sites"][0]["verified"]["differing"] == 0.0
    assert run.info["sites"][0]["levels"] == 2
    return run


def test_a_flat_parameter_of_another_name_is_found(tmp_path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(FlatConv())
    sites = find_sites(model, effective_sign={FlatConv: lambda m: m.weights.view(m.shape)})
    assert (sites[0].latent, sites[0].shape) == (model[0].weights, (6, 4, 3, 3))
    by_hand(
        model,
        sites,
        tmp_path / "run",
        lambda: torch.randn(2, 4, 6, 6),
        lambda: (model[0].weights >= 0).numpy().copy(),
        optimizer=torch.optim.SGD(model.parameters(), lr=0.02),
    )


def test_a_scale_that_is_set_in_the_first_pass(tmp_path) -> None:
    """Before it the right function, scale times weight, is 0 everywhere; the first signs are those of the first pass."""
    torch.manual_seed(0)
    model = nn.Sequential(MoreOfBit(12, 6), nn.Linear(6, 3))
    sites = find_sites(
        model, effective_sign={OfBit: lambda m: m.scale * (m.weight - m.weight.mean())}
    )
    assert [site.name for site in sites] == ["0"]
    run = by_hand(
        model,
        sites,
        tmp_path / "run",
        lambda: torch.randn(5, 12),
        lambda: (model[0].scale * (model[0].weight - model[0].weight.mean()) >= 0).numpy().copy(),
    )
    first = run.counts("0")["first_sign"]
    assert 0 < (first > 0).mean() < 1


def test_the_negated_sign_of_a_layer_that_cannot_be_copied_is_refused(tmp_path) -> None:
    model = nn.Sequential(OfBit(12, 6))
    sites = find_sites(model, effective_sign={OfBit: lambda m: m.weight.mean() - m.weight})
    says = r"100\.00% of the tracked signs differ.*; the weight less the mean of all fits"
    with pytest.raises(ConfigError, match=says), Watch(model, tmp_path / "run", sites=sites):
        model(torch.randn(2, 12))
    assert not (tmp_path / "run").exists()  # nothing was recorded, so the same cell can run again


def test_a_parametrization(tmp_path) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(12, 6)
    parametrize.register_parametrization(layer, "weight", Binary())
    model = nn.Sequential(layer, nn.Linear(6, 3))

    def latent(module):
        return module.parametrizations.weight.original

    sites = find_sites(model, effective_sign={type(layer): latent})
    by_hand(
        model,
        sites,
        tmp_path / "run",
        lambda: torch.randn(5, 12),
        lambda: (latent(layer) >= 0).numpy().copy(),
    )


@pytest.mark.slow  # torchao takes seconds to import
def test_parq_whose_latent_weights_are_in_the_optimizer(tmp_path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torchao.prototype.parq.optim import ProxHardQuant, QuantOptimizer
        from torchao.prototype.parq.quant import LSBQuantizer
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 8), nn.ReLU(), nn.Linear(8, 3))
    base = torch.optim.SGD(
        [
            {"params": [model[0].weight], "quant_bits": 1},
            {"params": [p for p in model.parameters() if p is not model[0].weight]},
        ],
        lr=0.3,
    )
    optimizer = QuantOptimizer(
        base,
        LSBQuantizer(),
        ProxHardQuant(),
        warmup_steps=0,
        quant_period=1,
        quant_per_channel=True,
    )

    def latent(module):
        return optimizer.state.get(module.weight, {}).get("latent", module.weight)

    def run(sites, run_dir, watch):
        signs, used = [(latent(model[0]) >= 0).numpy().copy()], []
        for t in range(6):
            torch.manual_seed(t)
            model(torch.randn(9, 40)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            signs.append((latent(model[0]) >= 0).numpy().copy())
            used.append((model[0].weight > 0).numpy().copy())
            watch.step()
        return signs, used

    (site,) = find_sites(nn.Sequential(model[0]), effective_sign={nn.Linear: latent})
    with (
        pytest.warns(RuntimeWarning, match="more than 16 levels"),  # float until its first step
        Watch(model, tmp_path / "run", sites=[site], config=EACH, optimizer=optimizer) as watch,
    ):
        signs, used = run([site], tmp_path / "run", watch)
    np.testing.assert_array_equal(
        np.stack(signs[1:]), np.stack(used)
    )  # what PARQ uses has the latent's sign
    stored = load_run(tmp_path / "run")
    flips = np.diff(np.stack(signs).astype(int), axis=0) != 0
    np.testing.assert_array_equal(stored.counts(site.name)["gross"], flips.sum(0))
    assert flips.sum() > 0
    assert stored.info["sites"][0]["levels"] == 2  # since its first step
    record = stored.sites
    last = record[record["step"] == 4]["bimodality_coefficient"].iloc[0]
    assert last < 0.75  # of the latent weight; 1 would be the quantized one's
    assert np.isfinite(bimodality_coefficient(latent(model[0])))


# What find_sites refuses ----------------------------------------------------------------------------------------------


def refused(match: str, **options) -> None:
    with pytest.raises(ConfigError, match=match):
        find_sites(nn.Sequential(nn.Linear(4, 3), FlatConv()), **options)


def test_what_is_no_class_function_or_tensor_is_refused() -> None:
    refused(
        "expected a class of modules as key, got 'Linear'",
        effective_sign={"Linear": lambda m: m.weight},
    )
    refused("expected a class of modules as key, got Linear", effective_sign={nn.Linear(2, 2): len})
    refused("expected a function for Linear, got str", effective_sign={nn.Linear: "weight"})
    refused(
        r"\[Linear\] must return a tensor, got NoneType at 0",
        effective_sign={nn.Linear: lambda m: None},
    )
    refused(
        r"\[Linear\] must return a tensor, got ndarray",
        effective_sign={nn.Linear: lambda m: m.weight.detach().numpy()},
    )
    refused(
        r"\[Linear\] failed at 0: KeyError: 'latent'",
        effective_sign={nn.Linear: lambda m: {}["latent"]},
    )
    refused(
        r"return the weight's shape \(3, 4\), got \(4, 3\) at 0",
        effective_sign={nn.Linear: lambda m: m.weight.T},
    )
    refused(
        r"1 \(FlatConv\) has no parameter 'weight'.*weights \(216, 1\).*bv\.Site\(name='1'",
        effective_sign={FlatConv: lambda m: m.weights[:3]},
    )


def test_a_class_that_no_module_has_is_refused() -> None:
    class Lineal(nn.Module):
        pass

    refused(
        "effective_sign names .*Lineal.*did you mean Linear",
        effective_sign={Lineal: lambda m: m.weight},
    )
    refused("activation_sign names .*ReLU", activation_sign={nn.ReLU: lambda m, x: x})
    refused(
        "effective_level names .*Linear.*must be in effective_sign",
        effective_level={nn.Linear: lambda m: m.weight},
    )


def test_weights_without_storage_are_refused_and_not_taken_for_tied() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    with pytest.raises(ConfigError, match="weight of 0 is on the meta device"):
        find_sites(model, effective_sign={nn.Linear: lambda m: m.weight})


def test_no_sites_at_all_are_refused(tmp_path) -> None:
    with pytest.raises(ConfigError, match="found nothing binary"):
        Watch(nn.Linear(3, 3), tmp_path / "run", sites=[])


def test_a_site_of_another_model_is_refused(tmp_path) -> None:
    one, other = nn.Sequential(OfBit(4, 3)), nn.Sequential(OfBit(4, 3))
    sites = find_sites(one, effective_sign={OfBit: lambda m: m.weight})
    with pytest.raises(ConfigError, match="site 0 is no part of the Sequential that is watched"):
        Watch(other, tmp_path / "run", sites=sites)


def test_a_site_made_by_hand(tmp_path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(FlatConv())
    module = model[0]
    site = Site(
        name="mine",
        kind="weight",
        module=module,
        shape=(216, 1),
        effective_sign=lambda m: m.weights,
        latent=module.weights,
    )
    with Watch(model, tmp_path / "run", sites=[site]) as watch:
        model(torch.randn(1, 4, 5, 5)).sum().backward()
        with pytest.warns(RuntimeWarning, match="no product with the weight"):
            watch.step()  # (216, 1) is not the shape that the product uses
    assert load_run(tmp_path / "run").info["sites"][0]["verified"] is False
