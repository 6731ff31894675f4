"""Explorers: controls over the tables and plots of recorded runs, for JupyterLab and for stored copies.

Each opens showing what it is about, works without a kernel's help in tests, and falls back to pictures where widgets
are not drawn. They need the `notebooks` extra.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bvit_analysis.widgets.base import Explorer as Explorer
    from bvit_analysis.widgets.bimodality import BimodalityExplorer as BimodalityExplorer
    from bvit_analysis.widgets.comparer import RunComparer as RunComparer
    from bvit_analysis.widgets.information import InformationExplorer as InformationExplorer
    from bvit_analysis.widgets.live import LiveRun as LiveRun
    from bvit_analysis.widgets.oscillation import OscillationExplorer as OscillationExplorer
    from bvit_analysis.widgets.prediction import Prediction as Prediction
    from bvit_analysis.widgets.sandbox import BinarizationSandbox as BinarizationSandbox

# Each explorer loads what it needs when it is first used, so that one does not wait for the others.
_HOMES = {
    "BimodalityExplorer": "bimodality",
    "BinarizationSandbox": "sandbox",
    "Explorer": "base",
    "InformationExplorer": "information",
    "LiveRun": "live",
    "OscillationExplorer": "oscillation",
    "Prediction": "prediction",
    "RunComparer": "comparer",
}

__all__ = sorted(_HOMES)  # noqa: PLE0605 - built from the table above


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"bvit_analysis.widgets.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'bvit_analysis.widgets' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
