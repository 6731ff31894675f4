"""Data sets that timm reads at any index: names, transforms, and splits cut where one is missing."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bvit_analysis.config import DataConfig
from bvit_analysis.data.dataset import Dataset
from bvit_analysis.data.image_folder import find_layout, folder_fingerprint
from bvit_analysis.data.splits import (
    FileSplit,
    Split,
    Transform,
    first_line,
    fixed_permutation,
)
from bvit_analysis.errors import ConfigError, DataError

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

# What timm's pretrained ViTs of the DeiT family expect; checked against timm by a test.
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)

# A split that is missing takes a tenth of the training images, up to so many.
_LARGEST_CUT = 10_000


def load_timm(config: DataConfig, root: Path) -> Dataset:
    """Open one of TIMM_NAMES in a folder; a split that is missing is cut from the training images.

    Raises:
        ConfigError: If a setting does not apply.
        DataError: If files are missing or not laid out as expected.
    """
    training_transform(config)  # an unknown auto_augment fails now, not at the first step
    train, others, class_names, fingerprint = _timm_sources(config.name, root)
    transform = evaluation_transform(config.img_size)
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


def evaluation_transform(img_size: int) -> Transform:
    """Return timm's transform for evaluation, without normalisation: PIL image to uint8 (3, img_size, img_size)."""
    from timm.data import create_transform

    # ImageNet's custom of showing the middle 7/8 cuts the subject of a thumbnail
    crop = 0.875 if img_size >= 96 else 1.0
    transform: Transform = create_transform(
        (3, img_size, img_size), interpolation="bicubic", crop_pct=crop, normalize=False
    )
    return transform


def training_transform(config: DataConfig) -> Transform:
    """Return timm's transform for training, with its normalisation: PIL image to float32 (3, img_size, img_size).

    Raises:
        ConfigError: If auto_augment is no string of timm's.
    """
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
