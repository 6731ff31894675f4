"""What is installed on top of the core, and one error for what is not.

The core looks at recorded runs and needs neither torch nor timm, which are gigabytes. All that makes runs needs
the extra `train`: the modules below. Where it is not installed, importing one of them, or using a name of the root
package that comes from one, ends in a MissingExtraError with the line that installs it. Where it is, nothing is done.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

from bvit_analysis.errors import MissingExtraError

TRAIN_PACKAGES = ("torch", "torchvision", "timm", "safetensors", "tqdm")
"What the extra `train` brings."

NEED_TRAIN = (
    "adapters.accelerate",
    "adapters.huggingface",
    "adapters.lightning",
    "convert",
    "costs.ledger",
    "data",
    "environment",
    "instruments",
    "layers",
    "measures.bimodality",
    "measures.flips",
    "measures.information",
    "measures.tensors",
    "packed",
    "pretrained",
    "quantizers",
    "randomness",
    "records.checkpoints",
    "regularization",
    "runtime",
    "sites",
    "training",
    "watch",
)
"The modules and packages of bvit_analysis that import some of it."


def missing_extra(what: str, packages: Sequence[str], extra: str) -> MissingExtraError:
    """Return the error for a feature whose packages are not installed.

    Args:
        what: The feature, as the subject of a sentence in the singular.
        packages: Names of the packages that were looked for and are not there.
        extra: The extra of bvit_analysis that brings them.

    Example:
        >>> print(missing_extra("the report", ["jinja2"], "notebooks"))
        the report needs jinja2, which is not installed; pip install 'bvit_analysis[notebooks]'
    """
    *first, last = packages
    listed = f"{', '.join(first)} and {last}, which are" if first else f"{last}, which is"
    return MissingExtraError(
        f"{what} needs {listed} not installed; pip install 'bvit_analysis[{extra}]'"
    )


def not_installed(packages: Sequence[str]) -> list[str]:
    """Return those of some packages that cannot be imported, without importing any."""
    return [package for package in packages if not _found(package)]


def guard_training() -> None:
    """Make the modules that need the extra `train` say so when they are imported, if it is not installed."""
    missing = not_installed(TRAIN_PACKAGES)
    if missing and not any(isinstance(finder, _NeedsTrain) for finder in sys.meta_path):
        sys.meta_path.insert(0, _NeedsTrain(missing))


class _NeedsTrain(MetaPathFinder):
    """Refuses the modules of this package that cannot be imported, and leaves all others to Python.

    A module cannot say it for itself without a try around its first import, in two dozen files.
    """

    def __init__(self, missing: Sequence[str]) -> None:
        self._missing = missing
        self._names = frozenset(f"bvit_analysis.{name}" for name in NEED_TRAIN)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname in self._names:
            raise missing_extra(fullname, self._missing, "train")
        return None


def _found(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):  # hidden on purpose, as tests do
        return False
