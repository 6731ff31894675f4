"""The ablation grid: pairs of runs, one teacher, failures told, and nothing done twice."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from bvit_analysis.config import get_recipe
from bvit_analysis.errors import ConfigError, TrainingError
from bvit_analysis.records import load_run
from bvit_analysis.training.sweep import ablate, grid
from tests.support.tiny_run import tiny


def test_grid_is_every_recipe_with_every_seed():
    configs = grid(tiny(), ["baseline", "asm"], [0, 1])
    assert list(configs) == ["baseline-seed0", "asm-seed0", "baseline-seed1", "asm-seed1"]
    assert configs["asm-seed1"] == dataclasses.replace(tiny(), recipe=get_recipe("asm"), seed=1)
    with pytest.raises(ConfigError, match="did you mean 'asm'"):
        grid(tiny(), ["asn"], [0])


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> list[Path]:
    out = tmp_path_factory.mktemp("sweep")
    return ablate(tiny(), out, recipes=["baseline", "asm"], seeds=[0], progress=False)


@pytest.mark.processes
def test_one_teacher_and_the_asked_for_runs(swept):
    assert [folder.name.split("-")[0] for folder in swept] == ["teacher", "baseline", "asm"]
    assert [load_run(folder).state for folder in swept] == ["finished"] * 3
    teachers = [run.info["teacher"]["teacher_sha256"] for run in map(load_run, swept[1:])]
    assert len(set(teachers)) == 1


@pytest.mark.processes
def test_runs_of_one_seed_are_pairs(swept):
    """Baseline and ASM start from the same weights and see the same images, so the first losses are equal."""
    first = [load_run(folder).scalars["loss"].iloc[0] for folder in swept[1:]]
    assert first[0] == first[1]
    later = [load_run(folder).scalars["loss"].iloc[-1] for folder in swept[1:]]
    assert later[0] != later[1]


@pytest.mark.processes
def test_a_second_sweep_does_nothing(swept):
    before = {path: path.stat().st_mtime_ns for path in swept[0].parent.rglob("*")}
    again = ablate(tiny(), swept[0].parent, recipes=["baseline", "asm"], seeds=[0], progress=False)
    assert again == swept
    assert before == {path: path.stat().st_mtime_ns for path in swept[0].parent.rglob("*")}


@pytest.mark.processes
def test_a_failed_run_is_named_and_the_others_finish(swept):
    out = swept[0].parent
    base = dataclasses.replace(tiny(), model=dataclasses.replace(tiny().model))
    broken = dataclasses.replace(
        base, training=dataclasses.replace(base.training, learning_rate=1e30)
    )
    # The same run id with another configuration is refused by the run itself, in its own process.
    with pytest.raises(TrainingError, match=r"1 of 2 runs failed \(asm-seed0\).*learning_rate"):
        _one_broken(base, broken, out)


def _one_broken(base, broken, out: Path) -> None:
    from bvit_analysis.training.sweep import _run_all

    configs = grid(base, ["baseline"], [0]) | grid(broken, ["asm"], [0])
    _run_all(configs, out, 2, False)


@pytest.mark.processes
def test_a_run_process_uses_the_threads_of_its_configuration(swept):
    assert load_run(swept[1]).info["hardware"]["threads"] == 1
    assert torch.get_num_threads() >= 1
