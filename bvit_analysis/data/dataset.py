"""A data set: three splits, and what is known of its images."""

from __future__ import annotations

from dataclasses import dataclass

from bvit_analysis.data.splits import (
    Split,
)
from bvit_analysis.errors import ConfigError, unknown_name

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A data set with the three splits that every analysis needs."""

    name: str
    num_classes: int
    in_chans: int
    img_size: int
    "Side of the square image, pixels."
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    "Per channel, of images in [0, 1]; the images of a batch have it taken off."
    std: tuple[float, ...]
    "Per channel; the images of a batch are divided by it."
    train: Split
    "The only one that is learned from."
    validation: Split
    "For every choice: best step, strength, recipe."
    test: Split
    "For reported figures only."
    fingerprint: str
    "Changes with the files; kept in checkpoints so that no run goes on with other data."

    def split(self, name: str) -> Split:
        """Return a split by its name.

        Raises:
            ConfigError: If the name is none of "train", "validation", "test".
        """
        if name not in SPLITS:
            raise ConfigError(unknown_name("split", name, SPLITS))
        part: Split = getattr(self, name)
        return part
