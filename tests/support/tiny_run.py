"""A real training that takes seconds: the whole way from the float teacher to the record."""

from __future__ import annotations

from bvit_analysis.config import (
    DataConfig,
    ModelConfig,
    RunConfig,
    TrainingConfig,
    WatchConfig,
    get_recipe,
)

STEPS = 24


def tiny(recipe: str | None = "binaryvit", **training) -> RunConfig:
    """A run of seconds: one block of width 16 on 600 real images, checkpoints every 6 steps."""
    settings = {
        "steps": STEPS,
        "batch_size": 32,
        "warmup_steps": 3,
        "evaluate_every": 12,
        "checkpoint_every": 6,
        "calibration_images": 32,
    }
    short = TrainingConfig(**(settings | {"steps": 6}))
    return RunConfig(
        recipe=get_recipe(recipe) if recipe else None,
        scale="smoke",
        data=DataConfig(train_limit=600, evaluation_limit=100),
        model=ModelConfig(patch_size=7, embed_dim=16, depth=1, num_heads=2, drop_path=0.1),
        training=TrainingConfig(**(settings | training)),
        teacher=short if recipe else None,
        watch=WatchConfig(
            flips_every=2, distribution_every=4, activation_every=4, trajectory_weights=3
        ),
    )
