"""The scale of the paper's experiment beside that of recorded runs."""

from __future__ import annotations

from typing import Any

import pandas as pd

from bvit_analysis.tables.groups import group_names
from bvit_analysis.tables.selection import Runs, binary_runs

_PAPER = {
    "data set": "ImageNet-1k",
    "training images": "1,281,167",
    "image side (pixels)": "224 (DeiT-S)",
    "model": "DeiT-S among others",
    "optimizer steps": "unknown",
    "batch size": "unknown",
    "peak learning rate": "unknown",
    "float teacher": "unknown",
    "seeds a recipe": "unknown",
    "code": "none public",
}


def scale_table(runs: Runs) -> pd.DataFrame:
    """Return the scale of the paper's experiment beside that of these runs, so that no verdict travels.

    Args:
        runs: Runs to read; float runs are left out.

    Returns:
        Index: the quantity; columns paper (2305.14730, what its abstracts say) and here.
    """
    here: dict[str, dict[str, None]] = {name: {} for name in _PAPER}
    seeds: dict[str, set[Any]] = {}
    listed = binary_runs(runs)
    for run, group in zip(listed, group_names(listed), strict=True):
        config = run.config if isinstance(run.config, dict) else {}
        data, model, training = (
            part if isinstance(part := config.get(name), dict) else {}
            for name in ("data", "model", "training")
        )
        sizes = ", ".join(
            f"{name} {model[name]}"
            for name in ("embed_dim", "depth", "num_heads", "patch_size")
            if model.get(name)
        )
        facts = {
            "data set": data.get("name"),
            "training images": data.get("train_limit") or "all",
            "image side (pixels)": data.get("img_size"),
            "model": f"{model.get('name')} ({sizes})" if sizes else model.get("name"),
            "optimizer steps": run.step,
            "batch size": training.get("batch_size"),
            "peak learning rate": training.get("learning_rate"),
            "float teacher": "none" if config.get("teacher") is None else "trained here",
            "code": "bvit_analysis, a reconstruction",
        }
        for name, value in facts.items():
            here[name]["unknown" if value is None else str(value)] = None
        seeds.setdefault(group, set()).add(run.info.get("seed"))
    here["seeds a recipe"] = {str(len(found)): None for found in seeds.values()}
    rows = {name: (paper, ", ".join(here[name]) or "no run") for name, paper in _PAPER.items()}
    return pd.DataFrame.from_dict(rows, orient="index", columns=["paper", "here"])
