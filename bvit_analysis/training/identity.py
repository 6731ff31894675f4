"""What makes a run this run: its description, and whether a folder holds the same one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from bvit_analysis.config import RunConfig, to_dict
from bvit_analysis.config.text import differences
from bvit_analysis.costs import model_cost
from bvit_analysis.data import Dataset
from bvit_analysis.environment import describe_environment
from bvit_analysis.errors import ConfigError, DataError
from bvit_analysis.records import load_run
from bvit_analysis.sites import Site, describe_sites


def describe_run(
    config: RunConfig,
    run_id: str,
    dataset: Dataset,
    model: nn.Module,
    sites: list[Site],
    teacher: dict[str, Any],
) -> dict[str, Any]:
    """Return the content of a training's run.json: what it is made of, and where it runs."""
    return {
        "run_id": run_id,
        "kind": "binary" if config.recipe else "float",
        "config": to_dict(config),
        "seed": config.seed,
        "data_fingerprint": dataset.fingerprint,
        "class_names": list(dataset.class_names),
        "sites": describe_sites(sites),
        "costs": model_cost(model, img_size=config.data.img_size).table.to_dict(orient="records"),
        "teacher": teacher,
        **describe_environment(config.training.device),
    }


def is_finished(config: RunConfig, run_dir: Path) -> bool:
    """Return whether a folder holds this very run, finished.

    Raises:
        ConfigError: If it holds a run with another configuration; the text lists the differences.
    """
    if not (run_dir / "run.json").exists():
        return False
    run = load_run(run_dir)
    wanted = to_dict(config)
    if run.config != wanted:
        raise ConfigError(
            f"{run_dir} holds a run with another configuration ({', '.join(differences(run.config or {}, wanted))});"
            " choose another folder, or delete it"
        )
    return run.state == "finished"


def check_same_data(run_dir: Path, dataset: Dataset) -> None:
    """Refuse to go on with a run on images other than those it began with.

    Raises:
        DataError: If the data set's fingerprint is not the recorded one.
    """
    if not (run_dir / "run.json").exists():
        return
    recorded = load_run(run_dir).info.get("data_fingerprint")
    if recorded != dataset.fingerprint:
        raise DataError(
            f"the images of {dataset.name} are not those that {run_dir} began with (fingerprint {recorded} there,"
            f" {dataset.fingerprint} now); put the old images back, or choose another folder"
        )
