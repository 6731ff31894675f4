"""An environment in which what makes runs is not installed, for processes that a test starts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import bvit_analysis

HIDDEN = ("torch", "torchvision", "timm", "safetensors", "numba", "llvmlite")
"The packages of the extras `train` and `runtime`, but for those that others bring as well."

ROOT = Path(bvit_analysis.__file__).parents[1]

_HIDE = f"""
import sys
from importlib.abc import MetaPathFinder

class Hide(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in {HIDDEN}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Hide())
"""


def environment(folder: Path) -> dict[str, str]:
    """Return variables under which a Python process, and every kernel that it starts, finds none of HIDDEN.

    Args:
        folder: A place for the file that Python reads when it starts; it must outlive the process.
    """
    (folder / "sitecustomize.py").write_text(_HIDE)
    return os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}


def python(
    folder: Path, *arguments: str, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run Python there to its end."""
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, cwd=cwd, env=environment(folder), capture_output=True, text=True, check=False
    )
