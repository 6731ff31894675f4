"""A script in a fresh process, in which warnings are errors."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def in_process(root: Path, script: str, **environment: str) -> str:
    """Run a script against the package in a folder, and return what it prints."""
    variables = {**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    variables.pop("BVIT_RUNTIME", None)
    variables |= environment
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        env=variables,
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
