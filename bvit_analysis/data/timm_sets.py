"""Data sets that timm reads at any index: names, transforms, and splits cut where one is missing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from PIL import Image

from bvit_analysis.config import DataConfig
from bvit_analysis.data.dataset import Dataset
from bvit_analysis.data.decoding import first_line, open_image, survey
from bvit_analysis.data.image_folder import (
    ImageFiles,
    describe_left_out,
    find_images,
    find_layout,
    fingerprint,
)
from bvit_analysis.data.splits import (
    FileSplit,
    Split,
    Transform,
    fixed_permutation,
)
from bvit_analysis.errors import ConfigError, DataError
from bvit_analysis.pretrained import Preprocessing

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

# For models that start at random; checked against timm by a test.
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)

DEFAULT_PREPROCESSING = Preprocessing(
    mean=_IMAGENET_MEAN, std=_IMAGENET_STD, interpolation="bicubic", crop_pct=0.875
)

# Showing the middle of a thumbnail, as evaluations on ImageNet do, cuts its subject.
_LARGEST_THUMBNAIL = 95

# A split that is missing takes a tenth of the training images, up to so many.
_LARGEST_CUT = 10_000


def load_timm(
    config: DataConfig, root: Path, preprocessing: Preprocessing | None = None
) -> Dataset:
    """Open one of TIMM_NAMES in a folder; a split that is missing is cut from the training images.

    Args:
        config: Name, size, limits, augmentation and loader processes.
        root: Where the files are.
        preprocessing: What the model expects; by default ImageNet's mean and std, bicubic.

    Raises:
        ConfigError: If a setting does not apply.
        DataError: If files are missing or not laid out as expected.
    """
    pixels = preprocessing or DEFAULT_PREPROCESSING
    training_transform(config, pixels)  # an unknown auto_augment fails now, not at the first step
    found = _folder(root) if config.name == "torch/image_folder" else _timm_set(config.name, root)
    train, class_names = found.train, found.class_names
    transform = evaluation_transform(config.img_size, pixels)
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
        source = found.held_out.get(name)
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
        preprocessing=pixels,
        train=part(train, rest[: config.train_limit or None]),
        validation=held_out["validation"],
        test=held_out["test"],
        fingerprint=found.fingerprint,
        notes=found.notes,
    )


@dataclass(frozen=True, kw_only=True)
class _Sources:
    train: Any
    held_out: Mapping[str, Any]
    class_names: tuple[str, ...]
    fingerprint: str
    notes: tuple[str, ...] = ()


@final
class _Images:
    """Image files and their labels, as FileSplit reads them."""

    def __init__(self, files: ImageFiles) -> None:
        self.samples = files.samples
        self.targets = [label for _, label in files.samples]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, position: int) -> tuple[Image.Image, int]:
        path, label = self.samples[position]
        return open_image(path), label


def _folder(root: Path) -> _Sources:
    layout = find_layout(root)
    parts = {"train": layout.train, "validation": layout.validation, "test": layout.test}
    sources, paths, left_out = {}, [], []
    for name, folder in parts.items():
        if folder is None:
            continue
        files = find_images(folder, layout.class_names)
        sources[name] = _Images(files)
        paths += [path for path, _ in files.samples]
        left_out += describe_left_out(folder, files)
    return _Sources(
        train=sources.pop("train"),
        held_out=sources,
        class_names=layout.class_names,
        fingerprint=fingerprint(root, paths),
        notes=(*layout.notes, *left_out, *survey(paths)),
    )


def _timm_set(name: str, root: Path) -> _Sources:
    from timm.data import create_dataset  # here, because timm takes seconds to import

    def source(split: str) -> Any:
        try:
            found = create_dataset(
                name, root=str(root), split=split, search_split=False, download=False
            )
        except (RuntimeError, OSError) as error:
            raise DataError(
                f"cannot open {name} in {root}: {first_line(error)}; "
                "put the data there first, nothing is downloaded here"
            ) from error
        if hasattr(found, "loader"):
            found.loader = open_image  # torchvision's would clip 16 bits to 8
        return found

    if not root.is_dir():
        raise DataError(f"the data folder {root} does not exist; check DataConfig.root")
    train, test = source("train"), source("validation")
    classes = tuple(" / ".join([c] if isinstance(c, str) else c) for c in train.classes)
    text = json.dumps([name, classes, np.asarray(train.targets).tolist()])
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return _Sources(train=train, held_out={"test": test}, class_names=classes, fingerprint=digest)


def evaluation_transform(
    img_size: int, preprocessing: Preprocessing = DEFAULT_PREPROCESSING
) -> Transform:
    """Return timm's transform for evaluation, without normalisation: PIL image to uint8 (3, img_size, img_size)."""
    from timm.data import create_transform

    thumbnail = img_size <= _LARGEST_THUMBNAIL
    transform: Transform = create_transform(
        (3, img_size, img_size),
        interpolation=preprocessing.interpolation,
        crop_pct=1.0 if thumbnail else preprocessing.crop_pct,
        crop_mode="center" if thumbnail else preprocessing.crop_mode,
        mean=preprocessing.mean,
        normalize=False,
    )
    return transform


def training_transform(
    config: DataConfig, preprocessing: Preprocessing = DEFAULT_PREPROCESSING
) -> Transform:
    """Return timm's transform for training, with its normalisation: PIL image to float32 (3, img_size, img_size).

    Raises:
        ConfigError: If auto_augment is no string of timm's.
    """
    from timm.data import create_transform

    try:
        transform: Transform = create_transform(
            (3, config.img_size, config.img_size),
            is_training=True,
            interpolation=preprocessing.interpolation,
            auto_augment=config.auto_augment or None,
            re_prob=config.random_erasing,
            re_mode="pixel",
            mean=preprocessing.mean,
            std=preprocessing.std,
        )
    except (AssertionError, ValueError, KeyError, IndexError) as error:
        raise ConfigError(
            f"timm does not know auto_augment {config.auto_augment!r} ({first_line(error)}); "
            "use for example 'rand-m9-mstd0.5-inc1'"
        ) from error
    return transform
