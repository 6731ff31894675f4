"""The weights that a model starts from, a file's or timm's, and what they are made for: classes, channels, images.

Every fact comes from the weights' own configuration: timm's for the model's name, the `config.json` beside a file
where there is one (the layout of timm's repositories), and the shapes in the file itself, which need no tensors read.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from bvit_analysis.config import ModelConfig
from bvit_analysis.errors import ConfigError, unknown_name

_PATCHES = "patch_embed.proj.weight"
_HOW = "expected what safetensors.torch.save_file(model.state_dict(), PATH) writes for timm's model"


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """What is done to the pixels of an image before a model sees them."""

    mean: tuple[float, ...]
    "Per channel, of images in [0, 1]; it is taken off."
    std: tuple[float, ...]
    "Per channel; it is divided by."
    interpolation: str = ""
    "timm's word for how an image is resized; '' where it is not."
    crop_pct: float = 1.0
    "Share of the side that an evaluation shows."
    crop_mode: str = "center"
    "timm's word for where it is cut."


@dataclass(frozen=True, kw_only=True)
class Weights:
    """What a model's first weights are made for."""

    source: str
    "Where they come from, for messages."
    num_classes: int
    "Outputs of their head; 0 where they have none."
    in_chans: int
    "Channels of the images that they were learned on."
    preprocessing: Preprocessing
    "What was done to those images, by timm's resolve_data_config."
    settings: Mapping[str, Any]
    "Of a file: the fields of timm's configuration that are its own and not those of the model's name."
    names: frozenset[str]
    "Of a file: the names of its tensors."


def check_model_name(name: str) -> None:
    """Refuse a name that timm does not know.

    Raises:
        ConfigError: With some names that it knows, the nearest first.
    """
    import timm  # here, because it takes seconds to import

    known = timm.list_models()
    if name.split(".")[0] not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        vits = ("deit_tiny_patch16_224", "deit_small_patch16_224", "vit_tiny_patch16_224")
        raise ConfigError(unknown_name("timm model", name, [*near, *vits]))


def describe_weights(model: ModelConfig) -> Weights | None:
    """Return what the weights that a model starts from are made for; None where it starts at random.

    Neither a network nor timm's cache is asked.

    Args:
        model: Its `checkpoint` goes before its `pretrained`.

    Raises:
        ConfigError: If timm does not know the model's name, or the file cannot be read or is not of a timm ViT.
    """
    if not (model.pretrained or model.checkpoint):
        return None
    from timm.data import resolve_data_config  # here, because timm takes seconds to import
    from timm.models import get_pretrained_cfg

    check_model_name(model.name)
    try:
        known = get_pretrained_cfg(model.name)
    except RuntimeError as error:
        raise ConfigError(
            f"{error} (model.name {model.name!r}); leave out what follows the dot"
        ) from error
    settings: dict[str, Any] = {}
    names: frozenset[str] = frozenset()
    source = f"timm's weights of {model.name}"
    if model.checkpoint:
        path = Path(model.checkpoint)
        source = str(path)
        shapes = _shapes(path)
        names = frozenset(shapes)
        settings = _beside(path)
        head = settings.get("classifier") or (known.classifier if known else None) or "head"
        name = head if isinstance(head, str) else head[0]
        settings |= {"classifier": head, "num_classes": shapes.get(f"{name}.weight", (0,))[0]}
        channels = shapes[_PATCHES][1]
    full = {**(known.to_dict() if known else {}), **settings}
    expected = resolve_data_config(pretrained_cfg=full)
    if not model.checkpoint:
        channels = expected["input_size"][0]
    settings |= {"input_size": (channels, *expected["input_size"][1:])} if settings else {}
    return Weights(
        source=source,
        num_classes=int(full.get("num_classes") or 0),
        in_chans=channels,
        preprocessing=_preprocessing(expected, source),
        settings=settings,
        names=names,
    )


def model_preprocessing(model: ModelConfig) -> Preprocessing | None:
    """Return what the weights of a model expect to be done to its images; None where any will do.

    A model that starts at random has no expectation, and a file of weights for other channels than its configuration
    speaks of (a grey one, where timm's is of colours) is not described by it.

    Raises:
        ConfigError: If the file of the weights cannot be read.
    """
    weights = describe_weights(model)
    if weights is None or weights.in_chans != len(weights.preprocessing.mean):
        return None
    return weights.preprocessing


def timm_arguments(model: ModelConfig) -> dict[str, Any]:
    """Return the arguments of timm.create_model that make it start from a model's weights; a file asks nobody else.

    Raises:
        ConfigError: If the file cannot be read or lacks weights.
    """
    if not model.checkpoint:
        return {"pretrained": model.pretrained}
    weights = describe_weights(model)
    assert weights is not None
    try:
        state = load_file(model.checkpoint)
    except (SafetensorError, OSError) as error:
        raise _unreadable(Path(model.checkpoint), error) from error
    return {"pretrained": True, "pretrained_cfg_overlay": {**weights.settings, "state_dict": state}}


def check_names(model: ModelConfig, names: Iterable[str]) -> None:
    """Refuse a file of weights that has not all those of a model, or others, its head apart; timm lets some pass.

    Args:
        model: Which file.
        names: Of the tensors of the model that was built.

    Raises:
        ConfigError: If tensors are missing or left over.
    """
    weights = describe_weights(model)
    if weights is None or not weights.names:
        return
    head = weights.settings["classifier"]
    heads = tuple(f"{name}." for name in ([head] if isinstance(head, str) else head))
    found = {name for name in weights.names if not name.startswith(heads)}
    wanted = {name for name in names if not name.startswith(heads)}
    for more, less, what in ((wanted, found, "lacks"), (found, wanted, "has also")):
        odd = sorted(more - less)
        if odd:
            raise ConfigError(
                f"{weights.source} does not fit {model.name} as it is set here: it {what} {len(odd)} tensors"
                f" ({', '.join(odd[:3])}, ...); give the weights of that model, or change model.*"
            )


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor in a file by its name."""
    if not path.is_file():
        what = "a folder" if path.is_dir() else "missing"
        raise ConfigError(
            f"no teacher weights at {path}, which is {what}; give a safetensors file as model.checkpoint"
        )
    try:
        with safe_open(path, "pt") as file:
            names = file.keys()
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error
    if len(shapes.get(_PATCHES, ())) != 4:
        names = ", ".join(sorted(shapes)[:3]) or "nothing"
        raise ConfigError(
            f"{path} has no {_PATCHES} of four dimensions (it has {names}, ...); {_HOW}"
        )
    return shapes


def _unreadable(path: Path, error: Exception) -> ConfigError:
    reason = next(iter(str(error).splitlines()), type(error).__name__)
    return ConfigError(
        f"{path} is no safetensors file ({reason}); files of pickles (.pth, .pt, .bin) can run code and are not opened:"
        f" load yours with torch.load(PATH, weights_only=True) and write it with safetensors.torch.save_file"
    )


def _beside(path: Path) -> dict[str, Any]:
    """Return the pretrained configuration in the config.json beside a file, {} where there is none."""
    beside = path.with_name("config.json")
    try:
        found = json.loads(beside.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"cannot read {beside}, the configuration of {path}: {error}") from error
    own = found.get("pretrained_cfg") if isinstance(found, dict) else None
    if not isinstance(own, dict):
        return {}
    fields = ("mean", "std", "interpolation", "crop_pct", "crop_mode", "input_size", "classifier")
    return {name: own[name] for name in fields if own.get(name)}


def _preprocessing(expected: Mapping[str, Any], source: str) -> Preprocessing:
    from timm.data.transforms import str_to_interp_mode

    try:
        str_to_interp_mode(expected["interpolation"])
        found = Preprocessing(
            mean=tuple(map(float, expected["mean"])),
            std=tuple(map(float, expected["std"])),
            interpolation=str(expected["interpolation"]),
            crop_pct=float(expected["crop_pct"]),
            crop_mode=str(expected["crop_mode"]),
        )
    except (TypeError, ValueError, KeyError) as error:
        raise ConfigError(
            f"the configuration of {source} does not say how to prepare images ({error}); correct its mean, std,"
            " interpolation and crop_pct"
        ) from error
    if len(found.mean) != len(found.std) or not all(value > 0 for value in found.std):
        raise ConfigError(
            f"the configuration of {source} must have a mean and a positive std for each channel, got {found.mean} and"
            f" {found.std}"
        )
    return found
