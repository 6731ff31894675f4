"""The ablation grid: pairs of runs, one teacher, failures told, and nothing done twice."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch

from bvit_analysis.config import RunConfig, from_dict, get_recipe, to_dict
from bvit_analysis.errors import ConfigError, TrainingError
from bvit_analysis.records import load_run
from bvit_analysis.records.checkpoints import half_checkpoints, load_checkpoint
from bvit_analysis.records.lock import leftovers
from bvit_analysis.training.sweep import ablate, grid
from tests.support.tiny_run import differing, status_of, tiny
from tests.support.waiting import alive, wait_for


def test_grid_is_every_recipe_with_every_seed():
    configs = grid(tiny(), ["baseline", "asm"], [0, 1])
    assert list(configs) == ["baseline-seed0", "asm-seed0", "baseline-seed1", "asm-seed1"]
    assert configs["asm-seed1"] == dataclasses.replace(tiny(), recipe=get_recipe("asm"), seed=1)
    with pytest.raises(ConfigError, match="did you mean 'asm'"):
        grid(tiny(), ["asn"], [0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": []}, "got 1 and 0"),
        ({"seeds": range(-1)}, "got 1 and 0"),
        ({"recipes": []}, "got 0 and 1"),
        ({"jobs_at_once": 0}, "jobs_at_once must be at least 1"),
        ({"jobs_at_once": -2}, "jobs_at_once must be at least 1"),
    ],
)
def test_nothing_to_do_is_refused_before_a_teacher_is_trained(tmp_path, changes, message):
    given = {"recipes": ["asm"], "seeds": [0], "progress": False} | changes
    with pytest.raises(ConfigError, match=message):
        ablate(tiny(), tmp_path / "runs", **given)
    assert not (tmp_path / "runs").exists()


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


# Kills and signals ------------------------------------------------------------------------------------

SWEEP = """
import json, sys
from pathlib import Path
from bvit_analysis.config import RunConfig, from_dict
from bvit_analysis.training import sweep
if len(sys.argv) > 2:
    sweep.STOP_S = float(sys.argv[2])
base = from_dict(RunConfig, json.load(sys.stdin))
sweep.ablate(base, Path(sys.argv[1]), recipes=['baseline', 'asm'], seeds=[0], jobs_at_once=2, progress=False)
"""
LONG = {"steps": 300, "checkpoint_every": 30, "evaluate_every": 100}


def start_sweep(base: RunConfig, out: Path, *arguments: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-c", SWEEP, str(out), *arguments],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    with process.stdin as pipe:
        pipe.write(json.dumps(to_dict(base)).encode())
    process.stdin = None  # or communicate() would close it again
    return process


def family_of(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def steps_of(out: Path) -> dict[str, int]:
    return {folder.name: status_of(folder).get("step", 0) for folder in out.glob("*-seed0")}


@pytest.fixture(scope="module")
def long(tmp_path_factory) -> tuple[RunConfig, list[Path]]:
    base = from_dict(RunConfig, json.loads(json.dumps(to_dict(tiny(**LONG)))))
    out = tmp_path_factory.mktemp("long")
    return base, ablate(base, out, recipes=["baseline", "asm"], seeds=[0], progress=False)


@pytest.mark.slow
def test_a_killed_sweep_leaves_no_process_and_the_same_call_finishes_it(long, tmp_path):
    base, whole = long
    seed = random.SystemRandom().randrange(10**6)
    moment = random.Random(seed).randrange(1, 200)
    parent = start_sweep(base, tmp_path)
    try:
        wait_for(
            lambda: len(steps_of(tmp_path)) == 2 and max(steps_of(tmp_path).values()) >= moment,
        )
        family = family_of(parent)
        assert len([one for one in family if "bvit_analysis.training.sweep" in one.cmdline()]) == 2
    finally:
        parent.kill()
        parent.communicate()
    wait_for(lambda: not any(alive(one.pid) for one in family))
    assert any(load_run(folder).state != "finished" for folder in tmp_path.glob("*-seed0"))
    again = ablate(base, tmp_path, recipes=["baseline", "asm"], seeds=[0], progress=False)
    assert [folder.name for folder in again] == [folder.name for folder in whole]
    for one, two in zip(whole, again, strict=True):
        assert differing(one, two) == [], f"random seed {seed}"
        assert leftovers(two) == []
        assert half_checkpoints(two) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(one.name for one in whole)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_sweep_lets_its_trainings_save(long, tmp_path, number):
    base, _ = long
    base = dataclasses.replace(
        base, training=dataclasses.replace(base.training, steps=100_000, checkpoint_every=100_000)
    )
    parent = start_sweep(base, tmp_path)
    try:
        wait_for(
            lambda: len(steps_of(tmp_path)) == 2 and min(steps_of(tmp_path).values()) >= 20,
        )
        family = family_of(parent)
        parent.send_signal(number)
        wait_for(lambda: parent.poll() is not None)
    finally:
        parent.kill()
        said = parent.communicate()[1].decode()
    assert parent.returncode == 128 + number
    assert f"stopped by {number.name}; 2 runs save a checkpoint" in said
    assert not any(alive(one.pid) for one in family)
    for folder in tmp_path.glob("*-seed0"):
        checkpoint = load_checkpoint(folder)
        assert load_run(folder).state == "interrupted"
        assert checkpoint is not None
        assert checkpoint.step >= 20
        assert leftovers(folder) == []


@pytest.mark.slow
def test_a_training_that_takes_too_long_to_stop_is_killed(long, tmp_path):
    base, _ = long
    base = dataclasses.replace(
        base, training=dataclasses.replace(base.training, steps=100_000, checkpoint_every=100_000)
    )
    parent = start_sweep(base, tmp_path, "0.5")
    try:
        wait_for(
            lambda: len(steps_of(tmp_path)) == 2 and min(steps_of(tmp_path).values()) >= 20,
        )
        family = family_of(parent)
        for one in family:
            one.suspend()  # it hears no signal but one
        parent.send_signal(signal.SIGTERM)
        wait_for(lambda: parent.poll() is not None)
    finally:
        parent.kill()
        said = parent.communicate()[1].decode()
    assert parent.returncode == 143
    assert "asm-seed0: killed; it goes on from its last checkpoint" in said
    assert not any(alive(one.pid) for one in family)
