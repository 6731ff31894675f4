"""Configurations: round trips, refusals with the nearest name, overrides, and presets that differ in one thing."""

from __future__ import annotations

import dataclasses
import json

import pytest

from bvit_analysis.config import (
    RECIPES,
    SCALES,
    DataConfig,
    Recipe,
    RunConfig,
    TrainingConfig,
    config_hash,
    from_dict,
    get_recipe,
    get_scale,
    to_dict,
    with_overrides,
)
from bvit_analysis.errors import ConfigError


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("recipe", [*RECIPES, None])
def test_json_round_trip(scale, recipe):
    config = dataclasses.replace(get_scale(scale), recipe=RECIPES.get(recipe), seed=3)
    again = from_dict(RunConfig, json.loads(json.dumps(to_dict(config))))
    assert again == config
    assert config_hash(again) == config_hash(config)


def test_hash_sees_every_field():
    base = Recipe()
    changed = {
        "name": "x", "weight_scale": "none", "centre_weights": True, "activation_gradient": "clip",
        "activation_scale": False, "shortcuts": False, "rprelu": False, "attention": "boolean",
        "distillation": False, "latent_weight_decay": 0.1, "shift": "static", "shift_reduction": 8,
        "regularization": "double_well", "regularization_strength": 2.0, "regularization_mode": "decoupled",
    }  # fmt: skip
    assert set(changed) == {field.name for field in dataclasses.fields(Recipe)}
    hashes = {
        config_hash(dataclasses.replace(base, **{name: value})) for name, value in changed.items()
    }
    assert len(hashes | {config_hash(base)}) == len(changed) + 1


def test_presets_differ_from_the_baseline_in_what_they_are_named_for():
    def differences(name: str) -> set[str]:
        one, two = to_dict(RECIPES["baseline"]), to_dict(RECIPES[name])
        return {key for key in one if one[key] != two[key]} - {"name"}

    assert differences("asm") == {"shift"}
    assert differences("grs") == {"regularization"}
    assert differences("binaryvit") == {"shift", "regularization"}


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: get_recipe("binaryvitt"), "did you mean 'binaryvit'"),
        (lambda: get_scale("lap"), "did you mean 'laptop'"),
        (
            lambda: Recipe(shift="dynamic"),
            "expected one of 'none', 'static', 'token_mean', 'bottleneck'",
        ),
        (lambda: Recipe(shift_reduction=0), "at least 1"),
        (lambda: Recipe(regularization_strength=-1.0), "at least 0"),
        (lambda: TrainingConfig(steps=0), "TrainingConfig.steps must be at least 1, got 0"),
        (lambda: TrainingConfig(temperature=0.0), "above 0"),
        (lambda: DataConfig(workers=-1), "at least 0"),
        (lambda: from_dict(RunConfig, {"sed": 1}), "did you mean 'seed'"),
        (lambda: from_dict(RunConfig, {"seed": "1"}), "must be of type int"),
        (lambda: from_dict(RunConfig, {"seed": True}), "must be of type int"),
        (lambda: from_dict(RunConfig, {"data": 3}), "expected a mapping"),
    ],
)
def test_mistakes_are_named(build, text):
    with pytest.raises(ConfigError, match=text):
        build()


def test_overrides_are_typed():
    base = dataclasses.replace(get_scale("smoke"), recipe=get_recipe("asm"))
    got = with_overrides(
        base,
        [
            "training.steps=7",
            "training.learning_rate=1",
            "recipe.shortcuts=false",
            "data.name=torch/cifar10",
            "seed=4",
        ],
    )
    assert (got.training.steps, got.training.learning_rate, got.seed) == (7, 1.0, 4)
    assert got.recipe.shortcuts is False
    assert got.data.name == "torch/cifar10"
    for setting, text in {
        "training.stes=1": "did you mean 'steps'",
        "trainig.steps=1": "did you mean 'training'",
        "training.steps": "expected section.field=value",
        "training.steps=1.5": "must be of type int",
        "recipe.shortcuts=no": "must be of type bool",
    }.items():
        with pytest.raises(ConfigError, match=text):
            with_overrides(base, [setting])


def test_a_teacher_that_is_not_set_begins_with_the_defaults_where_the_run_is_trained():
    base = with_overrides(get_scale("imagenet"), ["training.device=cuda", "training.threads=4"])
    assert base.teacher is None
    got = with_overrides(base, ["teacher.steps=7", "teacher.batch_size=9"])
    assert got.teacher == TrainingConfig(steps=7, batch_size=9, device="cuda", threads=4)
    # a recipe is never made so: without one a run is float
    with pytest.raises(ConfigError, match="unknown section 'recipe'"):
        with_overrides(base, ["recipe.shift=static"])
