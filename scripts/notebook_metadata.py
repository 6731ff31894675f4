"""Give notebooks the metadata that all sources have: kernel python3, and of cells the tags alone.

Usage: python scripts/notebook_metadata.py NOTEBOOK...

What editors and papermill note about themselves (a display name of the kernel, versions, times) would
be in every diff. nbstripout can drop keys but not set them, and a kernel has to have a display name.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def canonical(notebook: dict[str, Any]) -> dict[str, Any]:
    """Return a notebook with the metadata of a source."""
    cells = [
        {
            **cell,
            "metadata": {key: value for key, value in cell["metadata"].items() if key == "tags"},
        }
        for cell in notebook["cells"]
    ]
    return {**notebook, "cells": cells, "metadata": METADATA}


def main(paths: list[str]) -> None:
    """Rewrite those files that differ, in the form in which Jupyter writes them."""
    for path in map(Path, paths):
        text = path.read_text(encoding="utf-8")
        wanted = json.dumps(
            canonical(json.loads(text)), indent=1, ensure_ascii=False, sort_keys=True
        )
        if text != wanted + "\n":
            path.write_text(wanted + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
