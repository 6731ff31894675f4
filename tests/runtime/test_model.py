"""The packed model against the simulated one: equal to the bit, whatever the recipe, the ViT and the images."""

from __future__ import annotations

import copy
import importlib.util
import math
import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bvit_analysis.config import RECIPES, ModelConfig, Recipe
from bvit_analysis.convert import binarize, build_model
from bvit_analysis.errors import BvitError, ConfigError, UnsupportedModelError
from bvit_analysis.layers import (
    BinaryAttention,
    BinaryLinear,
    BinarySign,
    RPReLU,
    TokenMeanShift,
)
from bvit_analysis.packed.model import load_packed, save_packed
from bvit_analysis.runtime.layers import PackedAttention, PackedLinear
from bvit_analysis.runtime.model import load_runtime
from bvit_analysis.runtime.parity import parity_certificate, random_weights

SMALL = ModelConfig(patch_size=7, embed_dim=48, depth=2, num_heads=2)
BACKENDS = ["numpy", "numba"] if importlib.util.find_spec("numba") else ["numpy"]
VARIANTS = {
    "static": Recipe(shift="static"),
    "bottleneck": Recipe(shift="bottleneck"),
    "boolean": Recipe(attention="boolean", shift="token_mean"),
    "no_rprelu": Recipe(rprelu=False),
    "no_shortcuts": Recipe(shortcuts=False),
    "no_scales": Recipe(weight_scale="none", activation_scale=False),
    "centred": Recipe(centre_weights=True),
}


def small(recipe: str | Recipe = "binaryvit", config: ModelConfig = SMALL) -> nn.Module:
    return random_weights(config, recipe, img_size=28, in_chans=1, num_classes=10)


def images(count: int = 3, seed: int = 1) -> Tensor:
    return torch.randn(count, 1, 28, 28, generator=torch.Generator().manual_seed(seed))


def logits(model: nn.Module, batch: Tensor) -> Tensor:
    with torch.no_grad():
        return model(batch)


def assert_same(wanted: Tensor, got: Tensor) -> None:
    """Equal to the bit, NaN included."""
    torch.testing.assert_close(got, wanted, rtol=0, atol=0, equal_nan=True)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "recipe", [*RECIPES.values(), *VARIANTS.values()], ids=[*RECIPES, *VARIANTS]
)
def test_logits_and_every_decision_equal_the_simulated_model(recipe: Recipe, backend: str) -> None:
    model = small(recipe)
    certificate = parity_certificate(model, load_runtime(model, backend=backend), images(5), 2)
    assert certificate.identical_images == certificate.images == 5
    assert certificate.differing == {}
    per_block = (
        17 * (2 * 48 + 48 + 192 + 3 * 48) + 2 * 17 * 17
    )  # signs of 4 linears and q, k, v; attention bits
    assert certificate.decisions == 5 * 2 * per_block


@pytest.mark.parametrize(
    ("name", "width", "heads"),
    [
        ("vit_medium_patch16_reg4_gap_256", 64, 2),  # registers, no class token, mean pooling
        ("deit_small_distilled_patch16_224", 64, 1),  # class and distillation tokens, two heads
        ("vit_base_patch16_siglip_224", 66, 2),  # pooling by attention; 33 channels a head
        ("deit3_small_patch16_224", 40, 5),  # layer scale; 8 channels a head
    ],
)
def test_other_vits(name: str, width: int, heads: int) -> None:
    config = ModelConfig(name=name, patch_size=7, embed_dim=width, depth=1, num_heads=heads)
    model = small("asm", config)
    assert_same(logits(model, images()), logits(load_runtime(model), images()))


def test_norms_of_queries_keys_and_context() -> None:
    model = build_model(SMALL, img_size=28, in_chans=1, num_classes=10)
    for block in model.blocks:
        block.attn.q_norm, block.attn.k_norm = nn.LayerNorm(24), nn.LayerNorm(24)
        block.attn.norm = nn.LayerNorm(48)
    binarize(model, "binaryvit")
    model.eval()
    assert_same(logits(model, images()), logits(load_runtime(model), images()))


@pytest.mark.parametrize("backend", BACKENDS)
def test_ties_of_attention_are_decided_by_torch_itself(backend: str) -> None:
    model = small()
    for module in model.modules():
        if isinstance(module, BinaryAttention):
            # nearly equal probabilities of about 1/17 against half a level of 2/17: every row is near its tie
            module.log_score_scale.data.fill_(-14)
            module.probabilities.log_scale.data.fill_(math.log(2 / 17))
    certificate = parity_certificate(model, load_runtime(model, backend=backend), images(4))
    assert certificate.differing == {}
    assert certificate.identical_images == 4


@pytest.mark.parametrize("float_dtype", ["float32", "float16"])
@pytest.mark.parametrize("recipe", ["binaryvit", "centred", "no_scales"])
def test_a_packed_file_runs_without_float_weights(
    tmp_path: Path, recipe: str, float_dtype: str
) -> None:
    chosen = VARIANTS.get(recipe) or RECIPES[recipe]
    path = save_packed(
        small(chosen), tmp_path / "m.bvit", meta={"recipe": chosen, "model": SMALL.name}, float_dtype=float_dtype
    )  # fmt: skip
    runtime = load_runtime(path)
    assert_same(logits(load_packed(path), images()), logits(runtime, images()))
    held = {**dict(runtime.named_parameters()), **dict(runtime.named_buffers())}
    assert not any(tensor.is_meta for tensor in held.values())
    blocks = {name: tensor for name, tensor in held.items() if ".blocks." in name}
    largest = max(tensor.numel() for tensor in blocks.values() if tensor.is_floating_point())
    assert largest == 4 * 48  # a vector over the hidden channels of the MLP
    words = sum(t.numel() for t in blocks.values() if t.dtype == torch.int64)
    assert words == 2 * (144 + 48 + 192 + 3 * 48)  # rows of 48 take a word, those of 192 three


def test_the_model_that_is_packed_stays_as_it_was() -> None:
    model = small().train()
    seen: list[int] = []
    handle = model.blocks[0].register_forward_hook(lambda *_: seen.append(1))
    before = copy.deepcopy(model.state_dict())
    runtime = load_runtime(model)
    runtime(images())
    assert seen == []  # hooks are not taken over
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    model.blocks[0].norm1.weight.data.zero_()
    assert_same(logits(load_runtime(_restored(model, before)), images()), logits(runtime, images()))
    handle.remove()


def _restored(model: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    model.load_state_dict(state)
    return model


def test_images_without_finite_values_touch_no_other_image() -> None:
    model = small()
    batch = images(4)
    batch[1, 0, 0, 0] = math.nan
    batch[2, 0, 5, 5] = math.inf
    batch[3] = -math.inf
    wanted = logits(model, batch)
    for backend in BACKENDS:
        got = logits(load_runtime(model, backend=backend), batch)
        assert_same(wanted, got)
        # alone, torch's patch embedding and head may add in another order
        torch.testing.assert_close(got[:1], logits(model, batch[:1]), rtol=1e-5, atol=1e-6)


def test_odd_batches() -> None:
    model = small()
    runtime = load_runtime(model)
    assert runtime(images(0)).shape == (0, 10)
    assert_same(logits(model, images(1)), runtime(images(1)))
    strided = images(3).transpose(2, 3)
    assert not strided.is_contiguous()
    assert_same(logits(model, strided), runtime(strided))
    assert not runtime(images()).requires_grad


def test_cutting_a_batch_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small()
    runtime = load_runtime(model)
    whole = runtime(images(5))
    monkeypatch.setattr("bvit_analysis.runtime.blocks.CHUNK_BYTES", 2 * 4 * 17 * 192)  # two images
    assert_same(whole, runtime(images(5)))
    certificate = parity_certificate(model, runtime, images(5))
    assert certificate.identical_images == 5
    assert certificate.differing == {}
    with torch.inference_mode():
        assert_same(whole, runtime(images(5)))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(4, 128), (1, 32), (70, 70), (35, 70), (90, 30), (50, 30)])
def test_shortcuts_of_any_shape(shape: tuple[int, int], backend: str) -> None:
    outputs, inputs = shape
    sign = BinarySign(TokenMeanShift(inputs), dim=inputs, gradient="clip")
    weight, bias = (nn.Parameter(torch.randn(*size)) for size in (shape, (outputs,)))
    layer = BinaryLinear(weight, bias, sign=sign, activation=RPReLU(outputs)).eval()
    x = torch.randn(2, 9, inputs)
    assert_same(logits(layer, x), load_runtime(layer, backend=backend)(x))


def test_layers_take_strided_and_empty_tokens() -> None:
    model = small("asm")
    runtime = load_runtime(model)
    layer, packed = model.blocks[0].mlp.fc1, runtime.get_submodule("skeleton.blocks.0.mlp.fc1")
    wide = torch.randn(2, 5, 96)
    for x in (wide[..., ::2], wide[..., :48], wide[:, :1, 48:], wide[:0, :, :48]):
        torch.testing.assert_close(packed(x), logits(layer, x), rtol=0, atol=0)
    attention = runtime.get_submodule("skeleton.blocks.0.attn")
    for tokens in (1, 5, 64, 65, 130):
        x = torch.randn(2, tokens, 48)
        assert_same(logits(model.blocks[0].attn, x), attention(x))


def test_two_threads_at_once() -> None:
    runtime = load_runtime(small())
    batches = [images(6, seed) for seed in range(4)]
    wanted = [runtime(batch) for batch in batches]
    wrong: list[int] = []

    def work(index: int) -> None:
        for _ in range(5):
            if not torch.equal(runtime(batches[index]), wanted[index]):
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_what_is_not_inference_is_refused() -> None:
    runtime = load_runtime(small())
    with pytest.raises(ConfigError, match="cannot be trained"):
        runtime.train()
    assert not any(module.training for module in runtime.modules())
    assert runtime.eval() is runtime
    with pytest.raises(ConfigError, match="no gradient"):
        runtime(images().requires_grad_())
    with torch.no_grad():
        runtime(images().requires_grad_())
    for wrong in (images().double(), images().to("meta")):
        with pytest.raises(ConfigError, match="float32 images on the CPU"):
            runtime(wrong)
    for wrong in (images()[0], images().repeat(1, 3, 1, 1), images()[..., :21]):
        with pytest.raises(ConfigError, match=r"must be of shape \(B, 1, 28, 28\)"):
            runtime(wrong)
    for move in (runtime.half, runtime.double, lambda: runtime.to("meta")):
        with pytest.raises(ConfigError, match="float32 on the CPU"):
            move()
    with torch.autocast("cpu"), pytest.raises(ConfigError, match="autocast"):
        runtime(images())
    assert runtime(images()).dtype == torch.float32


def test_layers_refuse_what_they_would_misread() -> None:
    layers = [m for m in load_runtime(small()).modules() if isinstance(m, PackedLinear)]
    layer = layers[0]
    x = torch.randn(2, 5, 48)
    for wrong in (x[0], x[..., :47], x.double(), x.clone().requires_grad_()):
        with pytest.raises(ConfigError, match="PackedLinear"):
            layer(wrong)
    layer.train()
    with pytest.raises(ConfigError, match="inference alone"):
        layer(x)


def test_masks_are_refused() -> None:
    runtime = load_runtime(small())
    attention = next(m for m in runtime.modules() if isinstance(m, PackedAttention))
    with pytest.raises(UnsupportedModelError, match="no mask"):
        attention(torch.randn(1, 5, 48), is_causal=True)


def test_what_cannot_be_packed_is_refused(tmp_path: Path) -> None:
    floats = build_model(SMALL, img_size=28, in_chans=1, num_classes=10)
    with pytest.raises(UnsupportedModelError, match="no binary linear"):
        load_runtime(floats)
    with pytest.raises(ConfigError, match=r"torch\.float64"):
        load_runtime(small().double())
    with pytest.raises(ConfigError, match="numpi"):
        load_runtime(small(), backend="numpi")
    with pytest.raises(BvitError, match=r"nothing\.bvit"):
        load_runtime(tmp_path / "nothing.bvit")


def test_a_single_layer_can_be_packed() -> None:
    layer = small().blocks[0].mlp.fc2
    x = torch.randn(2, 3, 192)
    assert_same(logits(layer, x), load_runtime(layer)(x))


def test_copies_and_state_dicts() -> None:
    runtime = load_runtime(small())
    other = copy.deepcopy(runtime)
    other.load_state_dict(runtime.state_dict())
    assert torch.equal(other(images()), runtime(images()))
