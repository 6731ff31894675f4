"""The import contract bites: a module on no floor, an import upwards and torch among the lookers each break it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import bvit_analysis

PACKAGE = Path(bvit_analysis.__file__).parent
PYPROJECT = PACKAGE.parent / "pyproject.toml"


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A copy of the package and of its contract, to be spoilt."""
    copy = tmp_path / "bvit_analysis"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PYPROJECT, tmp_path)
    return copy


def verdict(house: Path) -> tuple[int, str]:
    """Return exit code and output of lint-imports over a copy."""
    program = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [str(program), "--no-cache", "--config", "pyproject.toml"],
        cwd=house.parent,
        env={**os.environ, "PYTHONPATH": str(house.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def add_line(path: Path, line: str) -> None:
    future = "from __future__ import annotations\n"
    text = path.read_text()
    assert future in text
    path.write_text(text.replace(future, f"{future}{line}\n", 1))


@pytest.mark.slow
def test_the_house_as_it_stands_keeps_it(house: Path) -> None:
    code, output = verdict(house)
    assert code == 0, output
    assert "0 broken" in output


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "line", "broken"),
    [
        ("helpers.py", None, "every module has its floor"),
        ("config/schema.py", "from bvit_analysis.records import reader", "every module has its"),
        ("costs/ledger.py", "from bvit_analysis.convert import binarize", "every module has its"),
        ("tables/frames.py", "import torch", "needs nothing of what makes them"),
        ("plots/look.py", "from bvit_analysis.plots import style", "No circle inside a folder"),
        ("runtime/layers.py", "import numba", "Only compiled kernels know numba"),
    ],
    ids=["unlisted", "upwards", "sideways", "torch", "circle", "numba"],
)
def test_a_spoilt_house_breaks_it(house: Path, place: str, line: str | None, broken: str) -> None:
    if line is None:
        (house / place).write_text('"""A module on no floor."""\n')
    else:
        add_line(house / place, line)
    code, output = verdict(house)
    assert code == 1, output
    contracts = [text for text in output.splitlines() if text.endswith(" BROKEN")]
    assert any(broken in text for text in contracts), output


def test_every_module_of_records_but_checkpoints_keeps_to_the_waist() -> None:
    contracts = tomllib.loads(PYPROJECT.read_text())["tool"]["importlinter"]["contracts"]
    (waist,) = [contract for contract in contracts if contract["id"] == "waist"]
    listed = {name.rpartition(".")[2] for name in waist["source_modules"] if ".records." in name}
    modules = {path.stem for path in (PACKAGE / "records").glob("[!_]*.py")}
    assert listed == modules - {"checkpoints"}
