"""Data sets and their batches: the embedded Fashion-MNIST, and everything timm reads.

The order of the images is a function of (seed, "perm", epoch) and the augmentation of an image one of
(seed, "aug", epoch, index), so a stream can be started at any step, with any number of loader
processes, and yields the same bits as one that was read from the beginning.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bvit_analysis import fashion_mnist
from bvit_analysis.augmentation import normalise, shift_and_flip
from bvit_analysis.config import DataConfig
from bvit_analysis.errors import ConfigError, DataError, unknown_name
from bvit_analysis.image_folder import find_layout, folder_fingerprint
from bvit_analysis.randomness import generator
from bvit_analysis.splits import (
    FileSplit,
    MemorySplit,
    Split,
    Transform,
    first_line,
    fixed_permutation,
    load_images,
)

__all__ = [
    "SPLITS",
    "TIMM_NAMES",
    "Batch",
    "Dataset",
    "FileSplit",
    "MemorySplit",
    "Split",
    "evaluation_batches",
    "load_dataset",
    "train_batches",
]

SPLITS = ("train", "validation", "test")

TIMM_NAMES = (
    "torch/cifar10",
    "torch/cifar100",
    "torch/fashion_mnist",
    "torch/imagenet",
    "torch/kmnist",
    "torch/mnist",
    "torch/places365",
    "torch/image_folder",
)
"timm's names of data sets that can be read at any index; its streams cannot be started at any step."

# Of the 55,000 training images, so that nothing of the validation or test split is used; checked by a test.
_FASHION_MNIST_MEAN = (0.2861,)
_FASHION_MNIST_STD = (0.3530,)

# What timm's pretrained ViTs of the DeiT family expect; checked against timm by a test.
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)

# A split that is missing takes a tenth of the training images, up to so many.
_LARGEST_CUT = 10_000


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


def load_dataset(config: DataConfig) -> Dataset:
    """Open the data set of a configuration and check what can be checked before training.

    Args:
        config: Name, root and limits; an empty root means BVIT_DATA, else the embedded data folder.

    Raises:
        ConfigError: If the name is unknown, or a setting does not apply to the data set.
        DataError: If files are missing, damaged or not laid out as expected.
    """
    root = Path(config.root) if config.root else fashion_mnist.embedded_folder()
    if config.name == "fashion_mnist":
        return _load_fashion_mnist(config, root)
    if config.name not in TIMM_NAMES:
        raise ConfigError(unknown_name("data set", config.name, ("fashion_mnist", *TIMM_NAMES)))
    return _load_timm(config, root)


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
    count = len(dataset.train)
    if not 1 <= batch_size <= count:
        raise ConfigError(
            f"batch_size must be from 1 to the {count} training images, got {batch_size}"
        )
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
    transform = _training_transform(config) if config.augmentation else split.transform
    for images in load_images(split, transform, plan.keys(), seed=seed):
        # the training transform of timm has normalised already, since erasing comes after that
        stored = images.dtype == torch.uint8
        yield normalise(images, dataset.mean, dataset.std) if stored else images


def _load_fashion_mnist(config: DataConfig, root: Path) -> Dataset:
    if config.img_size != 28:
        raise ConfigError(
            f"the embedded fashion_mnist has images of 28 pixels, got img_size {config.img_size}; "
            "use 28, or the name 'torch/fashion_mnist', which resizes"
        )
    if config.auto_augment or config.random_erasing:
        raise ConfigError(
            "auto_augment and random_erasing are for timm's data sets; "
            "use the name 'torch/fashion_mnist', or leave them at '' and 0"
        )
    images, labels = fashion_mnist.read_part(root, "train")
    order = fixed_permutation(len(labels))
    held_out, learned = np.split(order, [fashion_mnist.VALIDATION_COUNT])
    test_images, test_labels = fashion_mnist.read_part(root, "t10k")

    def part(images: np.ndarray, labels: np.ndarray, order: np.ndarray, limit: int) -> Split:
        chosen = order[: limit or None]
        return MemorySplit(
            torch.from_numpy(images[chosen]), torch.from_numpy(labels[chosen].astype(np.int64))
        )

    every_test = np.arange(len(test_labels))
    return Dataset(
        name=config.name,
        num_classes=len(fashion_mnist.CLASS_NAMES),
        in_chans=1,
        img_size=28,
        class_names=fashion_mnist.CLASS_NAMES,
        mean=_FASHION_MNIST_MEAN,
        std=_FASHION_MNIST_STD,
        train=part(images, labels, learned, config.train_limit),
        validation=part(images, labels, held_out, config.evaluation_limit),
        test=part(test_images, test_labels, every_test, config.evaluation_limit),
        fingerprint=fashion_mnist.FINGERPRINT,
    )


def _load_timm(config: DataConfig, root: Path) -> Dataset:
    _training_transform(config)  # an unknown auto_augment fails now, not at the first step
    train, others, class_names, fingerprint = _timm_sources(config.name, root)
    transform = _evaluation_transform(config.img_size)
    rest = fixed_permutation(len(train))
    cut = max(1, min(len(rest) // 10, _LARGEST_CUT))

    def part(source: Any, positions: np.ndarray) -> Split:
        labels = torch.as_tensor(source.targets, dtype=torch.int64)[torch.from_numpy(positions)]
        return FileSplit(
            source,
            positions.tolist(),
            labels,
            class_names=class_names,
            transform=transform,
            workers=config.workers,
        )

    held_out = {}
    for name in ("validation", "test"):
        source = others[name]
        if source is None:
            positions, rest = rest[:cut], rest[cut:]
        else:
            positions = fixed_permutation(len(source))
        # folders are sorted by class, so the first so many would be of one class
        chosen = np.sort(positions[: config.evaluation_limit or None])
        held_out[name] = part(train if source is None else source, chosen)
    if not len(rest):
        raise DataError(f"{root} has {len(train)} training images, too few to cut splits from them")
    return Dataset(
        name=config.name,
        num_classes=len(class_names),
        in_chans=3,
        img_size=config.img_size,
        class_names=class_names,
        mean=_IMAGENET_MEAN,
        std=_IMAGENET_STD,
        train=part(train, rest[: config.train_limit or None]),
        validation=held_out["validation"],
        test=held_out["test"],
        fingerprint=fingerprint,
    )


def _timm_sources(name: str, root: Path) -> tuple[Any, dict[str, Any], tuple[str, ...], str]:
    from timm.data import create_dataset  # here, because timm takes seconds to import

    def source(folder: Path, split: str) -> Any:
        try:
            return create_dataset(
                name, root=str(folder), split=split, search_split=False, download=False
            )
        except (RuntimeError, OSError) as error:
            raise DataError(
                f"cannot open {name} in {folder}: {first_line(error)}; "
                "put the data there first, nothing is downloaded here"
            ) from error

    if name != "torch/image_folder":
        if not root.is_dir():
            raise DataError(f"the data folder {root} does not exist; check DataConfig.root")
        train, test = source(root, "train"), source(root, "validation")
        classes = tuple(" / ".join([c] if isinstance(c, str) else c) for c in train.classes)
        text = json.dumps([name, classes, np.asarray(train.targets).tolist()])
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        return train, {"validation": None, "test": test}, classes, digest
    layout = find_layout(root)
    others = {
        part: source(folder, part) if folder else None
        for part, folder in (("validation", layout.validation), ("test", layout.test))
    }
    return source(layout.train, "train"), others, layout.class_names, folder_fingerprint(root)


def _evaluation_transform(img_size: int) -> Transform:
    from timm.data import create_transform

    # ImageNet's custom of showing the middle 7/8 cuts the subject of a thumbnail
    crop = 0.875 if img_size >= 96 else 1.0
    transform: Transform = create_transform(
        (3, img_size, img_size), interpolation="bicubic", crop_pct=crop, normalize=False
    )
    return transform


def _training_transform(config: DataConfig) -> Transform:
    from timm.data import create_transform

    try:
        transform: Transform = create_transform(
            (3, config.img_size, config.img_size),
            is_training=True,
            interpolation="bicubic",
            auto_augment=config.auto_augment or None,
            re_prob=config.random_erasing,
            re_mode="pixel",
            mean=_IMAGENET_MEAN,
            std=_IMAGENET_STD,
        )
    except (AssertionError, ValueError, KeyError, IndexError) as error:
        raise ConfigError(
            f"timm does not know auto_augment {config.auto_augment!r} ({first_line(error)}); "
            "use for example 'rand-m9-mstd0.5-inc1'"
        ) from error
    return transform
