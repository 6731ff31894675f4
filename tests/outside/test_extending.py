"""docs/extending.md: its examples are the lab's files and decide alike when packed, its commands and files exist."""

from __future__ import annotations

import importlib
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from bvit_analysis import Recipe, read_recipe
from bvit_analysis.cli.main import _parser
from bvit_analysis.config import ModelConfig
from bvit_analysis.runtime.model import load_runtime
from bvit_analysis.runtime.parity import parity_certificate, random_batches, random_weights

ROOT = Path(__file__).parents[2]
LAB = Path(__file__).parent / "foreign_lab"
PAGE = (ROOT / "docs" / "extending.md").read_text()
BLOCKS = dict(re.findall(r'^```\w+ title="([^"]+)"\n(.*?)^```', PAGE, re.DOTALL | re.MULTILINE))
COMMANDS = re.findall(r"^    (bvit .*)$", PAGE, re.MULTILINE)
SECTIONS = re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recipe]:
    """The page's recipe; its modules are forgotten afterwards."""
    names = [path.stem for path in LAB.glob("*.py")]
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield read_recipe(LAB / "mine.toml")
    for name in names:
        sys.modules.pop(name, None)


def test_the_page_shows_every_file_of_the_lab() -> None:
    assert set(BLOCKS) == {path.name for path in LAB.iterdir() if path.suffix in (".py", ".toml")}
    assert PAGE.count("```") == 2 * len(BLOCKS)
    assert (LAB / "notebook.ipynb").exists()


@pytest.mark.parametrize("name", BLOCKS)
def test_an_example_is_the_file_that_is_tested(name: str) -> None:
    assert BLOCKS[name] == (LAB / name).read_text()


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_of_the_page_is_one(line: str) -> None:
    options = _parser().parse_args(shlex.split(line)[1:])
    assert callable(options.function)


@pytest.mark.parametrize("section", SECTIONS[:-1], ids=lambda text: text.splitlines()[0])
def test_a_door_names_files_that_are_there_and_at_most_three(section: str) -> None:
    assert "**Files to touch:** your " in section
    _, _, inside = section.partition("**Inside the package:**")
    paths = re.findall(r"`([a-z_]+(?:/[a-z_]*)*(?:\.py)?)`", inside)
    for path in paths:
        assert any((root / path).exists() for root in (ROOT, ROOT / "bvit_analysis")), path
    alternatives = " or\n" in inside
    assert len(paths) - alternatives <= 3
    assert ("tests" in inside) == bool(paths)


@pytest.mark.parametrize("backend", ["numpy", None])
def test_shift_and_rule_decide_alike_when_packed(recipe: Recipe, backend: str | None) -> None:
    small = ModelConfig(patch_size=7, embed_dim=48, depth=2, num_heads=2)
    model = random_weights(small, recipe, img_size=28, in_chans=1, num_classes=10)
    runtime = load_runtime(model, backend=backend)
    certificate = parity_certificate(model, runtime, random_batches(model, 4, 4))
    assert certificate.identical_images == 4
    assert certificate.differing == {}


def test_the_term_pulls_no_harder_than_its_bound(recipe: Recipe) -> None:
    assert recipe.regularization == importlib.import_module("own_term").BoundedTerm(bound=0.25)
    force = recipe.regularization.force(torch.tensor([-3.0, -0.9, 0.9, 3.0]))
    torch.testing.assert_close(force, torch.tensor([-0.25, 0.1, -0.1, 0.25]))
