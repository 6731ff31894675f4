"""The smallest ViT of timm that has every part a binary one has, always with the same weights."""

from __future__ import annotations

from typing import Any

import timm
import torch
from torch import nn


def tiny_vit(**changes: Any) -> nn.Module:
    """Return a float ViT of one block of width 16 with 2 heads: 2 x 2 patches of a grey image of 14 pixels, 3 classes.

    Args:
        changes: Arguments of timm.create_model that differ, for example ``depth=2``.
    """
    settings: dict[str, Any] = {"img_size": 14, "patch_size": 7, "in_chans": 1, "num_classes": 3}
    settings |= {"embed_dim": 16, "depth": 1, "num_heads": 2}
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", **(settings | changes))
