"""What the watch finds out about tracked signs in the model's own forward passes."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from bvit_analysis.errors import ConfigError
from bvit_analysis.instruments.spy import WeightSpy
from bvit_analysis.instruments.verification import Verifier, levels_of, nearest_guess
from bvit_analysis.sites import Site, find_sites


def binary(w: Tensor) -> Tensor:
    return torch.where(w >= 0, 1.0, -1.0)


class _Sign(torch.autograd.Function):
    @staticmethod
    def forward(ctx, w):
        return binary(w)

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class Centred(nn.Linear):
    """sign(w - row mean) times a scale per row, by F.linear."""

    def used(self) -> Tensor:
        w = self.weight - self.weight.mean(1, keepdim=True)
        return w.abs().mean(1, keepdim=True) * binary(w)

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.used(), self.bias)


class ByMatmul(Centred):
    def forward(self, x: Tensor) -> Tensor:
        return x @ self.used().t() + self.bias


class ByEinsum(Centred):
    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("...i,oi->...o", x, self.used())


class ByAddmm(Centred):
    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.flatten(0, -2), self.used().t())


class ByBmm(Centred):
    def forward(self, x: Tensor) -> Tensor:
        return torch.bmm(x, self.used().t().expand(len(x), -1, -1))


class ByFunction(Centred):
    """The product in somebody's own autograd function, on a contiguous copy."""

    class Product(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, w):
            return torch.matmul(x, w.t().contiguous())

        @staticmethod
        def backward(ctx, gradient):
            return None, None

    def forward(self, x: Tensor) -> Tensor:
        return self.Product.apply(x, self.used())


class Elementwise(Centred):
    def forward(self, x: Tensor) -> Tensor:
        return (x.unsqueeze(-2) * self.used()).sum(-1)


class Left(Centred):
    def forward(self, x: Tensor) -> Tensor:
        return torch.matmul(self.used(), x.transpose(-1, -2)).transpose(-1, -2)


class CannotBeCopied(Centred):
    """As facebookresearch/bit's QuantizeLinear, of which no deep copy can be made."""

    def __deepcopy__(self, memo):
        raise RuntimeError("Only Tensors created explicitly by the user support deepcopy")


class CentredConv(nn.Conv2d):
    def used(self) -> Tensor:
        w = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return binary(w)

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.used(), None, groups=self.groups, padding=1)


class Transposed(nn.ConvTranspose2d):
    def used(self) -> Tensor:
        return binary(self.weight - self.weight.mean((1, 2, 3), keepdim=True))

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv_transpose2d(x, self.used(), self.bias)


class Embedded(nn.Embedding):
    def used(self) -> Tensor:
        return binary(self.weight - self.weight.mean(1, keepdim=True))

    def forward(self, index: Tensor) -> Tensor:
        return functional.embedding(index, self.used())


class Hidden(Centred):
    """Leaves torch for the product, so that nobody can see it."""

    def forward(self, x: Tensor) -> Tensor:
        made = x.detach().numpy() @ self.used().detach().numpy().T
        return torch.from_numpy(made) + 0 * self.weight.sum()


LAYERS: list[tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = [
    *(
        (lambda kind=kind: kind(12, 12), lambda: torch.randn(3, 5, 12))
        for kind in (
            Centred,
            ByMatmul,
            ByEinsum,
            ByAddmm,
            ByBmm,
            ByFunction,
            Elementwise,
            Left,
            CannotBeCopied,
        )
    ),
    (lambda: CentredConv(6, 4, 3, groups=2), lambda: torch.randn(2, 6, 5, 5)),
    (lambda: Transposed(4, 4, 3), lambda: torch.randn(2, 4, 5, 5)),
    (lambda: Embedded(9, 6), lambda: torch.randint(0, 9, (2, 4))),
]
NAMES = [make().__class__.__name__ for make, _ in LAYERS]


def raw(module: nn.Module) -> Tensor:
    return module.weight


def row_centred(module: nn.Module) -> Tensor:
    w = module.weight
    return w - w.mean(tuple(range(1, w.ndim)), keepdim=True)


def verifier_of(module: nn.Module, sign: Callable[[nn.Module], Tensor]) -> tuple[Verifier, Site]:
    model = nn.Sequential(module)
    (site,) = find_sites(model, effective_sign={type(module): sign})
    return Verifier({7: site}, seen=lambda site_id: None), site


@pytest.mark.parametrize(("make", "inputs"), LAYERS, ids=NAMES)
def test_the_used_weight_is_seen_however_a_layer_multiplies(make, inputs) -> None:
    torch.manual_seed(1)
    module = make()
    spy = WeightSpy(module, (x := inputs(),), tuple(module.weight.shape), module.weight)
    with spy:
        module(x)
    seen = spy.seen()
    assert torch.equal(seen.weight, module.used().detach())
    with torch.no_grad():  # and its computation gives what a later pass would use
        module.weight.add_(torch.randn_like(module.weight))
    assert torch.equal(seen.program.run(), module.used().detach())


@pytest.mark.parametrize(("make", "inputs"), LAYERS, ids=NAMES)
def test_a_wrong_sign_is_refused_in_the_first_pass_and_the_right_one_noted(make, inputs) -> None:
    torch.manual_seed(2)
    module = make()
    with torch.no_grad():
        module.weight.add_(0.3 * torch.randn(len(module.weight), *[1] * (module.weight.ndim - 1)))
    verifier, site = verifier_of(module, row_centred)
    verifier.ask(0)
    module(inputs())
    verdict = verifier.verdicts[7]
    assert (verdict.holds, verdict.compared, verdict.levels) == (True, 1.0, 2)
    assert (len(module._forward_hooks), len(module._forward_pre_hooks)) == (0, 0)  # once is enough

    verifier, site = verifier_of(module, raw)
    verifier.ask(0)
    wrong = ((site.effective() >= 0) != (module.used() > 0)).float().mean().item()
    says = rf"site 0: {wrong:.2%} of the tracked signs differ.*; the weight less its row mean fits; .*{type(module).__name__}: fn"
    with pytest.raises(ConfigError, match=says):
        module(inputs())
    assert (len(module._forward_hooks), len(module._forward_pre_hooks)) == (0, 0)


def test_the_pass_and_all_generators_are_as_without_it() -> None:
    class Noisy(Centred):
        def forward(self, x: Tensor) -> Tensor:
            return functional.dropout(super().forward(x) + torch.rand(()), 0.3)

    passes = []
    for watched in (False, True):
        torch.manual_seed(3)
        module = Noisy(30, 8)
        if watched:
            verifier, _ = verifier_of(module, row_centred)
            verifier.ask(0)
        out = module(torch.randn(4, 30))
        out.square().sum().backward()
        passes.append((out.detach(), module.weight.grad, torch.get_rng_state()))
        if watched:
            assert verifier.verdicts[7].holds
            assert 7 not in verifier.programs or torch.equal(
                verifier.programs[7].run(), module.used()
            )
    for plain, seen in zip(*passes, strict=True):
        assert torch.equal(plain, seen)


def test_what_cannot_be_seen_is_said_and_not_taken_for_right() -> None:
    verifier, _ = verifier_of(Hidden(5, 4), row_centred)
    assert verifier.verdicts[7].describe() == {
        "verified": False,
        "levels": None,
        "unverified": "no forward pass was seen",
    }
    verifier.ask(0)
    verifier.sites[7].module(torch.randn(2, 5))
    with pytest.warns(RuntimeWarning, match=r"1 of 1 sites .*\(0: no product with the weight"):
        verifier.warn()
    assert verifier.unverified() == ["0"]
    assert verifier.verdicts[7].describe()["verified"] is False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        verifier.warn()  # once


def test_a_sign_that_turns_wrong_later_is_a_warning_and_stands_in_the_record() -> None:
    class Scaled(nn.Linear):
        def __init__(self) -> None:
            super().__init__(8, 6, bias=False)
            self.scale = nn.Parameter(torch.ones(6, 1))

        def forward(self, x: Tensor) -> Tensor:
            return functional.linear(x, self.scale * _Sign.apply(self.weight))

    module = Scaled()
    verifier, site = verifier_of(module, raw)
    verifier.ask(0)
    module(torch.randn(2, 8))
    assert verifier.verdicts[7].describe()["verified"]["how"] == "forward pass (mm)"
    with torch.no_grad():
        module.scale[1:3] *= -1  # a learned scale crosses zero
    verifier.ask(500)
    with pytest.warns(
        RuntimeWarning, match=r"33\.33%.* at step 500.*raw weight times the sign of a scale per row"
    ):
        module(torch.randn(2, 8))
    record = verifier.verdicts[7].describe()
    assert record["verified"] is False
    assert record["unverified"] == "33.33% of the signs differed at step 500"
    with pytest.warns(RuntimeWarning), pytest.raises(ConfigError):
        raise_at_once(module)


def raise_at_once(module: nn.Module) -> None:
    """A new watch on the same model refuses the same sign, and names what fits."""
    warnings.warn("seen before", RuntimeWarning, stacklevel=1)
    verifier, _ = verifier_of(module, raw)
    verifier.ask(0)
    module(torch.randn(2, 8))


def test_it_is_found_out_at_the_end_without_a_pass() -> None:
    class Scaled(nn.Linear):
        def __init__(self) -> None:
            super().__init__(8, 6, bias=False)
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor) -> Tensor:
            return functional.linear(x, self.scale * _Sign.apply(self.weight))

    module = Scaled()
    verifier, _ = verifier_of(module, raw)
    verifier.ask(0)
    module(torch.randn(2, 8))
    with torch.no_grad():
        module.scale.neg_()
    with pytest.warns(RuntimeWarning, match=r"100\.00% .* at step 90"):
        verifier.finish(90)
    assert not verifier.verdicts[7].holds


@pytest.mark.parametrize(
    ("used", "says"),
    [
        (lambda w: binary(w), "the raw weight fits"),
        (lambda w: binary(w - w.mean(1, keepdim=True)), "the weight less its row mean fits"),
        (lambda w: 0.2 * binary(w - w.mean()), "the weight less the mean of all fits"),
        (
            lambda w: torch.tensor([[1.0], [-1.0], [1.0], [-1.0]]) * binary(w - w.mean()),
            "the weight less the mean of all times the sign of a scale per row fits",
        ),
    ],
    ids=["raw", "row", "tensor", "scaled"],
)
def test_the_nearest_guess(used, says) -> None:
    torch.manual_seed(5)
    layer = nn.Linear(40, 4)
    with torch.no_grad():
        layer.weight.mul_(2).add_(torch.tensor([[0.3], [-0.2], [0.1], [0.2]]))
    (site,) = find_sites(
        nn.Sequential(layer), effective_sign={nn.Linear: lambda m: m.bias.new_ones(4, 40)}
    )
    assert nearest_guess(site, used(layer.weight.detach())) == says


def test_zeros_of_the_used_weight_are_left_out() -> None:
    class Ternary(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            w = self.weight
            return functional.linear(x, _Sign.apply(w) * (w.abs() > 0.1))

    torch.manual_seed(6)
    module = Ternary(10, 10)
    verifier, _ = verifier_of(module, lambda m: torch.where(m.weight.abs() > 0.1, m.weight, -1.0))
    verifier.ask(0)
    module(torch.randn(2, 10))
    used = int((module.weight.abs() > 0.1).sum())
    verdict = verifier.verdicts[7]
    assert (verdict.compared, verdict.levels) == (used / 100, 3)


def drawn(values: list[float], *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.tensor(values)[torch.randint(0, len(values), shape, generator=generator)]


@pytest.mark.parametrize(
    ("weight", "levels"),
    [
        (drawn([1.0, -1.0], 8, 16), 2),
        (torch.rand(8, 1) * drawn([1.0, -1.0], 8, 16), 2),
        (drawn([1.0, -1.0], 8, 16) * torch.rand(1, 16), 2),  # a scale per column
        (drawn([1.0, 0.0, -1.0], 8, 32), 3),
        (drawn([-2.0, -1.0, 0.0, 1.0], 8, 32) + 1e-8 * torch.rand(8, 32), 4),
        (torch.rand(2, 1) * drawn([1.0, -1.0], 2, 2), 2),
        (torch.randn(8, 30), 17),
        (torch.randn(16, 8), 17),
        (torch.randn(2, 30), 17),
        (torch.ones(3, 5), 1),
    ],
)
def test_levels_of_a_used_weight(weight, levels) -> None:
    assert levels_of(weight) == levels


def test_a_parametrized_layer_is_watched_by_its_base_class() -> None:
    class Binary(nn.Module):
        def forward(self, w: Tensor) -> Tensor:
            return _Sign.apply(w) * w.abs().mean()

    layer = nn.Linear(6, 6)
    parametrize.register_parametrization(layer, "weight", Binary())
    model = nn.Sequential(layer)
    (site,) = find_sites(
        model, effective_sign={nn.Linear: lambda m: m.parametrizations.weight.original}
    )
    assert site.latent is layer.parametrizations.weight.original
    verifier = Verifier({0: site}, seen=lambda site_id: None)
    verifier.ask(0)
    model(torch.randn(3, 6))
    assert verifier.verdicts[0].holds
    assert math.isclose(verifier.verdicts[0].compared, 1.0)
