"""Open a data set by its configuration."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bvit_analysis.config import DataConfig
from bvit_analysis.data.dataset import Dataset
from bvit_analysis.data.fashion_mnist import (
    OWN_PREPROCESSING,
    embedded_folder,
    load_fashion_mnist,
)
from bvit_analysis.data.timm_sets import DEFAULT_PREPROCESSING, TIMM_NAMES, load_timm
from bvit_analysis.errors import ConfigError, DataError, unknown_name
from bvit_analysis.pretrained import Preprocessing


def load_dataset(config: DataConfig, preprocessing: Preprocessing | None = None) -> Dataset:
    """Open the data set of a configuration and check what can be checked before training.

    What is found and not read, or not as it is stored, is printed to stderr and stands in the data set's notes.

    Args:
        config: Name, root and limits; an empty root means BVIT_DATA, else the embedded data folder.
        preprocessing: What the model's first weights expect, see pretrained.model_preprocessing(); None takes the data
            set's own.

    Raises:
        ConfigError: If the name is unknown, or a setting does not apply to the data set.
        DataError: If files are missing, damaged or not laid out as expected.
    """
    root = Path(config.root) if config.root else embedded_folder()
    if config.name == "fashion_mnist":
        return load_fashion_mnist(config, root, preprocessing)
    if config.name not in TIMM_NAMES:
        raise ConfigError(unknown_name("data set", config.name, ("fashion_mnist", *TIMM_NAMES)))
    dataset = load_timm(config, root, preprocessing)
    for note in dataset.notes:
        print(f"{config.name}: {note}", file=sys.stderr)
    return dataset


def recorded_preprocessing(info: Mapping[str, Any], config: DataConfig) -> Preprocessing:
    """Return what was done to the images of a recorded run.

    Args:
        info: Of its run.json; without an entry it is of a release that did the same to the images of every model.
        config: Its data set.

    Raises:
        DataError: If the entry is damaged.
    """
    found = info.get("preprocessing")
    if found is None:
        return _own_preprocessing(config)
    try:
        read = Preprocessing(**{**found, "mean": tuple(found["mean"]), "std": tuple(found["std"])})
        numbers = (*read.mean, *read.std, read.crop_pct)
        words = (read.interpolation, read.crop_mode)
        if all(map(math.isfinite, numbers)) and all(isinstance(word, str) for word in words):
            return read
    except (TypeError, KeyError):
        pass
    shown = " ".join(repr(found)[:100].split())
    raise DataError(f"the run's preprocessing is damaged: {shown}; train it again")


def _own_preprocessing(config: DataConfig) -> Preprocessing:
    return OWN_PREPROCESSING if config.name == "fashion_mnist" else DEFAULT_PREPROCESSING
