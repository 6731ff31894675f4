"""Packed models: one bit a binary weight in a checked, pickle-free file."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bvit_analysis.packed.model import load_packed as load_packed
    from bvit_analysis.packed.model import save_packed as save_packed

__all__ = ["load_packed", "save_packed"]

# Importing torch takes seconds, and bits need none: each name is loaded when first used.


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module("bvit_analysis.packed.model"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
