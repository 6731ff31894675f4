"""Machine code is made once, found by later processes, and the same for narrow vectors."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.support.bits import (
    PACKAGE,
    compiled,
)
from tests.support.fresh_process import in_process

SCRIPT = """
import sys, time
import numpy as np
from bvit_analysis.runtime.kernels import products as kernels
assert "torch" not in sys.modules and "numba" not in sys.modules
x = np.linspace(-1, 1, 5 * 70, dtype=np.float32).reshape(5, 70)
start = time.perf_counter()
a = kernels.sign_pack(x)
weight = np.ascontiguousarray(a[:, :].T)
y = kernels.linear(a, weight, 70, np.ones(5, np.float32))
q = kernels.sign_pack(x, heads=2)
c = kernels.attention(q, q, q, tokens=5, head_dim=35, score_scale=np.full(2, .1, np.float32),
                      level=np.full(2, .3, np.float32), value_scale=np.ones(2, np.float32))
took = time.perf_counter() - start
same = np.where(x >= 0, 1, -1)
assert (y == same @ same.T).all()
assert (c == kernels.attention(q, q, q, tokens=5, head_dim=35, score_scale=np.full(2, .1, np.float32),
        level=np.full(2, .3, np.float32), value_scale=np.ones(2, np.float32), backend="numpy")).all()
from bvit_analysis.runtime.kernels.compilation import dispatcher
hits = len(dispatcher("work").stats.cache_hits)
print(took, hits)
"""


@pytest.mark.processes
@compiled
def test_second_process_finds_compiled_kernels(tmp_path: Path) -> None:
    first, no_hits = in_process(PACKAGE.parent, SCRIPT, NUMBA_CACHE_DIR=str(tmp_path)).split()
    second, hits = in_process(PACKAGE.parent, SCRIPT, NUMBA_CACHE_DIR=str(tmp_path)).split()
    assert (no_hits, hits) == ("0", "1")
    assert float(second) < float(first) / 2


@compiled
@pytest.mark.slow
def test_read_only_package_keeps_machine_code_elsewhere(tmp_path: Path) -> None:
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PACKAGE, tmp_path / "lib" / "bvit_analysis", ignore=ignored)
    # a file where the folder should be stops root, too, whom no permission stops
    (tmp_path / "lib" / "bvit_analysis" / "runtime" / "kernels" / "__pycache__").touch()
    home = tmp_path / "home"
    home.mkdir()
    cache = {"HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache")}
    in_process(tmp_path / "lib", SCRIPT, **cache)
    assert in_process(tmp_path / "lib", SCRIPT, **cache).endswith(" 1")
    assert list(home.rglob("*.nbc"))
    # nowhere at all: compiled anew in each process, but it runs
    (tmp_path / "file").touch()
    nowhere = {"HOME": str(tmp_path / "file"), "XDG_CACHE_HOME": str(tmp_path / "file")}
    assert in_process(tmp_path / "lib", SCRIPT, **nowhere).endswith(" 0")


@compiled
@pytest.mark.slow
def test_narrow_vectors_give_the_same(tmp_path: Path) -> None:
    if not sys.platform.startswith("linux") or os.uname().machine != "x86_64":
        pytest.skip("names a processor of x86")
    script = (
        SCRIPT
        + """
rng = np.random.default_rng(0)
for rows, inputs, outputs in ((7, 200, 50), (9, 64, 32), (5, 192, 48), (4, 48, 192), (6, 96, 96)):
    x = rng.normal(size=(rows, inputs)).astype(np.float32)
    a, w = kernels.sign_pack(x), kernels.sign_pack(rng.normal(size=(outputs, inputs)).astype(np.float32))
    short = x if max(inputs, outputs) % min(inputs, outputs) == 0 else None
    args = (a, np.ascontiguousarray(w.T), inputs, *rng.normal(size=(2, outputs)).astype(np.float32), short,
            *rng.normal(size=(2, outputs)).astype(np.float32))
    assert (kernels.linear(*args) == kernels.linear(*args, backend="numpy")).all()
from bvit_analysis.runtime.kernels import jit
print(jit.LANES)
"""
    )
    out = in_process(
        PACKAGE.parent,
        script,
        NUMBA_CPU_NAME="x86-64-v3",
        NUMBA_CPU_FEATURES="+avx2,+popcnt",
        NUMBA_CACHE_DIR=str(tmp_path),
    )
    assert out.endswith("4")


@pytest.mark.processes
def test_plain_form_needs_no_numba() -> None:
    script = (
        SCRIPT.split("from bvit_analysis.runtime.kernels.compilation")[0]
        + "\nassert 'numba' not in sys.modules\nprint('done')"
    )
    assert in_process(PACKAGE.parent, script, BVIT_RUNTIME="numpy") == "done"
