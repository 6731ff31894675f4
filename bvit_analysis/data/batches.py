"""Batches of a data set, for training and for evaluation.

The order of the images is a function of (seed, "perm", epoch) and the augmentation of an image one of
(seed, "aug", epoch, index), so a stream can be started at any step, with any number of loader
processes, and yields the same bits as one that was read from the beginning.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from bvit_analysis.config import DataConfig
from bvit_analysis.data.augmentation import normalise, shift_and_flip
from bvit_analysis.data.dataset import Dataset
from bvit_analysis.data.splits import (
    FileSplit,
    MemorySplit,
    load_images,
)
from bvit_analysis.data.timm_sets import training_transform
from bvit_analysis.errors import ConfigError
from bvit_analysis.randomness import generator


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What one training step learns from."""

    step: int
    "Counted from 0 at the beginning of the run."
    epoch: int
    images: Tensor
    "float32 (B, C, H, W), augmented and normalised."
    labels: Tensor
    "int64 (B,)"
    indices: Tensor
    "int64 (B,), in the training split."


def check_batch_size(dataset: Dataset, batch_size: int) -> None:
    """Refuse a batch that the training split cannot fill.

    Raises:
        ConfigError: If it is below 1 or above the number of training images.
    """
    count = len(dataset.train)
    if not 1 <= batch_size <= count:
        raise ConfigError(
            f"batch_size must be from 1 to the {count} training images, got {batch_size}"
        )


def train_batches(
    dataset: Dataset,
    config: DataConfig,
    *,
    seed: int,
    batch_size: int,
    start_step: int,
    total_steps: int,
) -> Iterator[Batch]:
    """Yield the batches of the steps from start_step to total_steps - 1.

    Args:
        dataset: As load_dataset returned it.
        config: How to augment.
        seed: Of order and augmentation.
        batch_size: Images a step; the incomplete batch at the end of an epoch is dropped.
        start_step: First step to yield; nothing is read or computed for those before it.
        total_steps: Steps of the whole run.

    Raises:
        ConfigError: If the batch is larger than the training split.
        DataError: While iterating, if an image cannot be decoded.
    """
    check_batch_size(dataset, batch_size)
    count = len(dataset.train)
    plan = _Plan(count, seed, batch_size, start_step, total_steps)
    if isinstance(dataset.train, MemorySplit):
        images = _augmented_in_memory(dataset, dataset.train, config, seed, plan)
    elif isinstance(dataset.train, FileSplit):
        images = _augmented_from_files(dataset, dataset.train, config, seed, plan)
    else:
        raise TypeError(f"no training batches of a {type(dataset.train).__name__}")
    labels = dataset.train.labels
    return (
        Batch(step=step, epoch=epoch, images=batch, labels=labels[indices], indices=indices)
        for (step, epoch, indices), batch in zip(plan, images, strict=True)
    )


def evaluation_batches(
    dataset: Dataset, split_name: str, *, batch_size: int, limit: int | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield every image of a split once, in order, neither augmented nor padded.

    Args:
        dataset: As load_dataset returned it.
        split_name: "train", "validation" or "test".
        batch_size: Images a batch; the last one may be smaller.
        limit: Stop after so many images; None yields all.

    Returns:
        Pairs of images float32 (B, C, H, W), normalised, and labels int64 (B,).

    Raises:
        ConfigError: If there is no such split.
        DataError: While iterating, if an image cannot be decoded.
    """
    split = dataset.split(split_name)
    if batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
    count = len(split) if limit is None else min(limit, len(split))
    batches = torch.arange(count).split(batch_size) if count else ()
    return (
        (normalise(images, dataset.mean, dataset.std), split.labels[indices])
        for indices, images in zip(batches, split.read(batches), strict=True)
    )


class _Plan:
    """Which images each step learns from; can be walked through several times."""

    def __init__(self, count: int, seed: int, batch_size: int, start: int, total: int) -> None:
        self._count = count
        self._seed = seed
        self._batch_size = batch_size
        self._steps = range(start, total)

    def __iter__(self) -> Iterator[tuple[int, int, Tensor]]:
        per_epoch = self._count // self._batch_size
        epoch = -1
        order = torch.empty(0, dtype=torch.int64)
        for step in self._steps:
            if step // per_epoch != epoch:
                epoch = step // per_epoch
                order = torch.randperm(self._count, generator=generator(self._seed, "perm", epoch))
            first = step % per_epoch * self._batch_size
            yield step, epoch, order[first : first + self._batch_size]

    def keys(self) -> Iterator[list[tuple[int, int]]]:
        return ([(epoch, index) for index in indices.tolist()] for _, epoch, indices in self)


def _augmented_in_memory(
    dataset: Dataset, split: MemorySplit, config: DataConfig, seed: int, plan: _Plan
) -> Iterator[Tensor]:
    drawn_for = -1
    shifts = flips = torch.empty(0)
    for _, epoch, indices in plan:
        images = split.images[indices]
        if config.augmentation:
            if epoch != drawn_for:
                # for all images of an epoch at once: still a function of the image's index, and quick
                chance = generator(seed, "aug", epoch)
                shifts = torch.randint(
                    -config.crop_padding, config.crop_padding + 1, (len(split), 2), generator=chance
                )
                flips = torch.randint(0, 2, (len(split),), generator=chance).bool()
                drawn_for = epoch
            images = shift_and_flip(images, shifts[indices], flips[indices])
        yield normalise(images, dataset.mean, dataset.std)


def _augmented_from_files(
    dataset: Dataset, split: FileSplit, config: DataConfig, seed: int, plan: _Plan
) -> Iterator[Tensor]:
    transform = split.transform
    if config.augmentation:
        transform = training_transform(config, dataset.preprocessing)
    for images in load_images(split, transform, plan.keys(), seed=seed):
        # the training transform of timm has normalised already, since erasing comes after that
        stored = images.dtype == torch.uint8
        yield normalise(images, dataset.mean, dataset.std) if stored else images
