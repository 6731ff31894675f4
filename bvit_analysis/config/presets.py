"""Presets: the recipes of the ablation and the scales of work."""

from __future__ import annotations

import dataclasses

from bvit_analysis.config.schema import (
    DataConfig,
    ModelConfig,
    Recipe,
    RunConfig,
    TrainingConfig,
    WatchConfig,
)
from bvit_analysis.errors import ConfigError, unknown_name


def _recipe_presets() -> dict[str, Recipe]:
    baseline = Recipe(name="baseline")
    asm = dataclasses.replace(baseline, name="asm", shift="token_mean")
    grs = dataclasses.replace(baseline, name="grs", regularization="resilient")
    both = dataclasses.replace(grs, name="binaryvit", shift="token_mean")
    return {recipe.name: recipe for recipe in (baseline, asm, grs, both)}


RECIPES: dict[str, Recipe] = _recipe_presets()

FLOAT = "float"
"What stands for a recipe where a run is the float teacher's."

RECIPE_ORDER: tuple[str, ...] = ("baseline", "grs", "asm", "binaryvit", FLOAT)
"Order of recipes in every table, legend and axis; other names follow, by name."


def get_recipe(recipe: str | Recipe) -> Recipe:
    """Return a recipe by its preset name, or the recipe itself.

    Raises:
        ConfigError: If the name is not a preset; the text has the nearest right one.
    """
    if isinstance(recipe, Recipe):
        return recipe
    if recipe not in RECIPES:
        raise ConfigError(unknown_name("recipe", recipe, RECIPES))
    return RECIPES[recipe]


_SMALL_VIT = ModelConfig(patch_size=7, embed_dim=64, depth=4, num_heads=2)


SCALES: dict[str, RunConfig] = {
    "smoke": RunConfig(
        scale="smoke",
        data=DataConfig(train_limit=2000, evaluation_limit=500),
        model=ModelConfig(patch_size=7, embed_dim=32, depth=2, num_heads=2),
        training=TrainingConfig(
            steps=40, batch_size=64, warmup_steps=4, evaluate_every=20, checkpoint_every=20
        ),
        teacher=TrainingConfig(
            steps=40, batch_size=64, warmup_steps=4, evaluate_every=20, checkpoint_every=20
        ),
        watch=WatchConfig(flips_every=2, distribution_every=10, activation_every=10),
    ),
    "laptop": RunConfig(
        scale="laptop",
        model=_SMALL_VIT,
        training=TrainingConfig(steps=600, learning_rate=2e-3, evaluate_every=100),
        teacher=TrainingConfig(steps=800, learning_rate=2e-3, evaluate_every=100),
    ),
    "bench": RunConfig(
        scale="bench",
        data=DataConfig(crop_padding=2),
        model=ModelConfig(patch_size=4, embed_dim=192, depth=6, num_heads=3),
        training=TrainingConfig(steps=12900, batch_size=256, warmup_steps=645),
        teacher=TrainingConfig(steps=8600, batch_size=256, warmup_steps=430),
        watch=WatchConfig(flips_every=20, distribution_every=200, activation_every=200),
    ),
    "imagenet": RunConfig(
        scale="imagenet",
        data=DataConfig(
            name="torch/image_folder",
            root="imagenet",
            img_size=224,
            auto_augment="rand-m9-mstd0.5-inc1",
            random_erasing=0.25,
            workers=8,
        ),
        model=ModelConfig(name="deit_small_patch16_224", pretrained=True),
        training=TrainingConfig(
            steps=750_600,
            batch_size=512,
            learning_rate=5e-4,
            warmup_steps=12_510,
            evaluate_every=2502,
            checkpoint_every=2502,
        ),
        watch=WatchConfig(
            flips_every=100, distribution_every=2502, activation_every=2502, trajectory_every=10
        ),
    ),
}


def get_scale(scale: str) -> RunConfig:
    """Return the run configuration of a scale preset, without a recipe.

    Raises:
        ConfigError: If the name is not a preset.
    """
    if scale not in SCALES:
        raise ConfigError(unknown_name("scale", scale, SCALES))
    return SCALES[scale]


SEEDS = {"smoke": 1, "laptop": 3, "bench": 5, "imagenet": 1}
"Seeds of an ablation at each scale, where nobody says how many."
