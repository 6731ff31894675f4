"""What is trained: the float teacher's configuration, the binary student, the optimizer."""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from pathlib import Path

import torch
from torch import nn

from bvit_analysis.config import RunConfig, TrainingConfig, config_hash, import_path, to_dict
from bvit_analysis.config.recipes import given
from bvit_analysis.convert import binarize, build_model, calibrate, check_layers
from bvit_analysis.data import Dataset, evaluation_batches
from bvit_analysis.errors import ConfigError
from bvit_analysis.layers.shift import make_shift
from bvit_analysis.pretrained import describe_weights
from bvit_analysis.randomness import seeded
from bvit_analysis.regularization import make_term
from bvit_analysis.sites import Site, find_sites
from bvit_analysis.training.identity import find_run, same_bits


def teacher_config(config: RunConfig) -> RunConfig:
    """Return the configuration of the float teacher of a binary run; one teacher serves all recipes and seeds."""
    assert config.teacher is not None
    return dataclasses.replace(config, recipe=None, seed=0, training=config.teacher, teacher=None)


def teacher_run_id(config: RunConfig) -> str:
    """Return the run id of the float teacher: equal for all runs that can share it."""
    return f"teacher-{config_hash(same_bits(teacher_config(config)))[:8]}"


def teacher_folder(config: RunConfig, root: Path) -> Path:
    """Return where the float teacher of a run is, or will be: a folder with it by any name, or one named by its id.

    A release that adds a setting gives another id to the same teacher.
    """
    named = root / teacher_run_id(config)
    if (named / "run.json").exists():
        return named
    return find_run(teacher_config(config), sorted(root.glob("teacher-*"))) or named


def check_devices(config: RunConfig) -> None:
    """Refuse a device that is not here, before the first second of training, its teacher's included.

    Raises:
        ConfigError: If torch cannot put a tensor on it.
    """
    asked = {"training.device": config.training.device}
    if config.recipe is not None and config.teacher is not None:
        asked["teacher.device"] = config.teacher.device
    for field, device in asked.items():
        try:
            torch.zeros(1, device=device).item()  # the meta device has no values
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            here = f"cpu, {torch.cuda.device_count()} cuda devices"
            raise ConfigError(
                f"{field} is {device!r}, which is not usable here ({reason[:120]}); this machine has {here}: use"
                f" --set {field}=cpu"
            ) from error


def check_recipe(config: RunConfig) -> None:
    """Refuse a recipe that a training would fail with, before the first second of training, its teacher's included.

    Raises:
        ConfigError: If a class or object in it is not what it should be, cannot be found by import, or makes other
            weights each time.
    """
    to_dict(config)
    recipe = config.recipe
    if recipe is None:
        return
    make_term(given(recipe, "regularization"))
    dim = config.model.embed_dim or 64
    check_layers(recipe, dim)
    shift = given(recipe, "shift")
    with torch.random.fork_rng(devices=[]):
        one, two = (
            make_shift(shift, dim, reduction=recipe.shift_reduction, name="trial").state_dict()
            for _ in range(2)
        )
    if any(not torch.equal(value, two[name]) for name, value in one.items()):
        raise ConfigError(
            f"the recipe's shift {import_path(shift)} has other weights each time it is made; draw them from"
            " torch.Generator().manual_seed(zlib.crc32(name.encode()))"
        )


def make_student(
    config: RunConfig, dataset: Dataset, teacher: nn.Module | None
) -> tuple[nn.Module, list[Site]]:
    """Build what is trained: the binarized, calibrated model with the teacher's weights, or a float one.

    Args:
        config: The run's; without a recipe the model stays float.
        dataset: Whose training images calibrate the scales.
        teacher: Float model to start from; None starts from the seed.

    Returns:
        The model on its device, and its sites, none for a float model.
    """
    model = build(config, dataset, first_weights=teacher is None)
    if config.recipe is None:
        return model.to(config.training.device), []
    if teacher is not None:
        model.load_state_dict(teacher.state_dict())
    binarize(model, config.recipe)
    model.to(config.training.device)
    images, _ = next(
        evaluation_batches(dataset, "train", batch_size=config.training.calibration_images)
    )
    calibrate(model, images.to(config.training.device))
    return model, find_sites(model)


def build(config: RunConfig, dataset: Dataset, *, first_weights: bool = True) -> nn.Module:
    """Build the float model of a configuration; what is random in it is a function of the seed alone.

    Args:
        config: The run's.
        dataset: Whose images and classes it is for.
        first_weights: Whether to load the pretrained or checkpoint's weights; no where others follow.
    """
    model = config.model
    if not first_weights:
        model = dataclasses.replace(model, pretrained=False, checkpoint="")
    weights = describe_weights(model)
    if weights is not None and weights.num_classes != dataset.num_classes:
        print(
            f"{weights.source} has a head for {weights.num_classes} classes; a new one for {dataset.num_classes} is learned"
            " from labels",
            file=sys.stderr,
        )
    with seeded(config.seed, "init"):
        return build_model(
            model,
            img_size=config.data.img_size,
            in_chans=dataset.in_chans,
            num_classes=dataset.num_classes,
        )


def make_optimizer(
    model: nn.Module, latents: list[nn.Parameter], training: TrainingConfig, latent_decay: float
) -> torch.optim.Optimizer:
    """Return AdamW with decay on float matrices, none on vectors, and the recipe's own on latent weights."""
    known = {id(parameter) for parameter in latents}
    others = [p for p in model.parameters() if p.requires_grad and id(p) not in known]
    groups = [
        {"params": latents, "weight_decay": latent_decay},
        {"params": [p for p in others if _decays(p)], "weight_decay": training.weight_decay},
        {"params": [p for p in others if not _decays(p)], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=training.learning_rate)


def _decays(parameter: nn.Parameter) -> bool:
    # Scales per head are (h, 1, 1), positions (1, N, D): only true matrices and convolutions decay.
    return parameter.squeeze().ndim >= 2 and parameter.shape[0] > 1


def weights_digest(model: nn.Module) -> str:
    """Return the SHA-256 of all weights and their names, hexadecimal."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
