"""Small notebooks written for one test each."""

from __future__ import annotations

from pathlib import Path

import nbformat


def write_notebook(path: Path, *cells: str, parameters: str = "") -> Path:
    """Write a notebook of code cells, those of the parameters first, and return its path."""
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_code_cell(cell) for cell in cells]
    if parameters:
        first = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
        notebook.cells.insert(0, first)
    # Somebody else's kernel: the suite must not care.
    notebook.metadata["kernelspec"] = {
        "name": "elsewhere",
        "display_name": "x",
        "language": "python",
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
    return path
