"""One part of a data set: labels in memory, and images that are in memory too or decoded when asked for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, final

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from bvit_analysis.data.decoding import DECODE_ERRORS, first_line, to_rgb
from bvit_analysis.errors import DataError
from bvit_analysis.randomness import generator, seed_from, seeded

Transform = Callable[[Image.Image], Tensor]
"From a PIL image to a tensor (C, H, W)."

Key = tuple[int, int]
"Epoch and index of an image: what its augmentation depends on, beside the seed."


def fixed_permutation(count: int) -> np.ndarray:
    """Return the order (count,) by which validation images are cut from training images.

    It depends on the count alone, so every run, seed and machine has the same splits.
    """
    # the legacy generator, since numpy promises that its stream never changes
    legacy = np.random.RandomState(seed_from(0, "split") & 0xFFFFFFFF)  # noqa: NPY002
    return legacy.permutation(count)


class Split(ABC):
    """One part of a data set: labels in memory, and images by their indices."""

    def __init__(self, labels: Tensor) -> None:
        self.labels = labels
        "int64 (N,)"

    def __len__(self) -> int:
        return len(self.labels)

    @property
    @abstractmethod
    def images(self) -> Tensor:
        """All images, uint8 (N, C, H, W), not augmented."""

    @abstractmethod
    def read(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield the images of each batch of indices (B,), in order, as uint8 (B, C, H, W), not augmented."""


@final
class MemorySplit(Split):
    """A split whose images are one uint8 tensor (N, C, H, W)."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        super().__init__(labels)
        self._images = images

    @property
    def images(self) -> Tensor:
        """All images, uint8 (N, C, H, W); not a copy."""
        return self._images

    def read(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield the images of each batch of indices (B,), in order, as uint8 (B, C, H, W), not augmented."""
        return (self._images[indices] for indices in batches)


@final
class FileSplit(Split):
    """A split whose images are decoded when they are asked for.

    Args:
        source: A data set that yields pairs of a PIL image, in the mode that it is stored in, and a label.
        positions: Where in the source each image of the split is.
        labels: int64 (N,).
        class_names: For messages.
        transform: To uint8 (C, H, W) of one size, without chance.
        workers: Loader processes; 0 loads in this one.
    """

    def __init__(
        self,
        source: Any,
        positions: Sequence[int],
        labels: Tensor,
        *,
        class_names: Sequence[str],
        transform: Transform,
        workers: int,
    ) -> None:
        super().__init__(labels)
        self.transform = transform
        self.workers = workers
        self._source = source
        self._positions = positions
        self._class_names = class_names

    @property
    def images(self) -> Tensor:
        """All images, uint8 (N, C, H, W); every file is decoded, at each call."""
        return torch.stack([self.transform(self.open(index)) for index in range(len(self))])

    def read(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield the images of each batch of indices (B,), in order, as uint8 (B, C, H, W), not augmented."""
        keys = ([(0, index) for index in indices.tolist()] for indices in batches)
        return load_images(self, self.transform, keys, seed=0)

    def open(self, index: int) -> Image.Image:
        """Decode one image to upright RGB; no other image is ever put in its place.

        Raises:
            DataError: If the file cannot be decoded; it names path, class and index.
        """
        position = self._positions[index]
        try:
            image: Image.Image = self._source[position][0]
            return to_rgb(image)
        except DECODE_ERRORS as error:
            samples = getattr(self._source, "samples", None)
            place = samples[position][0] if samples else f"of {type(self._source).__name__}"
            raise DataError(
                f"cannot read image {place} (class '{self._class_names[int(self.labels[index])]}', "
                f"index {index}): {first_line(error)}; replace or remove it"
            ) from error


@final
class _Samples(TorchDataset[Tensor | DataError]):
    """What a loader process needs to make an image from its key."""

    def __init__(self, split: FileSplit, transform: Transform, seed: int) -> None:
        self._split = split
        self._transform = transform
        self._seed = seed

    def __getitem__(self, key: Key) -> Tensor | DataError:
        epoch, index = key
        try:
            image = self._split.open(index)
        except DataError as error:
            # raised in a loader process, it would arrive as a page of traceback
            return DataError(str(error))
        with seeded(self._seed, "aug", epoch, index):
            return self._transform(image)


def _stack(samples: list[Tensor | DataError]) -> Tensor | DataError:
    errors = [sample for sample in samples if isinstance(sample, DataError)]
    return errors[0] if errors else torch.stack([s for s in samples if isinstance(s, Tensor)])


def load_images(
    split: FileSplit, transform: Transform, keys: Iterable[list[Key]], *, seed: int
) -> Iterator[Tensor]:
    """Decode and transform batch after batch, in the split's number of loader processes.

    Each image is transformed under seeded(seed, "aug", epoch, index), so the number of processes, their
    prefetching and the batch an image is in change nothing.

    Args:
        split: Where the images are.
        transform: To tensors (C, H, W) of one size; may draw from the global generators.
        keys: Epoch and index of each image, a list per batch.
        seed: Of the run.

    Yields:
        Tensors (B, C, H, W).

    Raises:
        DataError: If an image cannot be decoded.
    """
    loader = DataLoader(
        _Samples(split, transform, seed),
        batch_sampler=keys,  # type: ignore[arg-type]  # any iterable of lists of keys will do
        num_workers=split.workers,
        collate_fn=_stack,
        generator=generator(seed, "loader"),  # it draws one number, from the global one if not told
    )
    for images in loader:
        if isinstance(images, DataError):
            raise images
        yield images
