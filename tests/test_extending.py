"""The page on recipes of one's own does what it says: its code is written into files and used as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from bvit_analysis import binarize, model_cost, read_recipe
from bvit_analysis.config import ModelConfig, Recipe
from bvit_analysis.convert import build_model
from bvit_analysis.runtime.model import load_runtime
from bvit_analysis.runtime.parity import parity_certificate, random_batches, random_weights

PAGE = Path(__file__).resolve().parents[1] / "docs" / "extending.md"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """mine.py and mine.toml of the page, importable for this test alone."""
    blocks = dict(
        re.findall(
            r"^`(mine\.\w+)`:\n\n```\w+\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL
        )
    )
    assert set(blocks) == {"mine.py", "mine.toml"}
    for name, text in blocks.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    yield tmp_path
    sys.modules.pop("mine", None)


def test_the_page_works(folder: Path) -> None:
    recipe = read_recipe(folder / "mine.toml")
    import mine

    assert recipe.name == "mine"
    assert recipe.shift is mine.CentredShift
    assert recipe.regularization == mine.BoundedTerm(bound=0.25)
    small = ModelConfig(patch_size=7, embed_dim=48, depth=2, num_heads=2)
    rule = Recipe(shift=mine.CentredShift, attention=mine.QuarterRule())
    for one in (recipe, rule):
        model = random_weights(small, one, img_size=28, in_chans=1, num_classes=10)
        for backend in ("numpy", None):
            runtime = load_runtime(model, backend=backend)
            certificate = parity_certificate(model, runtime, random_batches(model, 4, 4))
            assert certificate.identical_images == 4
            assert certificate.differing == {}
    plain = build_model(small, img_size=28, in_chans=1, num_classes=10)
    binarize(plain, recipe)
    assert model_cost(plain).kinds().loc["shift", "parameters"] == 2 * (48 * 6 + 192)


def test_the_python_of_the_page_runs(folder: Path) -> None:
    code = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[-1]
    model = "import timm; model = timm.create_model('vit_tiny_patch16_224', depth=1)\n"
    done = subprocess.run(
        [sys.executable, "-c", model + code + "print(model_cost(model).tokens)"],
        cwd=folder,
        env={"PYTHONPATH": f"{PAGE.parents[1]}", "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "197", done.stderr


def test_a_term_of_the_page_pulls_no_harder_than_its_bound(folder: Path) -> None:
    recipe = read_recipe(folder / "mine.toml")
    force = recipe.regularization.force(torch.tensor([-3.0, -0.9, 0.9, 3.0]))
    torch.testing.assert_close(force, torch.tensor([-0.25, 0.1, -0.1, 0.25]))
