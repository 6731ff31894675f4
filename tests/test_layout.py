"""Tests lie as the package lies, and share one harness."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import bvit_analysis

PACKAGE = Path(bvit_analysis.__file__).parent
TESTS = Path(__file__).parent
FILES = sorted(path.relative_to(TESTS) for path in TESTS.rglob("test_*.py"))

FOLDERS = {
    "benchmarks": "mirrors benchmarks/ of the repository",
    "browser": "needs a browser, and looks at the lab and the report as a whole",
    "outside": "a small foreign package, which knows public names alone, and docs/extending.md",
    "shipped": "the notebooks, runs and packed model that come with the repository",
    "support": "the harness",
}
"Folders of tests that are no folder of the package, and why."

ALONE = {
    "instruments/test_foreign_activations.py": "activations and attention that are not the library's own, from hook to record",
    "plots/test_notes.py": "what stands under every figure: unverified sites, weights of several levels",
    "widgets/test_notes.py": "the same, in every explorer",
    "runtime/test_own_recipes.py": "packing and running recipes that are not the library's own",
    "runtime/test_readme.py": "bvit_analysis/runtime/README.md",
    "test_architecture.py": "docs/architecture.md against the tree",
    "test_docs_site.py": "scripts/docs_site.py, which makes the API pages",
    "test_foreign_layers.py": "the watch on other projects' layers",
    "test_foreign_loops.py": "the watch in other people's loops",
    "test_import_contract.py": "the contract in pyproject.toml",
    "test_layout.py": "this",
    "test_public_api.py": "bvit_analysis/__init__.py and the README",
    "test_setup.py": "Makefile, environment.yml, requirements.txt",
    "training/test_own_recipes.py": "training with recipes that are not the library's own",
}
"Files of tests that are no module of the package, and what they look at."


def mirrors(path: Path) -> bool:
    """Whether a test is of the module or folder of its name, or of the folder that it lies in as a whole."""
    name = path.stem.removeprefix("test_")
    folder = PACKAGE / path.parent
    return (
        (folder / f"{name}.py").is_file()
        or (folder / name / "__init__.py").is_file()
        or (len(path.parts) > 1 and name == path.parent.name and folder.is_dir())
    )


@pytest.mark.parametrize("path", FILES, ids=str)
def test_a_file_of_tests_mirrors_the_package_or_says_why_not(path: Path) -> None:
    if path.parts[0] not in FOLDERS:
        assert mirrors(path) != (path.as_posix() in ALONE), f"tests/{path} is of no module"


def test_the_lists_name_what_is_there() -> None:
    for name in ALONE:
        assert (TESTS / name).is_file(), name
    for name in FOLDERS:
        assert (TESTS / name).is_dir(), name
        assert not (PACKAGE / name).exists(), name


@pytest.mark.parametrize("path", FILES, ids=str)
def test_no_file_of_tests_imports_another(path: Path) -> None:
    for node in ast.walk(ast.parse((TESTS / path).read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            inside = name.startswith("tests.")
            assert not inside or name.startswith(("tests.support.", "tests.outside.")), name
