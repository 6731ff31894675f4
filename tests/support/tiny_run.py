"""A real training that takes seconds: the whole way from the float teacher to the record."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import torch

from bvit_analysis.config import (
    DataConfig,
    ModelConfig,
    RunConfig,
    TrainingConfig,
    WatchConfig,
    get_recipe,
)
from bvit_analysis.processes import Child
from bvit_analysis.records import load_run
from bvit_analysis.records.checkpoints import load_checkpoint
from bvit_analysis.training.sweep import child_words
from tests.support.waiting import wait_for

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
            flips_every=2, distribution_every=4, activation_every=4, trajectory_weights=8
        ),
    )


def everything(folder: Path) -> dict[str, object]:
    """All that a run records and learns, without what a clock measured."""
    run = load_run(folder)
    found: dict[str, object] = {}
    for kind in ("scalars", "sites", "histograms", "channels", "trajectories"):
        frame = getattr(run, kind)
        for column in frame.columns:
            values = frame[column].to_numpy()
            if values.dtype == object:
                values = (
                    np.array([x for value in values for x in np.asarray(value).ravel()])
                    if kind in ("histograms", "channels") and column == "counts"
                    else values.astype(str)
                )
            found[f"{kind}.{column}"] = values
    for site in run.site_table.query("kind == 'weight'")["site"]:
        for name, array in run.counts(site).items():
            found[f"counts.{site}.{name}"] = np.asarray(array)
        start = run.start(site)
        assert start is not None
        found[f"start.{site}"] = start.latent
    if run.attention is not None:
        for name in ("images", "predictions", "bits", "scores", "teacher"):
            found[f"attention.{name}"] = getattr(run.attention, name)
    checkpoint = load_checkpoint(folder)
    assert checkpoint is not None
    for name, tensor in checkpoint.tensors.items():
        found[f"checkpoint.{name}"] = (
            tensor.float().numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()
        )
    found["result"] = np.array(
        sorted(str(item) for item in (run.result or {}).items() if item[0] != "seconds")
    )
    return found


def differing(one: Path, two: Path) -> list[str]:
    """Return the names of what two runs do not have to the bit."""
    first, second = everything(one), everything(two)
    return [*(first.keys() ^ second.keys())] + [
        name
        for name in first.keys() & second.keys()
        if not np.array_equal(
            first[name], second[name], equal_nan=np.asarray(first[name]).dtype.kind == "f"
        )
    ]


def start_process(config: RunConfig, folder: Path) -> Child:
    """Train in a process of its own, as a sweep does."""
    return Child(
        [sys.executable, "-m", "bvit_analysis.training.sweep", str(folder)],
        environment={**os.environ, "OMP_NUM_THREADS": "1"},
        words=child_words(config),
    )


def status_of(folder: Path) -> dict[str, object]:
    """Return a run's status.json, empty where there is none (yet)."""
    try:
        return json.loads((folder / "status.json").read_text())
    except (OSError, ValueError):
        return {}


def wait_until_running(folder: Path, process: Child) -> None:
    """Wait until the training of a process has begun; fail if the process ends before."""

    def is_running() -> bool:
        assert process.poll() is None, f"the training did not start: exit code {process.poll()}"
        return status_of(folder).get("state") == "running"

    wait_for(is_running, every=0.005)
