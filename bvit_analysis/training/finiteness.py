"""Where a training stopped being finite."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


@torch.no_grad()
def first_non_finite(model: nn.Module, images: Tensor) -> str:
    """Name the first parameter or module output, in order of execution, that holds a NaN or an infinity."""
    for name, parameter in model.named_parameters():
        if not bool(parameter.isfinite().all()):
            return f"parameter {name}"
    if not bool(images.isfinite().all()):
        return "the images"
    found: list[str] = []
    hooks = []

    def look(name: str) -> Any:
        def hook(module: nn.Module, inputs: object, output: object) -> None:
            if not found and isinstance(output, Tensor) and not bool(output.isfinite().all()):
                found.append(f"output of {name}")

        return hook

    try:
        for name, module in model.named_modules():
            hooks.append(module.register_forward_hook(look(name or "the model")))
        model(images)
    finally:
        for handle in hooks:
            handle.remove()
    return found[0] if found else "only in the backward pass"
