"""Conversion: the exact modules converted and kept, refusals, calibration, and a hand-written block."""

from __future__ import annotations

import math

import numpy as np
import pytest
import timm
import torch
from torch import nn

from bvit_analysis.config import ModelConfig, Recipe, get_recipe
from bvit_analysis.convert import binarize, build_model, calibrate
from bvit_analysis.errors import ConfigError, UnsupportedModelError
from bvit_analysis.layers import BinaryAttention, BinaryLinear
from bvit_analysis.sites import find_sites
from tests.support.tiny_vit import tiny_vit


def small_vit(**changes) -> nn.Module:
    return tiny_vit(**({"img_size": 28, "depth": 2, "num_classes": 10} | changes))


def images(count: int = 4) -> torch.Tensor:
    return torch.randn(count, 1, 28, 28, generator=torch.Generator().manual_seed(1))


def shake(model: nn.Module) -> None:
    """Give every zero-initialised parameter a value, so that no term of a formula hides behind a zero."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.endswith("weight"):
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)


def test_exact_lists_of_a_small_vit():
    model = small_vit()
    report = binarize(model, "baseline")
    names = ["attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"]
    assert report.linears == [f"blocks.{i}.{name}" for i in range(2) for name in names]
    assert report.attentions == ["blocks.0.attn", "blocks.1.attn"]
    kept = {"patch_embed.proj", "norm", "head", "cls_token", "pos_embed"}
    kept |= {f"blocks.{i}.norm{j}" for i in range(2) for j in (1, 2)}
    assert set(report.kept) == kept
    assert not [m for n, m in model.named_modules() if isinstance(m, nn.Linear) and n != "head"]


def test_deit_small_counts():
    model = timm.create_model("deit_small_patch16_224", num_classes=1000)
    assert sum(p.numel() for p in model.parameters()) == 22_050_664
    report = binarize(model, "binaryvit")
    assert (len(report.linears), len(report.attentions)) == (48, 12)
    kinds = [site.kind for site in find_sites(model)]
    assert (kinds.count("weight"), kinds.count("activation"), kinds.count("attention")) == (
        48,
        84,
        12,
    )


@pytest.mark.parametrize("name", ["deit_tiny_patch16_224", "deit_base_patch16_224"])
def test_other_deits_convert(name):
    with torch.device("meta"):
        model = timm.create_model(name)
    assert len(binarize(model, "baseline").linears) == 48


def test_pretrained_weights_stay_the_same_parameters():
    model = small_vit()
    before = dict(model.named_parameters())
    values = {name: p.detach().clone() for name, p in before.items()}
    binarize(model, "binaryvit")
    after = dict(model.named_parameters())
    for name, parameter in before.items():
        assert after[name] is parameter
        assert torch.equal(parameter, values[name])


def test_binarize_draws_nothing_from_the_global_generator():
    model = small_vit()
    state = torch.get_rng_state()
    binarize(model, Recipe(shift="bottleneck"))
    assert torch.equal(state, torch.get_rng_state())


# One block by hand ----------------------------------------------------------------------------------------------------


def by_hand(block: nn.Module, x: np.ndarray, recipe: Recipe) -> np.ndarray:
    """The forward pass of one binary block in float64 numpy, typed from the docstrings."""

    def value(tensor) -> np.ndarray:
        return tensor.detach().double().numpy()

    def sign(z):
        return np.where(z >= 0, 1.0, -1.0)

    def norm(layer, z):
        centred = z - z.mean(-1, keepdims=True)
        size = np.sqrt((centred**2).mean(-1, keepdims=True) + layer.eps)
        return centred / size * value(layer.weight) + value(layer.bias)

    def shifted(binary_sign, z):
        if recipe.shift == "none":
            return z
        shift = binary_sign.shift
        if recipe.shift == "static":
            return z + value(shift.bias)
        mean = z.mean(axis=1, keepdims=True)
        if recipe.shift == "token_mean":
            return z + value(shift.bias) - value(shift.share) * mean
        hidden = mean @ value(shift.down).T
        hidden = hidden / (1 + np.exp(-hidden))
        return z + hidden @ value(shift.up).T + value(shift.bias)

    def linear(layer, z):
        w = value(layer.weight)
        if recipe.centre_weights:
            w = w - w.mean(1, keepdims=True)
        scale = np.abs(w).mean(1) if recipe.weight_scale == "channel" else np.ones(len(w))
        if recipe.activation_scale:
            scale = scale * math.exp(value(layer.log_input_scale)[0])
        y = (sign(shifted(layer.sign, z)) @ sign(w).T) * scale + value(layer.bias)
        if recipe.shortcuts:
            into, out = w.shape[1], w.shape[0]
            if into == out:
                y = y + z
            elif into < out:
                y = y + np.concatenate([z] * (out // into), axis=-1)
            else:
                y = y + sum(z[..., i * out : (i + 1) * out] for i in range(into // out)) / (
                    into // out
                )
        if not recipe.rprelu:
            return y
        f = layer.activation
        above = y - value(f.gamma)
        return np.where(above > 0, above, value(f.slope) * above) + value(f.zeta)

    def attention(layer, z):
        batch, tokens, dim = z.shape
        heads, width = layer.num_heads, dim // layer.num_heads
        q, k, v = np.split(linear(layer.qkv, z), 3, axis=-1)
        out = np.zeros_like(z)
        q, k, v = (
            sign(shifted(s, t))
            for s, t in ((layer.q_sign, q), (layer.k_sign, k), (layer.v_sign, v))
        )
        for b in range(batch):
            for h in range(heads):
                part = slice(h * width, (h + 1) * width)
                factor = math.exp(value(layer.log_score_scale)[h, 0, 0]) / math.sqrt(width)
                scores = q[b, :, part] @ k[b, :, part].T * factor
                a = math.exp(value(layer.probabilities.log_scale)[h, 0, 0])
                if recipe.attention == "boolean":
                    bits = scores >= 0
                else:
                    e = np.exp(scores - scores.max(-1, keepdims=True))
                    bits = e / e.sum(-1, keepdims=True) >= a / 2
                out[b, :, part] = (
                    bits @ v[b, :, part] * a * math.exp(value(layer.log_value_scale)[h, 0, 0])
                )
        return linear(layer.proj, out)

    def gelu(z):
        return z * 0.5 * (1 + np.vectorize(math.erf)(z / math.sqrt(2)))

    x = x + attention(block.attn, norm(block.norm1, x))
    hidden = linear(block.mlp.fc1, norm(block.norm2, x))
    return x + linear(block.mlp.fc2, hidden if recipe.rprelu else gelu(hidden))


RECIPES_BY_HAND = {
    "baseline": get_recipe("baseline"),
    "asm": get_recipe("asm"),
    "static": Recipe(shift="static"),
    "bottleneck": Recipe(shift="bottleneck", shift_reduction=4),
    "centred": Recipe(centre_weights=True),
    "boolean": Recipe(attention="boolean"),
    "no scale": Recipe(weight_scale="none", activation_scale=False),
    "no shortcut": Recipe(shortcuts=False),
    "no rprelu": Recipe(rprelu=False),
    "clip": Recipe(activation_gradient="clip"),
}


@pytest.mark.parametrize("name", RECIPES_BY_HAND)
def test_block_equals_a_forward_written_by_hand(name):
    recipe = RECIPES_BY_HAND[name]
    model = small_vit().double()
    binarize(model, recipe)
    model.double()
    calibrate(model, images().double())
    shake(model)
    block = model.blocks[0]
    x = torch.randn(3, 17, 16, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    with torch.no_grad():
        got = block(x).numpy()
    np.testing.assert_allclose(got, by_hand(block, x.numpy(), recipe), rtol=1e-9, atol=1e-9)


# Behaviour ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RECIPES_BY_HAND)
def test_every_parameter_gets_a_finite_gradient(name):
    model = small_vit()
    binarize(model, RECIPES_BY_HAND[name])
    calibrate(model, images())
    shake(model)
    model(images(8)).square().sum().backward()
    for path, parameter in model.named_parameters():
        assert parameter.grad is not None, f"no gradient for {path}"
        assert bool(parameter.grad.isfinite().all()), f"non-finite gradient for {path}"


def test_all_products_in_a_block_are_of_signs_or_levels():
    model = small_vit()
    binarize(model, "binaryvit")
    calibrate(model, images())
    seen: list[torch.Tensor] = []
    for module in model.modules():
        if isinstance(module, BinaryAttention):
            for sign in (module.q_sign, module.k_sign, module.v_sign):
                sign.register_forward_hook(lambda m, i, output: seen.append(output))
        if isinstance(module, BinaryLinear):
            module.sign.register_forward_hook(lambda m, i, output: seen.append(output))
            weight = module.binary_weight() / module.weight_scale()
            torch.testing.assert_close(weight.abs(), torch.ones_like(weight))
    model.eval()(images())
    assert len(seen) == 2 * 7
    assert all(bool((tensor.abs() == 1).all()) for tensor in seen)


def test_shift_starts_as_nothing():
    plain, shifted = small_vit(), small_vit()
    binarize(plain, "baseline")
    for kind in ("static", "token_mean", "bottleneck"):
        shifted = small_vit()
        binarize(shifted, Recipe(shift=kind))
        with torch.no_grad():
            assert torch.equal(plain.eval()(images()), shifted.eval()(images()))


def test_calibration_is_explicit_and_leaves_no_hook():
    model = small_vit()
    binarize(model, "baseline")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        model(images())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    model.train()
    calibrate(model, images())
    assert model.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    changed = {
        name for name, value in model.state_dict().items() if not torch.equal(before[name], value)
    }
    assert changed
    assert all("log_" in name for name in changed)


def test_calibrated_input_scale_is_the_mean_size_of_the_input():
    model = small_vit()
    binarize(model, "baseline")
    inputs = []
    handle = model.blocks[0].attn.qkv.register_forward_hook(lambda m, i, o: inputs.append(i[0]))
    calibrate(model, images())
    handle.remove()
    scale = model.blocks[0].attn.qkv.log_input_scale.exp().item()
    assert scale == pytest.approx(inputs[0].abs().mean().item(), rel=1e-5)


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "swin_tiny_patch4_window7_224",
        "vit_small_patch16_rope_224",
        "vit_giant_patch14_dinov2",
    ],
)
def test_other_architectures_are_refused_untouched(name):
    with torch.device("meta"):
        model = timm.create_model(name)
    before = [type(module) for module in model.modules()]
    with pytest.raises(UnsupportedModelError, match="supported is a timm VisionTransformer"):
        binarize(model, "baseline")
    assert [type(module) for module in model.modules()] == before


def test_binarizing_twice_is_refused():
    model = small_vit()
    binarize(model, "baseline")
    with pytest.raises(UnsupportedModelError, match="binary already"):
        binarize(model, "baseline")


def test_unknown_names_say_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'asm'"):
        binarize(small_vit(), "asn")
    with pytest.raises(ConfigError, match="deit_small_patch16_224"):
        build_model(
            ModelConfig(name="deit_smal_patch16_224"), img_size=224, in_chans=3, num_classes=10
        )
    with pytest.raises(ConfigError, match="not a multiple"):
        build_model(ModelConfig(patch_size=5), img_size=28, in_chans=1, num_classes=10)


def test_masks_are_refused():
    model = small_vit()
    binarize(model, "baseline")
    with pytest.raises(UnsupportedModelError, match="no mask"):
        model.blocks[0].attn(torch.randn(1, 17, 16), attn_mask=torch.zeros(17, 17))
