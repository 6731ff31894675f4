"""A data set: three splits, and what is known of its images."""

from __future__ import annotations

from dataclasses import dataclass

from bvit_analysis.data.splits import (
    Split,
)
from bvit_analysis.errors import ConfigError, unknown_name
from bvit_analysis.pretrained import Preprocessing

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
    preprocessing: Preprocessing
    "What is done to the pixels of every image."
    train: Split
    "The only one that is learned from."
    validation: Split
    "For every choice: best step, strength, recipe."
    test: Split
    "For reported figures only."
    fingerprint: str
    "Changes with the files; kept in checkpoints so that no run goes on with other data."
    notes: tuple[str, ...] = ()
    "What was found and is not read, or not read as it is stored: a sentence each."

    @property
    def mean(self) -> tuple[float, ...]:
        """Per channel, of images in [0, 1]; the images of a batch have it taken off."""
        return self.preprocessing.mean

    @property
    def std(self) -> tuple[float, ...]:
        """Per channel; the images of a batch are divided by it."""
        return self.preprocessing.std

    def split(self, name: str) -> Split:
        """Return a split by its name.

        Raises:
            ConfigError: If the name is none of "train", "validation", "test".
        """
        if name not in SPLITS:
            raise ConfigError(unknown_name("split", name, SPLITS))
        part: Split = getattr(self, name)
        return part
