"""Lessons: one source with exercises and solutions becomes a hand-out without and a notebook with the solutions.

    notebooks/lessons/NAME.ipynb      the source, the only one to edit
    notebooks/NAME.ipynb              the hand-out: cells tagged `solution` are left out
    notebooks/solutions/NAME.ipynb    with them

A cell tagged `exercise` asks; it is in both. Text and code cells may have either tag. A solution follows the exercise
that it answers. The hand-out must execute as it is, so what an exercise leaves open is a value and not a fault.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
import warnings
from pathlib import Path
from typing import Any

from bvit_analysis.errors import SuiteError, unknown_name
from bvit_analysis.files import write_bytes_atomic
from bvit_analysis.suite.parameters import read_notebook

TAGS = ("parameters", "exercise", "solution")
"Tags that cells of a lesson may have."

SOURCES, SOLUTIONS = "lessons", "solutions"
"Folders below that of the notebooks."

_METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


def tags_of(cell: Any) -> list[str]:
    """Return the tags of a cell, each once, in the order written."""
    return list(dict.fromkeys(map(str, cell.get("metadata", {}).get("tags", []))))


def check_lesson(notebook: Any, name: str) -> None:
    """Check that a notebook is the source of a lesson.

    Args:
        notebook: An nbformat notebook.
        name: What errors call it.

    Raises:
        SuiteError: If it is not; the text says what is missing and how to mend it.
    """
    seen: list[str] = []
    for place, cell in enumerate(notebook.cells):
        for tag in tags_of(cell):
            if tag not in TAGS:
                raise SuiteError(f"cell {place} of {name}: {unknown_name('tag', tag, TAGS)}")
            if tag == "parameters" and cell.cell_type != "code":
                raise SuiteError(
                    f"cell {place} of {name} is text tagged 'parameters'; tag the code cell"
                )
            if tag == "solution" and "exercise" not in seen:
                raise SuiteError(
                    f"cell {place} of {name} is a solution before any exercise; tag the cell that asks 'exercise'"
                )
            if tag == "solution" and "exercise" in tags_of(cell):
                raise SuiteError(
                    f"cell {place} of {name} is tagged both 'exercise' and 'solution'; make two cells of it"
                )
            seen.append(tag)
    if seen.count("parameters") != 1:
        raise SuiteError(
            f"{name} has {seen.count('parameters')} code cells tagged 'parameters'; a lesson has one, "
            "tag the cell with its typed parameters"
        )
    for tag in ("exercise", "solution"):
        if tag not in seen:
            raise SuiteError(
                f"{name} has no cell tagged {tag!r}; a lesson has exercises and solutions"
            )


def with_solutions(source: Any) -> Any:
    """Return a lesson as a new notebook with all its cells, and nothing of an execution."""
    return _of(list(source.cells), source)


def without_solutions(source: Any) -> Any:
    """Return a lesson as a new notebook without the cells tagged `solution`, and nothing of an execution."""
    return _of([cell for cell in source.cells if "solution" not in tags_of(cell)], source)


def _of(cells: list[Any], source: Any) -> Any:
    """Return a new notebook of these cells of a source, with the ids that they have among all its cells."""
    ids = {id(cell): name for cell, name in zip(source.cells, _ids(source.cells), strict=True)}
    made = []
    for cell in cells:
        new = type(cell)(
            cell_type=cell.cell_type,
            id=ids[id(cell)],
            metadata=type(cell)({"tags": tags_of(cell)} if tags_of(cell) else {}),
            source=str(cell.source),
        )
        if cell.cell_type == "code":
            new["execution_count"] = None
            new["outputs"] = []
        made.append(new)
    metadata = type(source)(copy.deepcopy(_METADATA))
    return type(source)(cells=made, metadata=metadata, nbformat=4, nbformat_minor=5)


def _ids(cells: list[Any]) -> list[str]:
    """Return an id for each cell: its own if it is good and new, else one that follows from what it says."""
    ids: list[str] = []
    for cell in cells:
        name = str(cell.get("id", ""))
        if not _ID.fullmatch(name) or name in ids:
            digest = hashlib.sha256(str(cell.source).encode()).hexdigest()[:12]
            name = f"{cell.cell_type}-{digest}"
            while name in ids:
                name += "x"
        ids.append(name)
    return ids


def as_text(notebook: Any) -> str:
    """Return a notebook as the text of its file, as JupyterLab and the commit hook write it."""
    import nbformat

    return str(nbformat.writes(notebook, version=4)) + "\n"


def read_lesson(path: Path) -> Any:
    """Read a source; ids are as stored, where nbformat would draw random ones for those missing or double.

    Raises:
        SuiteError: If it is not a notebook, or not that of a lesson.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nbformat warns of the ids that are given below
        notebook = read_notebook(path)
    stored = json.loads(path.read_text(encoding="utf-8")).get("cells", [])
    for cell, raw in zip(notebook.cells, stored, strict=False):
        cell.pop("id", None)
        if "id" in raw:
            cell["id"] = raw["id"]
    check_lesson(notebook, str(path))
    return notebook


def lesson_sources(notebooks: Path) -> list[Path]:
    """Return the sources of lessons below a folder of notebooks, sorted.

    Raises:
        SuiteError: If there are none.
    """
    found = sorted(
        path for path in (notebooks / SOURCES).glob("*.ipynb") if not path.name.startswith(".")
    )
    if not found:
        raise SuiteError(
            f"no lessons in {str(notebooks / SOURCES)!r}; give the folder that holds {SOURCES}/NAME.ipynb"
        )
    return found


def lesson_files(notebooks: Path) -> dict[Path, str]:
    """Return what the files made of all lessons should say, by path; nothing is written.

    Args:
        notebooks: Folder with the folder of sources.

    Raises:
        SuiteError: If a source is not a lesson.
    """
    files: dict[Path, str] = {}
    for path in lesson_sources(notebooks):
        source = read_lesson(path)
        files[notebooks / path.name] = as_text(without_solutions(source))
        files[notebooks / SOLUTIONS / path.name] = as_text(with_solutions(source))
    return files


def out_of_step(notebooks: Path) -> list[Path]:
    """Return the files of lessons that are missing, differ from their source, or have lost it."""
    files = lesson_files(notebooks)
    wrong = [path for path, text in files.items() if not _says(path, text)]
    orphans = sorted(set((notebooks / SOLUTIONS).glob("*.ipynb")) - set(files))
    return [*wrong, *orphans]


def write_lessons(notebooks: Path) -> list[Path]:
    """Write the hand-out and the solutions of every lesson, each whole or not at all.

    Args:
        notebooks: Folder with the folder of sources.

    Returns:
        The files that changed; none where all were in step.

    Raises:
        SuiteError: If a source is not a lesson; nothing is written then.
        RunError: If a file cannot be written.
    """
    changed = []
    for path, text in lesson_files(notebooks).items():
        if not _says(path, text):
            path.parent.mkdir(exist_ok=True)
            write_bytes_atomic(path, text.encode())
            changed.append(path)
    return changed


def _says(path: Path, text: str) -> bool:
    return path.is_file() and path.read_bytes() == text.encode()
