"""Small folders of pictures, and weights of small timm ViTs, as files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

CLASSES = ("ant", "bee", "cat")

SHAPE = {"embed_dim": 32, "depth": 1, "num_heads": 2, "patch_size": 8}
"Of a ViT that trains in seconds on pictures of 16 pixels."


def make_pictures(
    root: Path, parts: dict[str, int], classes: tuple[str, ...] = CLASSES, suffix: str = ".png"
) -> Path:
    """Write pictures of 24 x 20 pixels, a colour to each class, `parts[part]` to each class of each part."""
    chance = np.random.default_rng(0)
    kind = Image.registered_extensions()[suffix]
    for part, count in parts.items():
        for number, name in enumerate(classes):
            folder = root / part / name
            folder.mkdir(parents=True)
            colour = np.array([60 * number, 40, 170 - 60 * number])
            for i in range(count):
                pixels = chance.integers(0, 80, (20, 24, 3)) + colour
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}{suffix}", format=kind)
    return root


def save_weights(
    path: Path, num_classes: int, name: str = "deit_small_patch16_224", **changes: Any
) -> Path:
    """Write the random weights of a small ViT for pictures of 16 pixels, as timm names them."""
    torch.manual_seed(0)
    shape = {"img_size": 16, **SHAPE, **changes}
    model = timm.create_model(name, num_classes=num_classes, **shape)
    save_file(model.state_dict(), path)
    return path
