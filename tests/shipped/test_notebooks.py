"""Rules for the notebooks as they are committed, and the hook that keeps them; nothing is executed."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = ROOT / "notebooks"
SOURCES = sorted(
    path
    for folder in (NOTEBOOKS, NOTEBOOKS / "lessons", NOTEBOOKS / "solutions")
    for path in folder.glob("*.ipynb")
)
SUITE = {
    "01_binarization_concepts",
    "02_first_binary_vit",
    "03_weight_oscillation",
    "04_bimodal_weights",
    "05_activation_information",
    "06_ablation",
    "07_cost_ledger",
    "08_explore_any_run",
    "09_watch_your_own_model",
}
LESSONS = {"01_binarization_concepts", "02_first_binary_vit"}
TAGS = {"parameters", "exercise", "solution"}
DEFINES = LESSONS | {"09_watch_your_own_model"}
"Those that teach code of the reader's own; the others leave functions to the library."
TYPES = {"str", "int", "float", "bool", "list[str]", "list[int]", "list[float]"}
MOST_LINES = 10


def cells(path: Path, kind: str) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == kind]


def source(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def test_the_suite_is_nine_notebooks_of_which_two_are_lessons() -> None:
    assert {path.stem for path in NOTEBOOKS.glob("*.ipynb")} == SUITE
    for folder in ("lessons", "solutions"):
        assert {path.stem for path in (NOTEBOOKS / folder).glob("*.ipynb")} == LESSONS


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(NOTEBOOKS)))
class TestSource:
    def test_is_a_valid_notebook_with_unique_ids(self, path: Path) -> None:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        ids = [cell["id"] for cell in notebook.cells]
        assert len(set(ids)) == len(ids)
        # JupyterLab's own ids, eight random hex digits, would say nothing in a diff.
        assert not [name for name in ids if re.fullmatch("[0-9a-f]{8}", name)]

    def test_has_no_outputs_and_little_metadata(self, path: Path) -> None:
        notebook = json.loads(path.read_text())
        assert notebook["metadata"] == {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
        for cell in notebook["cells"]:
            assert set(cell["metadata"]) <= {"tags"}, cell["id"]
            assert set(cell["metadata"].get("tags", [])) <= TAGS, cell["id"]
            assert "attachments" not in cell, cell["id"]
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
            if path.stem not in DEFINES:
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
        assert names
        if path.stem in SUITE - DEFINES - {"07_cost_ledger"}:
            assert names[0] == "runs"

    def test_is_prose_first(self, path: Path) -> None:
        texts = [source(cell) for cell in cells(path, "markdown")]
        assert texts[0].startswith("# ")
        assert "**Question.**" in texts[0]
        assert len(re.findall(r"^- ", texts[0], flags=re.MULTILINE)) >= 3
        if re.search(r"\b(GRS|ASM)\b", path.read_text()):
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


@pytest.mark.processes
class TestHook:
    """The commit hook, in a repository of its own, with every way to a network closed."""

    @pytest.fixture
    def repository(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        if shutil.which("git") is None:
            pytest.skip("needs git")
        for name in [name for name in os.environ if name.startswith("GIT_")]:
            monkeypatch.delenv(name)  # set when the tests themselves run in a hook
        for name, value in {
            "HOME": str(tmp_path),
            "PRE_COMMIT_HOME": str(tmp_path / "cache"),
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_ALLOW_PROTOCOL": "none",
            "PIP_NO_INDEX": "1",
            "http_proxy": "http://127.0.0.1:9",
            "https_proxy": "http://127.0.0.1:9",
        }.items():
            monkeypatch.setenv(name, value)
        repository = tmp_path / "clone {x}"
        (repository / "notebooks").mkdir(parents=True)
        (repository / ".venv").mkdir()
        (repository / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
        for name in (".pre-commit-config.yaml", "pyproject.toml"):
            shutil.copy(ROOT / name, repository)
        (repository / "bvit_analysis").mkdir()
        (repository / "bvit_analysis" / "__init__.py").write_text('"""Stands for the package."""\n')
        (repository / "scripts").mkdir()
        shutil.copy(ROOT / "scripts" / "notebook_metadata.py", repository / "scripts")
        for command in (
            ["git", "init", "--quiet"],
            ["git", "config", "user.name", "Somebody"],
            ["git", "config", "user.email", "somebody@example.org"],
            [".venv/bin/pre-commit", "install"],
        ):
            done = subprocess.run(command, cwd=repository, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
        return repository

    @staticmethod
    def git(repository: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["git", *arguments], cwd=repository, capture_output=True, text=True, timeout=60
        )

    def test_an_executed_notebook_is_committed_as_its_source(self, repository: Path) -> None:
        clean = {}
        for path in SOURCES:
            name = f"notebooks/{path.relative_to(NOTEBOOKS)}"
            clean[name] = path.read_text()
            (repository / name).parent.mkdir(exist_ok=True)
            (repository / name).write_text(executed(clean[name]))
        self.git(repository, "add", "notebooks")
        refused = self.git(repository, "commit", "-m", "with outputs")
        assert refused.returncode == 1
        for name in ("strip outputs from notebooks", "same metadata in all notebooks"):
            assert re.search(rf"{name}\.+Failed", refused.stdout + refused.stderr)
        assert {name: (repository / name).read_text() for name in clean} == clean
        self.git(repository, "add", "notebooks")
        accepted = self.git(repository, "commit", "-m", "stripped")
        assert accepted.returncode == 0, accepted.stdout + accepted.stderr
        for name, text in clean.items():
            assert self.git(repository, "show", f"HEAD:{name}").stdout == text

    def test_a_broken_notebook_is_refused(self, repository: Path) -> None:
        (repository / "notebooks" / "broken.ipynb").write_text('{"cells": [')
        self.git(repository, "add", "notebooks")
        assert self.git(repository, "commit", "-m", "broken").returncode != 0

    @pytest.mark.parametrize(
        ("name", "text", "hook"),
        [
            ("unused.py", "import os\n", "lint"),
            ("wide.py", "x  =  1\n", "format"),
            ("bvit_analysis/wrong.py", 'x: int = "one"\n', "types"),
        ],
    )
    def test_code_that_the_checks_refuse_is_refused(
        self, repository: Path, name: str, text: str, hook: str
    ) -> None:
        (repository / name).write_text(text)
        self.git(repository, "add", name)
        refused = self.git(repository, "commit", "-m", "code")
        assert refused.returncode == 1
        assert re.findall(r"^(\w+)\.+Failed", refused.stdout + refused.stderr, re.MULTILINE) == [
            hook
        ]
        assert (repository / name).read_text() == text

    def test_another_file_passes_untouched(self, repository: Path) -> None:
        (repository / "notes.json").write_text('{"cells": [], "outputs": [1]}')
        self.git(repository, "add", "notes.json")
        assert self.git(repository, "commit", "-m", "notes").returncode == 0
        assert (repository / "notes.json").read_text() == '{"cells": [], "outputs": [1]}'


def executed(text: str) -> str:
    """Return a source as JupyterLab and papermill would leave it after an execution."""
    notebook = json.loads(text)
    notebook["metadata"]["kernelspec"]["display_name"] = "Python 3 (ipykernel)"
    notebook["metadata"]["papermill"] = {"duration": 1.5, "exception": None}
    state = "application/vnd.jupyter.widget-state+json"
    notebook["metadata"]["widgets"] = {state: {"state": {}, "version_major": 2, "version_minor": 0}}
    notebook["metadata"]["language_info"] = {
        "codemirror_mode": {"name": "ipython", "version": 3},
        "file_extension": ".py",
        "mimetype": "text/x-python",
        "name": "python",
        "nbconvert_exporter": "python",
        "pygments_lexer": "ipython3",
        "version": "3.11.7",
    }
    for count, cell in enumerate(notebook["cells"], start=1):
        cell["metadata"]["papermill"] = {"status": "completed"}
        cell["metadata"]["scrolled"] = True
        cell["metadata"]["editable"] = False
        if cell["cell_type"] == "code":
            cell["execution_count"] = count
            cell["metadata"]["execution"] = {"iopub.execute_input": "2026-01-01T00:00:00Z"}
            cell["outputs"] = [
                {"output_type": "stream", "name": "stdout", "text": ["a line\n"]},
                {
                    "output_type": "execute_result",
                    "execution_count": count,
                    "metadata": {"image/png": {"alt": "a picture"}},
                    "data": {"image/png": "aGVsbG8=", "text/plain": ["<Figure>"]},
                },
            ]
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
