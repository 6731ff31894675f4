"""Packed files from binarized models, and models from packed files."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bvit_analysis.config import ModelConfig, Recipe, from_dict, get_recipe, to_dict
from bvit_analysis.config.recipes import given, given_again
from bvit_analysis.convert import binarize, build_model
from bvit_analysis.costs import model_cost
from bvit_analysis.errors import BvitError, ConfigError, PackedFileError, unknown_name
from bvit_analysis.files import plain
from bvit_analysis.layers.attention import BinaryProbabilities
from bvit_analysis.layers.linear import BinaryLinear
from bvit_analysis.packed.bits import pack_rows, unpack_rows
from bvit_analysis.packed.checks import FLOAT_DTYPES, MODEL_LIMITS, shown
from bvit_analysis.packed.file import PackedFile, container_bytes, write_packed
from bvit_analysis.packed.file import read_packed as read_packed


def save_packed(
    model: nn.Module, path: str | Path, *, meta: Mapping[str, Any], float_dtype: str = "float32"
) -> Path:
    """Write a binarized model with one bit a binary weight.

    Args:
        model: A timm ViT that binarize() converted, with float32 parameters.
        path: The file to write or replace; '.bvit' by custom.
        meta: 'recipe' (preset name, Recipe or its dict; must be the one the model was binarized with); and, where
            they are known, 'model' (timm's name; by default the model's own), 'data' (mean, std, class_names) and
            'source' (flat, for example run_id and commit). The header of a packed file serves as well.
        float_dtype: 'float32', which keeps every output to the bit, or 'float16' for all that is not binary.

    Returns:
        The path.

    Raises:
        PackedFileError: If the model is not what meta says, or the file cannot be written.
        ConfigError: If the recipe's name is unknown.
    """
    header = describe(model, meta, float_dtype)
    recipe = _recipe(meta)
    _check_same(model, _skeleton(header["model"], recipe))
    width = FLOAT_DTYPES[float_dtype]
    tensors = {}
    with torch.no_grad():
        for name, value in _float_state(model).items():
            tensors[name] = _narrowed(name, value, width)
        for name, layer in _linears(model).items():
            tensors[f"{name}.bits"] = torch.from_numpy(pack_rows(layer.latent().cpu().numpy()))
            if recipe.weight_scale == "channel":
                scale = layer.weight_scale().squeeze(1)
                tensors[f"{name}.weight_scale"] = _narrowed(f"{name}.weight_scale", scale, width)
    return write_packed(path, header, tensors)


def load_packed(path: str | Path, *, recipe: Recipe | None = None) -> nn.Module:
    """Build the simulated model of a packed file, in eval mode; its outputs are those of the model that was saved.

    With float_dtype 'float16' they are those of that model with all that is not binary rounded to float16.

    Args:
        path: As save_packed wrote it.
        recipe: The file's recipe once more, where its shift or attention is of your own: a file only names them, and
            what a file names is never imported.

    Raises:
        PackedFileError: If the file is missing, damaged, foreign or of another version, or needs the recipe.
    """
    file = read_packed(path)
    model = build_skeleton(file, recipe)
    state = file.take_float_tensors()
    for name, (_, columns) in file.sites.items():
        signs = unpack_rows(file.rows(name), columns)
        state[f"{name}.weight"] = torch.from_numpy(signs).float()
        state[f"{name}.fixed_scale"] = file.weight_scale(name)
    model.load_state_dict(state, assign=True)
    return model


def build_skeleton(file: PackedFile, recipe: Recipe | None = None) -> nn.Module:
    """Build the binarized model of a packed file on the meta device, in eval mode, and check that every tensor fits.

    Args:
        file: As read_packed returned it.
        recipe: As for load_packed().

    Returns:
        The model, which takes no memory for parameters yet; 'NAME.weight' of a binary linear is still (O, I).

    Raises:
        PackedFileError: If the model is unknown or unsupported, or a name or shape does not fit it.
    """
    try:
        recipe = given_again(file.recipe, recipe)
        for field in ("shift", "attention"):
            given(recipe, field)
    except ConfigError as error:
        raise PackedFileError(f"packed model {file.path}: {error}") from error
    try:
        # A wrong header can fail in timm in any way.
        model = _skeleton(file.header["model"], recipe)
    except (
        BvitError,
        ArithmeticError,
        AssertionError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        raise _unfit(file, f"its model cannot be built: {shown(error)}") from error
    linears = _linears(model)
    if set(linears) != set(file.sites):
        odd = sorted(set(linears) ^ set(file.sites))[0]
        raise _unfit(file, f"its sites are not those of its model, for example {shown(repr(odd))}")
    for name, layer in linears.items():
        if file.sites[name] != tuple(layer.weight.shape):
            raise _unfit(
                file,
                f"site {name} is {file.sites[name]}, its model has {tuple(layer.weight.shape)} there",
            )
    stored = file.float_shapes()
    wanted = {name: value.shape for name, value in _float_state(model).items()}
    if stored != wanted:
        odd = sorted(name for name in {*stored, *wanted} if stored.get(name) != wanted.get(name))[0]
        was, should = (None if s is None else tuple(s) for s in (stored.get(odd), wanted.get(odd)))
        raise _unfit(
            file, f"tensor {shown(repr(odd))} has shape {was}, its model has {should} there"
        )
    return model


def predicted_bytes(
    model: nn.Module, float_dtype: str = "float32", *, meta: Mapping[str, Any] | None = None
) -> int:
    """Return the size of a packed file as the ledger predicts it, in bytes, without writing or packing anything.

    size = binary parameters / 8 + (all other parameters + scales mean|w| of rows) * width + container, where the
    container is 8 bytes, the index of names, shapes and places, and the metadata. Rows that are no whole bytes are not
    foreseen.

    Args:
        model: A timm ViT that binarize() converted.
        float_dtype: As for save_packed; width is its bytes, 4 or 2.
        meta: As for save_packed; None leaves out what the model does not know itself (some hundred bytes).

    Raises:
        PackedFileError: If it is no such model.
        UnsupportedModelError: If the ledger cannot count it.
    """
    header = describe(model, meta or {"recipe": Recipe()}, float_dtype)
    table = model_cost(model).table
    width = FLOAT_DTYPES[float_dtype].itemsize
    binary = int(table["binary_parameters"].sum())
    stays = int((table["parameters"] - table["binary_parameters"] + table["derived_scales"]).sum())
    kind = "F32" if width == 4 else "F16"
    shapes: dict[str, tuple[str, tuple[int, ...]]] = {
        name: (kind, tuple(value.shape)) for name, value in _float_state(model).items()
    }
    for name, layer in _linears(model).items():
        shapes[f"{name}.bits"] = ("U8", (layer.out_features, -(-layer.in_features // 8)))
        if layer.scaled:
            shapes[f"{name}.weight_scale"] = (kind, (layer.out_features,))
    return round(binary / 8) + stays * width + container_bytes(header, shapes)


def describe(model: nn.Module, meta: Mapping[str, Any], float_dtype: str) -> dict[str, Any]:
    """Return the header of a model's packed file; sizes are the model's own, the rest is meta's (see save_packed)."""
    if float_dtype not in FLOAT_DTYPES:
        raise PackedFileError(unknown_name("float_dtype", float_dtype, FLOAT_DTYPES))
    if "recipe" not in meta:
        raise PackedFileError(
            "meta must have 'recipe', the recipe the model was binarized with, for example {'recipe': 'asm'}"
        )
    linears = _linears(model)
    if not linears:
        raise PackedFileError(
            f"a {type(model).__name__} without binary linears cannot be packed; call binarize() first"
        )
    return {
        "model": {"name": _timm_name(model, meta), **_sizes(model)},
        "recipe": to_dict(_recipe(meta)),
        "float_dtype": float_dtype,
        "data": plain(meta.get("data") or {}),
        "sites": {
            name: {"out": layer.out_features, "in": layer.in_features}
            for name, layer in linears.items()
        },
        "source": plain(meta.get("source") or {}),
    }


def _recipe(meta: Mapping[str, Any]) -> Recipe:
    recipe = meta["recipe"]
    return from_dict(Recipe, dict(recipe)) if isinstance(recipe, Mapping) else get_recipe(recipe)


def _timm_name(model: Any, meta: Mapping[str, Any]) -> str:
    given = meta.get("model")
    if isinstance(given, Mapping):
        given = given.get("name")
    own = getattr(model, "pretrained_cfg", None) or {}
    name = given or own.get("architecture")
    if not name:
        raise PackedFileError("meta must have 'model', timm's name of the model")
    return str(name)


def _sizes(model: Any) -> dict[str, int]:
    """Read every size from the model itself, so that meta cannot be wrong about one."""
    try:
        embed = model.patch_embed
        sides = {"patch_size": embed.patch_size, "img_size": embed.img_size}
        first = model.blocks[0].attn
        sizes = {
            "embed_dim": model.embed_dim,
            "depth": len(model.blocks),
            "num_heads": first.num_heads,
            "in_chans": embed.proj.in_channels,
            "num_classes": model.num_classes,
        }
    except (AttributeError, IndexError, TypeError) as error:
        raise PackedFileError(
            f"cannot pack a {type(model).__name__}; expected a timm VisionTransformer that binarize() converted"
        ) from error
    for name, side in sides.items():
        if side is None or side[0] != side[1]:
            raise PackedFileError(f"cannot pack a model with {name} {side}; expected a square")
        sizes[name] = side[0]
    return {name: int(sizes[name]) for name in MODEL_LIMITS}


def _skeleton(model: Mapping[str, Any], recipe: Recipe) -> nn.Module:
    own = ("name", "patch_size", "embed_dim", "depth", "num_heads")
    config = ModelConfig(**{field: model[field] for field in own})
    with torch.device("meta"):
        skeleton = build_model(
            config,
            img_size=model["img_size"],
            in_chans=model["in_chans"],
            num_classes=model["num_classes"],
        )
        binarize(skeleton, recipe)
    return skeleton.eval()


def _linears(model: nn.Module) -> dict[str, BinaryLinear]:
    return {name: m for name, m in model.named_modules() if isinstance(m, BinaryLinear)}


def _float_state(model: nn.Module) -> dict[str, Tensor]:
    """Return what the state dict holds, without what the packed weights stand for."""
    found = {}
    for path, module in model.named_modules(remove_duplicate=False):
        binary = ("weight", "fixed_scale") if isinstance(module, BinaryLinear) else ()
        passing = module._non_persistent_buffers_set
        # Not through state_dict(): its second object for each tensor and its notes on each module are 0.2 MB of a DeiT-S.
        for name, value in (*module._parameters.items(), *module._buffers.items()):
            if value is not None and name not in binary and name not in passing:
                found[f"{path}.{name}" if path else name] = value
    return found


def _narrowed(name: str, value: Tensor, width: torch.dtype) -> Tensor:
    if value.dtype != torch.float32:
        raise PackedFileError(
            f"{name} is {value.dtype}, expected torch.float32; call model.float() before packing"
        )
    stored = value.detach().cpu().to(width, copy=True).contiguous()
    if bool((stored.isinf() & value.cpu().isfinite()).any()):
        raise PackedFileError(f"{name} has values beyond {width}; pack with float_dtype='float32'")
    return stored


# What makes no difference in eval mode.
_FREE = {"training", "drop_path_rate", "fused_attn", "grad_checkpointing", "distilled_training"}
_NOTHING = ("Identity", "Dropout", "DropPath")


def _check_same(model: nn.Module, skeleton: nn.Module) -> None:
    """Refuse a model that its header would not rebuild: another recipe, norm, pooling, activation or shape."""
    other = dict(skeleton.named_modules())
    for name, module in model.named_modules():
        twin = other.pop(name, None)
        if twin is None or _kind(module) != _kind(twin):
            raise _not_same(name, _kind(module), twin and _kind(twin))
        if _kind(module) == "nothing":
            continue
        mine, its = _settings(module), _settings(twin)
        for field in sorted({*mine, *its}):
            if mine.get(field) != its.get(field):
                raise _not_same(f"{name}.{field}", mine.get(field), its.get(field))
    if other:
        raise _not_same(next(iter(other)), None, _kind(next(iter(other.values()))))
    mine, its = ({n: tuple(v.shape) for n, v in _float_state(m).items()} for m in (model, skeleton))
    for name in sorted({*mine, *its}):
        if mine.get(name) != its.get(name):
            raise _not_same(name, mine.get(name), its.get(name))


def _kind(module: nn.Module) -> str:
    name = type(module).__name__
    return "nothing" if name in _NOTHING else name


def _settings(module: nn.Module) -> dict[str, Any]:
    plain = (bool, int, float, str, tuple)
    found = {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, plain) and not name.startswith("_") and name not in _FREE
    }
    if isinstance(module, BinaryProbabilities):
        rule = module.rule
        found["rule"] = repr(rule) if dataclasses.is_dataclass(rule) else type(rule).__qualname__
    return found


def _not_same(where: str, got: object, expected: object) -> PackedFileError:
    return PackedFileError(
        f"the model is not what meta says: {where or 'the model'} is {got}, a model built from meta has {expected};"
        " give the recipe and the timm name it was made with"
    )


def _unfit(file: PackedFile, reason: str) -> PackedFileError:
    return PackedFileError(
        f"packed model {file.path}: {reason}; pack the run again with 'bvit pack'"
    )
