"""The binary linear layer: two modes, one function; a fixed scale in place of the latent weight's size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from bvit_analysis.layers import BinaryLinear, BinarySign, RPReLU, TokenMeanShift

SHAPES = [(24, 24), (48, 24), (24, 48), (10, 24)]
VARIANTS = {
    "plain": {},
    "centred": {"centred": True},
    "no scale": {"scaled": False},
    "no input scale": {"input_scale": False},
    "no shortcut": {"shortcut": False},
    "no bias": {"bias": False},
    "no rprelu": {"rprelu": False},
    "bare": {"scaled": False, "input_scale": False, "bias": False, "rprelu": False},
}


def layer(out: int = 24, inputs: int = 24, *, bias: bool = True, rprelu: bool = True, **options):
    generator = torch.Generator().manual_seed(out * 100 + inputs)

    def draw(*shape: int) -> nn.Parameter:
        return nn.Parameter(torch.randn(shape, generator=generator))

    made = BinaryLinear(
        draw(out, inputs),
        draw(out) if bias else None,
        sign=BinarySign(TokenMeanShift(inputs), dim=inputs, gradient="polynomial"),
        activation=RPReLU(out) if rprelu else nn.GELU(),
        **options,
    )
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
        made.weight[0, :2] = torch.tensor([0.0, -0.0])  # both are +1
    return made


def inputs_of(made: BinaryLinear) -> Tensor:
    return torch.randn(3, 5, made.in_features, generator=torch.Generator().manual_seed(1))


def sign(x: Tensor) -> Tensor:
    return torch.where(x >= 0, 1.0, -1.0)


def shortcut(made: BinaryLinear, y: Tensor, x: Tensor) -> Tensor:
    if not made.shortcut:
        return y
    if made.in_features < made.out_features:
        return y + torch.cat([x] * (made.out_features // made.in_features), dim=-1)
    if made.in_features > made.out_features:
        return y + x.unflatten(-1, (-1, made.out_features)).mean(dim=-2)
    return y + x


def parts(made: BinaryLinear, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Signs of the input and of the weight, scale (O, 1), and bias minus gamma."""
    shift = made.sign.shift
    signs = sign(x + (shift.bias - shift.share * x.mean(1, keepdim=True)))
    w = made.weight - made.weight.mean(1, keepdim=True) if made.centred else made.weight
    scale = w.abs().mean(1, keepdim=True) if made.scaled else torch.ones(len(w), 1)
    if made.log_input_scale is not None:
        scale = scale * made.log_input_scale.exp()
    bias = made.bias
    if isinstance(made.activation, RPReLU):
        bias = -made.activation.gamma if bias is None else bias - made.activation.gamma
    return signs, sign(w), scale, bias


def activated(made: BinaryLinear, y: Tensor) -> Tensor:
    f = made.activation
    if not isinstance(f, RPReLU):
        return f(y)
    return torch.where(y > 0, y, f.slope * y) + f.zeta


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_training_mode_multiplies_by_scaled_signs_to_the_bit(variant, shape):
    made = layer(*shape, **VARIANTS[variant]).train()
    x = inputs_of(made)
    with torch.no_grad():
        signs, weight, scale, bias = parts(made, x)
        y = functional.linear(signs, scale * weight, bias)
        assert torch.equal(made(x), activated(made, shortcut(made, y, x)))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_eval_mode_scales_an_exact_integer_to_the_bit(variant, shape):
    made = layer(*shape, **VARIANTS[variant]).eval()
    x = inputs_of(made)
    with torch.no_grad():
        signs, weight, scale, bias = parts(made, x)
        integers = signs.numpy().astype(np.int64) @ weight.numpy().astype(np.int64).T
        y = torch.from_numpy(integers.astype(np.float32)) * scale[:, 0]
        y = y if bias is None else y + bias
        assert torch.equal(made(x), activated(made, shortcut(made, y, x)))


@pytest.mark.parametrize("variant", VARIANTS)
def test_both_modes_agree_to_rounding(variant):
    for shape in SHAPES:
        made = layer(*shape, **VARIANTS[variant])
        x = inputs_of(made)
        torch.testing.assert_close(made.eval()(x), made.train()(x), rtol=1e-5, atol=1e-5)


def test_both_modes_have_the_same_gradients_to_rounding():
    made = layer(48, 24, centred=True)
    x = inputs_of(made)
    gradients = []
    for training in (True, False):
        made.train(training).zero_grad()
        made(x).square().sum().backward()
        gradients.append({name: p.grad.clone() for name, p in made.named_parameters()})
    assert set(gradients[0]) == {name for name, _ in made.named_parameters()}
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-3, msg=name)


@pytest.mark.parametrize("centred", [False, True])
def test_signs_with_their_scale_give_the_same_output_to_the_bit(centred):
    made = layer(24, 24, centred=centred).eval()
    with torch.no_grad():
        made.weight[3] = 2.0 + torch.arange(24)  # one sign all along the row, unless centred
        made.weight[4] = -made.weight[3]
        x = inputs_of(made)
        before, scale = made(x), made.weight_scale().squeeze(1)
        made.weight = nn.Parameter(sign(made.latent()))
        made.fixed_scale = scale
        assert torch.equal(made(x), before)
        assert set(made.weight.unique().tolist()) == {-1.0, 1.0}
    assert made.weight.requires_grad


def test_a_fixed_scale_is_in_the_state_dict_and_no_other_is():
    made = layer()
    assert "fixed_scale" not in made.state_dict()
    made.weight = nn.Parameter(sign(made.latent().detach()))
    made.fixed_scale = torch.full((24,), 0.3)
    state = made.state_dict()
    assert state["fixed_scale"].tolist() == pytest.approx([0.3] * 24)
    other = layer().eval()
    other.load_state_dict(state)
    x = inputs_of(made)
    assert torch.equal(other(x), made.eval()(x))
    with pytest.raises(RuntimeError, match="fixed_scale"):
        made.load_state_dict(layer().state_dict())


def test_no_tokens_and_no_images():
    made = layer(48, 24).eval()
    assert made(torch.zeros(0, 5, 24)).shape == (0, 5, 48)
