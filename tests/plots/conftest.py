"""Synthetic runs that all figure tests share, and a watch on figures that pyplot would keep alive."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bvit_analysis.records import Run, load_run
from tests.support.synthetic_run import make_run


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two recipes x two seeds and a float teacher."""
    root = tmp_path_factory.mktemp("runs")
    for recipe in ("baseline", "binaryvit"):
        for seed in (0, 1):
            make_run(root / f"{recipe}-s{seed}", recipe=recipe, seed=seed, steps=40)
    make_run(root / "teacher", kind="float", steps=40)
    return root


@pytest.fixture(scope="session")
def runs(run_folder: Path) -> list[Run]:
    """Baseline, baseline, binaryvit, binaryvit, float."""
    names = ("baseline-s0", "baseline-s1", "binaryvit-s0", "binaryvit-s1", "teacher")
    return [load_run(run_folder / name) for name in names]


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose recipe and site names try to be math, markup and new lines."""
    import json

    path = make_run(tmp_path_factory.mktemp("hostile") / "x", steps=40)
    file = path / "run.json"
    info = json.loads(file.read_text())
    info["config"]["recipe"]["name"] = "$x_{ <script>alert(1)</script>\n"
    for site in info["sites"]:
        site["site"] = site["site"].replace("blocks", "$bl_{ocks<b>")
    file.write_text(json.dumps(info))
    return load_run(path)


@pytest.fixture(autouse=True)
def no_pyplot_figures() -> Iterator[None]:
    """Fail a test that leaves a figure in pyplot's global list."""
    yield
    if "matplotlib.pyplot" in sys.modules:  # seaborn imports it; nothing may use it
        assert sys.modules["matplotlib.pyplot"].get_fignums() == []
