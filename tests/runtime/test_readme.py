"""What the README of the runtime says of its files is so, and it is shipped with the package."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

import bvit_analysis.runtime
from bvit_analysis.runtime import PackedModel, load_runtime, model
from bvit_analysis.runtime.kernels import operations as op

FOLDER = Path(bvit_analysis.runtime.__file__).parent
TEXT = resources.files("bvit_analysis.runtime").joinpath("README.md").read_text(encoding="utf-8")


def test_every_kernel_and_every_file_it_names_is_there() -> None:
    named = set(re.findall(r"[\w/]+\.py", TEXT))
    assert named
    roots = (FOLDER, FOLDER / "kernels", FOLDER.parents[1])
    assert [name for name in named if not any((root / name).exists() for root in roots)] == []
    for file in (FOLDER / "kernels").glob("*.py"):
        family = "compiled_*" if file.stem.startswith("compiled_") else file.stem
        assert file.stem == "__init__" or f"`{family}" in TEXT or f"`{file.name}" in TEXT


def test_numba_is_where_it_says() -> None:
    listed = re.search(r"there only in (.*?) and `compiled_\*`", TEXT)
    assert listed
    wanted = set(re.findall(r"`(\w+)`", listed[1]))
    found = set()
    for file in (FOLDER / "kernels").glob("*.py"):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.split(".")[0] in ("numba", "llvmlite") for name in names):
                found.add(file.stem)
    assert {name for name in found if not name.startswith("compiled_")} == wanted
    assert {name for name in found if name.startswith("compiled_")}


def test_kinds_and_fields_of_the_picture_are_those_of_the_records() -> None:
    for kind, fields in (("NORM", "norm"), ("TOKEN_SUMS", "mean"), ("ATTENTION", "attention")):
        assert kind in op.Kind.__members__
        line = re.search(rf" {kind} .*? {fields}: +(.*)", TEXT)
        assert line
        names = re.findall(r"\w+", line[1])
        assert set(names) <= set(op.OPERATION[fields].names or ())
        assert len(names) > 3


@pytest.mark.processes
def test_the_face_gives_the_model_and_kernels_need_no_torch() -> None:
    assert load_runtime is model.load_runtime
    assert PackedModel is model.PackedModel
    assert {"PackedModel", "load_runtime"} <= set(dir(bvit_analysis.runtime))
    script = (
        "import sys, bvit_analysis.runtime.kernels.products, bvit_analysis.packed.bits\n"
        "assert not {'torch', 'timm', 'numba'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True, cwd=FOLDER.parents[1])
