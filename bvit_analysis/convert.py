"""From a float timm ViT to a binary one: which modules are converted, which are kept, and why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import timm
import torch
from timm.layers import Attention, Mlp
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from bvit_analysis.config import ModelConfig, Recipe, get_recipe
from bvit_analysis.config.recipes import given
from bvit_analysis.errors import ConfigError, UnsupportedModelError
from bvit_analysis.layers.activation import RPReLU
from bvit_analysis.layers.attention import BinaryAttention, BinaryProbabilities
from bvit_analysis.layers.attention_rule import make_rule
from bvit_analysis.layers.linear import BinaryLinear
from bvit_analysis.layers.shift import BinarySign, make_shift
from bvit_analysis.pretrained import check_model_name, check_names, timm_arguments

SUPPORTED = (
    "a timm VisionTransformer (ViT, DeiT) whose blocks are timm's Block with plain Attention and Mlp,"
    " for example 'deit_small_patch16_224'"
)

_KEPT_REASONS = {
    "patch_embed": "float by the recipe: the input image is not binary",
    "head": "float by the recipe: the classifier",
    "norm": "float by the recipe: normalisation",
    "position": "float by the recipe: position embedding and prefix tokens",
}


@dataclass
class ConversionReport:
    """What binarize did: converted and kept module paths, each with a reason, and the recipe used."""

    recipe: Recipe
    "The recipe, in full."
    converted: dict[str, str] = field(default_factory=dict)
    "Module path -> what it became."
    kept: dict[str, str] = field(default_factory=dict)
    "Module or parameter path -> why it stays float."
    notes: list[str] = field(default_factory=list)
    "What a reader should know, for example a shortcut that the shapes do not allow."

    @property
    def linears(self) -> list[str]:
        """Paths of the binary linears, in model order."""
        return [name for name, what in self.converted.items() if what.startswith("BinaryLinear")]

    @property
    def attentions(self) -> list[str]:
        """Paths of the binary attentions, in model order."""
        return [name for name, what in self.converted.items() if what.startswith("BinaryAttention")]

    def __str__(self) -> str:
        lines = [
            f"recipe {self.recipe.name}: {len(self.linears)} binary linears, {len(self.attentions)} binary"
            f" attentions, {len(self.kept)} modules or parameters kept float"
        ]
        lines += [f"  converted {name}: {what}" for name, what in self.converted.items()]
        lines += [f"  kept      {name}: {why}" for name, why in self.kept.items()]
        return "\n".join(lines + [f"  note      {note}" for note in self.notes])


def binarize(model: nn.Module, recipe: str | Recipe = "binaryvit") -> ConversionReport:
    """Binarize a timm ViT in place, keeping its float weights as the latent weights.

    Both operands of the four linears and of the two attention products of each block become 1-bit. Patch embedding,
    head, norms, positions and prefix tokens stay float. Nothing depends on data here: call calibrate() next.

    Args:
        model: A timm VisionTransformer, pretrained or not.
        recipe: A preset name ('baseline', 'asm', 'grs', 'binaryvit') or a Recipe, whose shift and attention may be
            classes or objects of your own.

    Returns:
        The converted and the kept modules, each with a reason.

    Raises:
        ConfigError: If the recipe's name is unknown, or its shift or attention cannot be made.
        UnsupportedModelError: If the model is not of the supported architecture, or is binary already. The model is
            untouched then.
    """
    recipe = get_recipe(recipe)
    _check_supported(model)
    assert isinstance(model, VisionTransformer)
    check_layers(recipe, model.embed_dim)
    report = ConversionReport(recipe=recipe)
    tokens = model.patch_embed.num_patches + model.num_prefix_tokens
    for index, block in enumerate(model.blocks):
        assert isinstance(block, Block)
        assert isinstance(block.attn, Attention)
        path = f"blocks.{index}"
        block.attn = _binary_attention(block.attn, f"{path}.attn", recipe, tokens, report)
        mlp = block.mlp
        assert isinstance(mlp, Mlp)
        assert isinstance(mlp.fc1, nn.Linear)
        assert isinstance(mlp.fc2, nn.Linear)
        # fc1's RPReLU takes the place of the model's nonlinearity, so it alone starts with a leak.
        fc1 = _binary_linear(mlp.fc1, f"{path}.mlp.fc1", recipe, 0.25, report)
        fc2 = _binary_linear(mlp.fc2, f"{path}.mlp.fc2", recipe, 1.0, report)
        mlp.add_module("fc1", fc1)
        mlp.add_module("fc2", fc2)
        if recipe.rprelu:
            mlp.act = nn.Identity()
            report.converted[f"{path}.mlp.act"] = "Identity: RPReLU inside fc1 takes its place"
        else:
            report.kept[f"{path}.mlp.act"] = (
                "the recipe has no RPReLU, so the model's own activation stays"
            )
    _list_kept(model, report)
    return report


def check_layers(recipe: Recipe, dim: int) -> None:
    """Make a recipe's shift and attention rule once on trial, so that a mistake in them leaves a model untouched.

    Args:
        recipe: The recipe.
        dim: Channels C of the trial.

    Raises:
        ConfigError: If one is only named, or is not what it should be.
    """
    make_rule(given(recipe, "attention"))
    make_shift(given(recipe, "shift"), dim, reduction=recipe.shift_reduction)


@torch.no_grad()
def calibrate(model: nn.Module, images: Tensor) -> None:
    """Set every learned scale of a binarized model from one batch of images, in one forward pass.

    Input scales become E|x| after the shift, head scales E|q| E|k| and E|v|, attention scales the least-squares ones.
    Each layer sees inputs made by layers that are calibrated already. The model's mode and buffers stay as they were.

    Args:
        model: A model that binarize() converted.
        images: Normalised images, (B, channels, height, width).
    """
    hooks = []
    training = model.training
    try:
        for module in model.modules():
            if isinstance(module, BinaryLinear):
                hooks.append(module.sign.shift.register_forward_hook(_call(module.calibrate)))
            elif isinstance(module, BinaryAttention):
                for name, sign in zip(
                    "qkv", (module.q_sign, module.k_sign, module.v_sign), strict=True
                ):
                    hooks.append(sign.shift.register_forward_hook(_call_named(module, name)))
                hooks.append(module.probabilities.register_forward_pre_hook(_calibrate_scores))
        model.eval()
        model(images)
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()


def build_model(
    config: ModelConfig, *, img_size: int | None, in_chans: int, num_classes: int
) -> VisionTransformer:
    """Create the float ViT a configuration names; random weights come from torch's global generator.

    Where the configuration has a checkpoint, weights are that file's and no hub is asked. A head for another number of
    classes stays random, and timm fits positions and first convolution to other sizes and channels.

    Args:
        config: timm's model name and what to change in it.
        img_size: Side of the image, pixels; None keeps timm's.
        in_chans: Channels of the image.
        num_classes: Classes of the head.

    Raises:
        ConfigError: If timm does not know the name, the image does not split into patches, the width does not split into
            heads, or the weights cannot be had or do not fit.
        UnsupportedModelError: If the model is not of the supported architecture.
    """
    check_model_name(config.name)
    changes = {
        name: getattr(config, name)
        for name in ("patch_size", "embed_dim", "depth", "num_heads")
        if getattr(config, name)
    }
    if config.patch_size and img_size and img_size % config.patch_size:
        raise ConfigError(
            f"img_size {img_size} is not a multiple of patch_size {config.patch_size}"
        )
    if img_size:
        changes["img_size"] = img_size
    weights = timm_arguments(config)
    try:
        model: Any = timm.create_model(
            config.name,
            in_chans=in_chans,
            num_classes=num_classes,
            drop_path_rate=config.drop_path,
            **weights,
            **changes,
        )
    except (RuntimeError, AssertionError, TypeError, ValueError, LookupError, OSError) as error:
        raise _not_built(config, error) from error
    model.pretrained_cfg.pop("state_dict", None)  # timm would keep every weight twice
    check_names(config, model.state_dict())
    _check_supported(model)
    assert isinstance(model, VisionTransformer)
    return model


def _not_built(config: ModelConfig, error: Exception) -> ConfigError:
    said = "; ".join(line.strip() for line in str(error).splitlines() if line.strip())
    reason = f"{type(error).__name__}: {said[:200]}"
    if config.checkpoint:
        return ConfigError(
            f"{config.checkpoint} does not fit {config.name} as it is set here ({reason}); give the weights of that model,"
            " or change model.*"
        )
    if config.pretrained:
        return ConfigError(
            f"no pretrained weights of {config.name} ({reason}); they come from timm's cache or a network and fit timm's"
            " own sizes only: give a file as model.checkpoint, or set model.pretrained=false"
        )
    return ConfigError(
        f"timm cannot build {config.name} as it is set here ({reason}); change model.*"
    )


def _call(calibrator: Callable[[Tensor], None]) -> Callable[[nn.Module, object, Tensor], None]:
    return lambda module, inputs, output: calibrator(output)


def _call_named(
    attention: BinaryAttention, name: str
) -> Callable[[nn.Module, object, Tensor], None]:
    return lambda module, inputs, output: attention.calibrate(name, output)


def _calibrate_scores(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    assert isinstance(module, BinaryProbabilities)
    module.calibrate(inputs[0])


def _check_supported(model: nn.Module) -> None:
    def refuse(what: str) -> UnsupportedModelError:
        return UnsupportedModelError(f"cannot binarize {what}; supported is {SUPPORTED}")

    if not isinstance(model, VisionTransformer):
        raise refuse(f"a {type(model).__name__}")
    for index, block in enumerate(model.blocks):
        path = f"blocks.{index}"
        if isinstance(getattr(block, "attn", None), BinaryAttention):
            raise refuse(f"{path}.attn, which is binary already")
        if type(block) is not Block:
            raise refuse(f"{path} of type {type(block).__name__}")
        if type(block.attn) is not Attention or getattr(block.attn, "gate", None) is not None:
            raise refuse(f"{path}.attn of type {type(block.attn).__name__}, or gated")
        if block.attn.proj.out_features != block.attn.qkv.in_features:
            raise refuse(f"{path}.attn whose output is not as wide as its input")
        if type(block.mlp) is not Mlp or not isinstance(block.mlp.fc1, nn.Linear):
            raise refuse(f"{path}.mlp of type {type(block.mlp).__name__}, or convolutional")


def _binary_sign(name: str, dim: int, recipe: Recipe) -> BinarySign:
    shift = make_shift(given(recipe, "shift"), dim, reduction=recipe.shift_reduction, name=name)
    return BinarySign(shift, dim=dim, gradient=recipe.activation_gradient)


def _binary_linear(
    linear: nn.Linear, name: str, recipe: Recipe, slope: float, report: ConversionReport
) -> BinaryLinear:
    assert isinstance(linear.weight, nn.Parameter)
    layer = BinaryLinear(
        linear.weight,
        linear.bias,
        sign=_binary_sign(f"{name}.sign", linear.in_features, recipe),
        activation=RPReLU(linear.out_features, slope=slope) if recipe.rprelu else nn.Identity(),
        scaled=recipe.weight_scale == "channel",
        centred=recipe.centre_weights,
        input_scale=recipe.activation_scale,
        shortcut=recipe.shortcuts,
    )
    report.converted[name] = f"BinaryLinear {tuple(linear.weight.shape)}, weights and inputs 1-bit"
    if recipe.shortcuts and not layer.shortcut:
        report.notes.append(
            f"{name}: no shortcut, neither of {tuple(linear.weight.shape)} divides the other"
        )
    return layer.to(linear.weight.device)


def _binary_attention(
    attention: Attention, path: str, recipe: Recipe, tokens: int, report: ConversionReport
) -> BinaryAttention:
    report.converted[path] = "BinaryAttention, both operands of both products 1-bit"
    dim = attention.qkv.out_features // 3
    signs = {
        f"{letter}_sign": _binary_sign(f"{path}.{letter}_sign", dim, recipe) for letter in "qkv"
    }
    rule = make_rule(given(recipe, "attention"))
    probabilities = BinaryProbabilities(attention.num_heads, tokens=tokens, rule=rule)
    binary = BinaryAttention(
        qkv=_binary_linear(attention.qkv, f"{path}.qkv", recipe, 1.0, report),
        proj=_binary_linear(attention.proj, f"{path}.proj", recipe, 1.0, report),
        probabilities=probabilities,
        num_heads=attention.num_heads,
        q_norm=attention.q_norm,
        k_norm=attention.k_norm,
        norm=attention.norm,
        proj_drop=attention.proj_drop,
        **signs,
    )
    return binary.to(attention.qkv.weight.device)


def _list_kept(model: VisionTransformer, report: ConversionReport) -> None:
    inside = tuple(f"{name}." for name in report.converted)
    for name, module in model.named_modules():
        leaf = next(module.children(), None) is None
        has_parameters = next(module.parameters(recurse=False), None) is not None
        if leaf and has_parameters and not name.startswith(inside):
            report.kept[name] = _reason(name)
    for name, _ in model.named_parameters(recurse=False):
        report.kept[name] = _KEPT_REASONS["position"]


def _reason(name: str) -> str:
    if name.startswith("patch_embed"):
        return _KEPT_REASONS["patch_embed"]
    if name.startswith(("head", "pre_logits")):
        return _KEPT_REASONS["head"]
    if "norm" in name:
        return _KEPT_REASONS["norm"]
    return "float: not among the binary parts of a block"
