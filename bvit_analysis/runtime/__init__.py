"""Inference on packed bits: the model that runs on XNOR and popcount, on the CPU. README.md here has the picture."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bvit_analysis.runtime.model import PackedModel as PackedModel
    from bvit_analysis.runtime.model import load_runtime as load_runtime

__all__ = ["PackedModel", "load_runtime"]

# Importing torch takes seconds, and the kernels below need none: each name is loaded when first used.


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module("bvit_analysis.runtime.model"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
