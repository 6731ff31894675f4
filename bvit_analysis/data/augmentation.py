"""What is done to a batch of uint8 images before a model sees it; pure functions, chance comes as arguments."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return (images / 255 - mean) / std, per channel.

    Args:
        images: uint8 (B, C, H, W).
        mean: Per channel, of images in [0, 1].
        std: Per channel.

    Returns:
        float32 (B, C, H, W).
    """
    centre = torch.tensor(mean).mul_(255).view(-1, 1, 1)
    spread = torch.tensor(std).mul_(255).view(-1, 1, 1)
    return images.to(torch.float32).sub_(centre).div_(spread)


def shift_and_flip(images: Tensor, shifts: Tensor, flips: Tensor) -> Tensor:
    """Move each image by its shift, filling with black, and mirror it left to right where its flip is set.

    Args:
        images: uint8 (B, C, H, W).
        shifts: int64 (B, 2), rows and columns, pixels; positive moves down and right.
        flips: bool (B,).

    Returns:
        uint8 (B, C, H, W).
    """
    batch, _, height, width = images.shape
    padding = int(shifts.abs().max()) if len(shifts) else 0
    padded = torch.nn.functional.pad(images, [padding] * 4)
    rows = torch.arange(height) + padding - shifts[:, :1]
    columns = torch.arange(width) + padding - shifts[:, 1:]
    columns = torch.where(flips[:, None], columns.flip(1), columns)
    # between two index tensors the channel is moved to the end
    picked = padded[torch.arange(batch)[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return picked.permute(0, 3, 1, 2)
