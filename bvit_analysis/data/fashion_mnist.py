"""The embedded Fashion-MNIST (Xiao, Rasul, Vollgraf, arXiv 1708.07747): found, verified, decoded."""

from __future__ import annotations

import gzip
import hashlib
import os
import zlib
from pathlib import Path

import numpy as np
import torch

from bvit_analysis.config import DataConfig
from bvit_analysis.data.dataset import Dataset
from bvit_analysis.data.splits import (
    MemorySplit,
    Split,
    fixed_permutation,
)
from bvit_analysis.errors import ConfigError, DataError
from bvit_analysis.pretrained import Preprocessing

CLASS_NAMES = (
    "T-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)

VALIDATION_COUNT = 5000

# Of the unpacked files, because two packers give two .gz of the same images.
SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}

FINGERPRINT = hashlib.sha256("".join(SHA256.values()).encode()).hexdigest()[:16]

_REMEDY = (
    "restore it with 'git checkout -- data', or copy it from Debian's package dataset-fashion-mnist"
)

# Of the 55,000 training images, so that nothing of the validation or test split is used; checked by a test.
OWN_PREPROCESSING = Preprocessing(mean=(0.2861,), std=(0.3530,))


def embedded_folder() -> Path:
    """Return the data folder: BVIT_DATA where it is set, else data/ beside the package."""
    chosen = os.environ.get("BVIT_DATA")
    return Path(chosen) if chosen else Path(__file__).resolve().parents[2] / "data"


def _unpacked(folder: Path, name: str) -> bytes:
    path = folder / f"{name}.gz"
    if not path.is_file():
        raise DataError(
            f"Fashion-MNIST is not at {folder}: {path.name} is missing; {_REMEDY}, "
            "or set BVIT_DATA to the folder that holds FashionMNIST/raw"
        )
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be unpacked ({error}); {_REMEDY}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256[name]:
        raise DataError(
            f"{path} is not the published file: SHA-256 of its content is {found[:12]}..., "
            f"expected {SHA256[name][:12]}...; {_REMEDY}"
        )
    return content


def read_part(root: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Decode one of the two published parts, after checking it byte for byte.

    Args:
        root: Folder that holds FashionMNIST/raw.
        part: "train" (60,000 images) or "t10k" (10,000).

    Returns:
        Images uint8 (N, 1, 28, 28) and labels uint8 (N,); both are read-only.

    Raises:
        DataError: If a file is missing or its content has another SHA-256.
    """
    folder = root / "FashionMNIST" / "raw"
    # past the headers of the IDX format: 4 + 3 * 4 bytes, and 4 + 4
    images = np.frombuffer(_unpacked(folder, f"{part}-images-idx3-ubyte"), np.uint8, offset=16)
    labels = np.frombuffer(_unpacked(folder, f"{part}-labels-idx1-ubyte"), np.uint8, offset=8)
    return images.reshape(-1, 1, 28, 28), labels


def grey(preprocessing: Preprocessing) -> Preprocessing:
    """Return what a model for colours expects of a grey image: the means over channels of its mean and std.

    timm adds up the first convolution's weights over the colours, as if each were the grey image.
    """
    mean, std = (sum(values) / len(values) for values in (preprocessing.mean, preprocessing.std))
    return Preprocessing(mean=(mean,), std=(std,))


def load_fashion_mnist(
    config: DataConfig, root: Path, preprocessing: Preprocessing | None = None
) -> Dataset:
    """Open the embedded data set: 55,000 training, 5,000 validation and 10,000 test images, (1, 28, 28) uint8.

    Args:
        config: Limits; other settings must be those of the set.
        root: Folder that holds FashionMNIST/raw.
        preprocessing: What the model expects; by default mean and std of the training images.

    Raises:
        ConfigError: If a setting does not apply to it.
        DataError: If a file is missing or damaged.
    """
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
    images, labels = read_part(root, "train")
    order = fixed_permutation(len(labels))
    held_out, learned = np.split(order, [VALIDATION_COUNT])
    test_images, test_labels = read_part(root, "t10k")

    def part(images: np.ndarray, labels: np.ndarray, order: np.ndarray, limit: int) -> Split:
        chosen = order[: limit or None]
        return MemorySplit(
            torch.from_numpy(images[chosen]), torch.from_numpy(labels[chosen].astype(np.int64))
        )

    every_test = np.arange(len(test_labels))
    return Dataset(
        name=config.name,
        num_classes=len(CLASS_NAMES),
        in_chans=1,
        img_size=28,
        class_names=CLASS_NAMES,
        preprocessing=grey(preprocessing) if preprocessing else OWN_PREPROCESSING,
        train=part(images, labels, learned, config.train_limit),
        validation=part(images, labels, held_out, config.evaluation_limit),
        test=part(test_images, test_labels, every_test, config.evaluation_limit),
        fingerprint=FINGERPRINT,
    )
