"""What makes a run this run: its description, and whether a folder holds the same one."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import nn

from bvit_analysis.config import DataConfig, RunConfig, from_dict, to_dict
from bvit_analysis.config.text import differences
from bvit_analysis.costs import model_cost
from bvit_analysis.data import Dataset, recorded_preprocessing
from bvit_analysis.environment import describe_environment
from bvit_analysis.errors import BvitError, ConfigError, DataError
from bvit_analysis.records import Run, load_run
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
        "data_root": same_bits(config).data.root,
        "data_notes": list(dataset.notes),
        "preprocessing": dataclasses.asdict(dataset.preprocessing),
        "class_names": list(dataset.class_names),
        "sites": describe_sites(sites),
        "costs": model_cost(model, img_size=config.data.img_size).table.to_dict(orient="records"),
        "teacher": teacher,
        **describe_environment(config.training.device),
    }


def same_bits(config: RunConfig) -> RunConfig:
    """Return a configuration in which all that cannot change a bit of a run is written in one way.

    Loader processes change nothing; a folder is the same by a relative and an absolute path; the embedded data set is
    the same wherever it lies, since its content is checked.
    """
    data = dataclasses.replace(config.data, workers=0, root=_place(config.data))
    model = dataclasses.replace(config.model, checkpoint=_absolute(config.model.checkpoint))
    return dataclasses.replace(config, data=data, model=model)


def _place(data: DataConfig) -> str:
    return "" if data.name == "fashion_mnist" else _absolute(data.root)


def _absolute(path: str) -> str:
    return str(Path(path).resolve()) if path else ""


def _comparable(config: dict[str, Any], data_root: Any = None) -> dict[str, Any]:
    """Return what of a configuration two runs must have alike to be one.

    Where weights lie is left out, as their SHA-256 is compared; and how often a checkpoint is saved.
    """
    if not config:
        return config
    try:
        plain = to_dict(same_bits(from_dict(RunConfig, config)))
    except BvitError:  # of another release; it is shown as it is
        return config
    if isinstance(data_root, str):
        plain["data"]["root"] = data_root  # a relative one was seen from another folder, perhaps
    plain["model"]["checkpoint"] = bool(plain["model"]["checkpoint"])
    if plain["recipe"] is None:
        plain.pop("watch")  # a float model has nothing to watch
    for section in ("training", "teacher"):
        if plain[section] is not None:
            plain[section].pop("checkpoint_every")
    return plain


def is_finished(config: RunConfig, run_dir: Path) -> bool:
    """Return whether a folder holds this very run, finished; what cannot change a bit may differ.

    Raises:
        ConfigError: If it holds a run with another configuration; the text lists the differences.
    """
    if not (run_dir / "run.json").exists():
        return False
    run = load_run(run_dir)
    found = _differences(run, config)
    if found:
        raise ConfigError(
            f"{run_dir} holds a run with another configuration ({', '.join(found)}); choose another folder, or delete it"
        )
    return run.state == "finished"


def find_run(config: RunConfig, folders: Iterable[Path]) -> Path | None:
    """Return the first of some folders that holds this very run, begun or finished, by any release; None if none does."""
    for folder in folders:
        with contextlib.suppress(BvitError):  # what cannot be read is not it
            if not _differences(load_run(folder), config):
                return folder
    return None


def _differences(run: Run, config: RunConfig) -> list[str]:
    there = _comparable(run.config or {}, run.info.get("data_root"))
    return differences(there, _comparable(to_dict(config)))


def check_same_data(run_dir: Path, dataset: Dataset, data: DataConfig) -> None:
    """Refuse to go on with a run on images other than those it began with.

    Raises:
        DataError: If the data set's fingerprint, or what is done to its pixels, is not what is recorded.
    """
    if not (run_dir / "run.json").exists():
        return
    info = load_run(run_dir).info
    before = recorded_preprocessing(info, data)
    if before != dataset.preprocessing:
        raise DataError(
            f"{run_dir} began with images of mean {before.mean}, std {before.std}, {before.interpolation or 'not resized'},"
            f" now they have {dataset.preprocessing.mean}, {dataset.preprocessing.std},"
            f" {dataset.preprocessing.interpolation or 'not resized'}; finish it with the release that began it, or choose"
            " another folder"
        )
    recorded = info.get("data_fingerprint")
    if recorded != dataset.fingerprint:
        raise DataError(
            f"the images of {dataset.name} are not those that {run_dir} began with (fingerprint {recorded} there,"
            f" {dataset.fingerprint} now); put the old images back, or choose another folder"
        )
