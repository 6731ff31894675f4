"""Rules for the notebooks as they are committed, read without executing anything."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "notebooks").glob("*.ipynb"))
TYPES = {"str", "int", "float", "bool", "list[str]", "list[int]", "list[float]"}
MOST_LINES = 10


def cells(path: Path, kind: str) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == kind]


def source(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def test_the_four_notebooks_are_there() -> None:
    names = {path.stem for path in SOURCES}
    expected = {"03_weight_oscillation", "04_bimodal_weights", "05_activation_information"}
    assert expected | {"06_ablation"} <= names


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
class TestSource:
    def test_is_a_valid_notebook_with_unique_ids(self, path: Path) -> None:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        ids = [cell["id"] for cell in notebook.cells]
        assert len(set(ids)) == len(ids)

    def test_has_no_outputs_and_little_metadata(self, path: Path) -> None:
        notebook = json.loads(path.read_text())
        assert notebook["metadata"]["kernelspec"]["name"] == "python3"
        assert set(notebook["metadata"]) <= {"kernelspec", "language_info"}
        for cell in notebook["cells"]:
            assert set(cell["metadata"]) <= {"tags"}, cell["id"]
            if cell["cell_type"] == "code":
                assert cell["outputs"] == [], cell["id"]
                assert cell["execution_count"] is None, cell["id"]

    def test_code_cells_are_short_ascii_and_compile(self, path: Path) -> None:
        for cell in cells(path, "code"):
            lines = source(cell).splitlines()
            assert 1 <= len(lines) <= MOST_LINES, cell["id"]
            assert source(cell).isascii(), cell["id"]
            tree = ast.parse(source(cell))
            defined = (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)
            assert not any(isinstance(node, defined) for node in ast.walk(tree)), cell["id"]

    def test_has_one_cell_of_typed_commented_literal_parameters(self, path: Path) -> None:
        tagged = [c for c in cells(path, "code") if "parameters" in c["metadata"].get("tags", [])]
        assert len(tagged) == 1
        text = source(tagged[0])
        names = []
        for node in ast.parse(text).body:
            assert isinstance(node, ast.AnnAssign), "a parameter is an annotated assignment"
            assert ast.unparse(node.annotation) in TYPES, ast.unparse(node)
            ast.literal_eval(node.value)
            names.append(node.target.id)
        assert all("  # " in line for line in text.splitlines()), "a parameter has a comment"
        assert names[0] == "runs"

    def test_is_prose_first(self, path: Path) -> None:
        texts = [source(cell) for cell in cells(path, "markdown")]
        assert texts[0].startswith("# ")
        assert "**Question.**" in texts[0]
        assert len(re.findall(r"^- ", texts[0], flags=re.MULTILINE)) >= 3
        assert any("reconstruction" in text and "2306.16678" in text for text in texts)
        joined = "\n".join(texts)
        for heading in ("## Checks", "## Summary", "## References"):
            assert heading in joined
        words = len(joined.split())
        assert words / len(cells(path, "code")) > 30

    def test_checks_something(self, path: Path) -> None:
        assert sum(source(cell).count("assert ") for cell in cells(path, "code")) >= 3

    def test_uses_no_pyplot_and_no_path_of_a_machine(self, path: Path) -> None:
        text = path.read_text()
        assert "pyplot" not in text
        assert not re.search(r"/(home|tmp|root|work|Users)/", text)
