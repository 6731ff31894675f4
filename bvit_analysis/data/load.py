"""Open a data set by its configuration."""

from __future__ import annotations

from pathlib import Path

from bvit_analysis.config import DataConfig
from bvit_analysis.data.dataset import Dataset
from bvit_analysis.data.fashion_mnist import embedded_folder, load_fashion_mnist
from bvit_analysis.data.timm_sets import TIMM_NAMES, load_timm
from bvit_analysis.errors import ConfigError, unknown_name


def load_dataset(config: DataConfig) -> Dataset:
    """Open the data set of a configuration and check what can be checked before training.

    Args:
        config: Name, root and limits; an empty root means BVIT_DATA, else the embedded data folder.

    Raises:
        ConfigError: If the name is unknown, or a setting does not apply to the data set.
        DataError: If files are missing, damaged or not laid out as expected.
    """
    root = Path(config.root) if config.root else embedded_folder()
    if config.name == "fashion_mnist":
        return load_fashion_mnist(config, root)
    if config.name not in TIMM_NAMES:
        raise ConfigError(unknown_name("data set", config.name, ("fashion_mnist", *TIMM_NAMES)))
    return load_timm(config, root)
