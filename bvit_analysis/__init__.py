"""A lab bench for binary Vision Transformers: binarize, train, watch, and look at what was recorded.

Reproduces the analyses of BinaryViT (Xiao et al., arXiv 2305.14730; not the other BinaryViT, arXiv 2306.16678). The
paper's equations are not public: GRS and ASM here are reconstructions, labelled so wherever they appear.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from bvit_analysis.extras import guard_training

__version__ = "0.1.0"

guard_training()

if TYPE_CHECKING:
    from bvit_analysis import plots as plots
    from bvit_analysis import widgets as widgets
    from bvit_analysis.config import RECIPES as RECIPES
    from bvit_analysis.config import Recipe as Recipe
    from bvit_analysis.config import RunConfig as RunConfig
    from bvit_analysis.config import WatchConfig as WatchConfig
    from bvit_analysis.config import get_recipe as get_recipe
    from bvit_analysis.config import get_scale as get_scale
    from bvit_analysis.config import read_recipe as read_recipe
    from bvit_analysis.convert import ConversionReport as ConversionReport
    from bvit_analysis.convert import binarize as binarize
    from bvit_analysis.convert import calibrate as calibrate
    from bvit_analysis.costs import model_cost as model_cost
    from bvit_analysis.errors import BvitError as BvitError
    from bvit_analysis.packed import load_packed as load_packed
    from bvit_analysis.packed import save_packed as save_packed
    from bvit_analysis.records import Run as Run
    from bvit_analysis.records import find_runs as find_runs
    from bvit_analysis.records import load_run as load_run
    from bvit_analysis.regularization import GradientRegularizer as GradientRegularizer
    from bvit_analysis.regularization import GradientTerm as GradientTerm
    from bvit_analysis.sites import Site as Site
    from bvit_analysis.sites import find_sites as find_sites
    from bvit_analysis.training.run import train as train
    from bvit_analysis.training.sweep import ablate as ablate
    from bvit_analysis.watch import Watch as Watch

# Importing torch and timm takes seconds, and a reader of runs needs neither: each name is loaded when first used.
_HOMES = {
    "RECIPES": "config",
    "Recipe": "config",
    "RunConfig": "config",
    "WatchConfig": "config",
    "get_recipe": "config",
    "get_scale": "config",
    "read_recipe": "config",
    "ConversionReport": "convert",
    "binarize": "convert",
    "calibrate": "convert",
    "model_cost": "costs",
    "BvitError": "errors",
    "load_packed": "packed",
    "save_packed": "packed",
    "Run": "records",
    "find_runs": "records",
    "load_run": "records",
    "GradientRegularizer": "regularization",
    "GradientTerm": "regularization",
    "Site": "sites",
    "find_sites": "sites",
    "ablate": "training.sweep",
    "train": "training.run",
    "Watch": "watch",
}
_MODULES = ("plots", "tables", "widgets", "measures", "quantizers", "layers", "instruments")

__all__ = ["__version__", *sorted(_HOMES), *_MODULES]  # noqa: PLE0604 - built from the table above


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"bvit_analysis.{_HOMES[name]}"), name)
    if name in _MODULES:
        return importlib.import_module(f"bvit_analysis.{name}")
    raise AttributeError(f"module 'bvit_analysis' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES, *_MODULES])
