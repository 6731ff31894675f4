"""The float teacher of a binary run: given as weights or trained, never with a head that has learned nothing."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from torch import nn

from bvit_analysis.config import RunConfig
from bvit_analysis.data import Dataset
from bvit_analysis.errors import ConfigError, RunError
from bvit_analysis.pretrained import Weights, describe_weights
from bvit_analysis.records import load_run
from bvit_analysis.records.checkpoints import MODEL, load_checkpoint, part
from bvit_analysis.training.evaluation import evaluate
from bvit_analysis.training.identity import check_same_data
from bvit_analysis.training.models import build, weights_digest

Origin = Literal["none", "given", "trained"]


def teacher_origin(config: RunConfig, dataset: Dataset) -> Origin:
    """Return where the teacher of a run comes from, before anything is trained.

    A file of weights whose head fits is the teacher as it is. Other weights are where the teacher's training begins, if
    `config.teacher` says how it is trained; timm's with a head that fits need no training.

    Args:
        config: The run's.
        dataset: What it learns from.

    Returns:
        'none', 'given' (the model's first weights are the teacher) or 'trained'.

    Raises:
        ConfigError: If the run would be distilled from a head that is made for other classes, and so is random.
    """
    if config.recipe is None:
        return "none"
    weights = describe_weights(config.model)
    if weights is None:
        return "none" if config.teacher is None else "trained"
    fits = weights.num_classes == dataset.num_classes
    if config.teacher is not None and not (fits and config.model.checkpoint):
        return "trained"
    if not fits and config.recipe.distillation:
        raise ConfigError(_does_not_fit(weights, config, dataset))
    return "given"


def _does_not_fit(weights: Weights, config: RunConfig, dataset: Dataset) -> str:
    what = f"for {weights.num_classes} classes" if weights.num_classes else "without a head"
    where = config.data.root or dataset.name
    return (
        f"{weights.source}: a model {what}, and {where} has {dataset.num_classes}; a new head is random and can teach nothing: train"
        f" the teacher first (--set teacher.steps=1000), give model.checkpoint with {dataset.num_classes} classes, or learn"
        " from labels (--set recipe.distillation=false)"
    )


def make_teacher(
    config: RunConfig,
    dataset: Dataset,
    run_dir: Path,
    origin: Origin,
    train_it: Callable[[], Path],
) -> tuple[nn.Module | None, dict[str, Any]]:
    """Return the frozen float teacher of a run on its device, and its figures; it is trained first where it must be.

    The figures are teacher (its run id, if it was trained), teacher_sha256, and accuracies in 0..1 where its head has
    learned these classes: teacher_validation_accuracy, teacher_test_accuracy.

    Args:
        config: The run's.
        dataset: What it learns from.
        run_dir: The run's folder; one that was begun keeps its teacher.
        origin: As teacher_origin() returned it.
        train_it: Trains the teacher and returns its folder.

    Raises:
        ConfigError: If its weights are not those that the run began with.
        DataError: If the teacher that is there has learned other images, or the same ones prepared otherwise.
        RunError: If the teacher's folder has no checkpoint.
    """
    if origin == "none":
        return None, {}
    begun = _recorded(run_dir)
    model = build(config, dataset, first_weights=origin == "given")
    figures: dict[str, Any] = {}
    if origin == "trained":
        folder = train_it()
        check_same_data(folder, dataset, config.data)
        checkpoint = load_checkpoint(folder)
        if checkpoint is None:
            raise RunError(
                f"the teacher {folder} has no checkpoint; delete the folder to train it again"
            )
        model.load_state_dict(part(checkpoint.tensors, MODEL))
        result = load_run(folder).result or {}
        figures = {
            "teacher": folder.name,
            "teacher_validation_accuracy": result.get("validation_accuracy"),
            "teacher_test_accuracy": result["test_accuracy"],
        }
    digest = weights_digest(model)
    if begun.get("teacher_sha256", digest) != digest:
        raise ConfigError(
            f"{run_dir} began with another teacher (weights {begun['teacher_sha256'][:12]}... there, {digest[:12]}... now);"
            " put the old one back, or choose another folder"
        )
    model = model.to(config.training.device).eval().requires_grad_(False)
    if origin == "given" and _knows(config, dataset):
        figures = _evaluated(model, dataset, config, begun)
    _doubt(figures, dataset, is_new=not begun)
    return model, figures | {"teacher_sha256": digest}


def _recorded(run_dir: Path) -> Mapping[str, Any]:
    if not (run_dir / "run.json").exists():
        return {}
    found = load_run(run_dir).info.get("teacher")
    return found if isinstance(found, dict) else {}


def _knows(config: RunConfig, dataset: Dataset) -> bool:
    weights = describe_weights(config.model)
    return weights is not None and weights.num_classes == dataset.num_classes


def _evaluated(
    model: nn.Module, dataset: Dataset, config: RunConfig, begun: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a given teacher's accuracies; a run that was begun has them already."""
    names = {split: f"teacher_{split}_accuracy" for split in ("validation", "test")}
    if all(name in begun for name in names.values()):
        return {name: begun[name] for name in names.values()}
    return {
        name: evaluate(model, dataset, split, config.training.device)[0]
        for split, name in names.items()
    }


def _doubt(figures: Mapping[str, Any], dataset: Dataset, *, is_new: bool) -> None:
    """Say it where a teacher is right no more often than guessing is, within two standard errors."""
    accuracy = figures.get("teacher_validation_accuracy")
    count, chance = len(dataset.validation), 1 / dataset.num_classes
    if accuracy is None or not is_new or not count:
        return
    if accuracy <= chance + 2 * math.sqrt(chance * (1 - chance) / count):
        print(
            f"the teacher is right on {accuracy:.1%} of {count} validation images, where guessing is on {chance:.1%}; was it"
            f" trained long enough, on these classes in this order ({', '.join(dataset.class_names[:3])}, ...)?",
            file=sys.stderr,
        )
