"""Training: exact resume after kill -9, non-finite losses, signals, schedules, and what a run may not touch."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional

from bvit_analysis.config import (
    TrainingConfig,
)
from bvit_analysis.errors import ConfigError, RunError, TrainingError
from bvit_analysis.processes import Child, process_start
from bvit_analysis.records import RunWarning, load_run
from bvit_analysis.records.checkpoints import load_checkpoint
from bvit_analysis.records.lock import RunHeldError, leftovers, take_lock
from bvit_analysis.training import waiting
from bvit_analysis.training.evaluation import evaluate
from bvit_analysis.training.loop import describe_progress, distillation_loss, learning_rate
from bvit_analysis.training.models import teacher_run_id
from bvit_analysis.training.run import train
from tests.support.tiny_run import (
    STEPS,
    differing,
    start_process,
    status_of,
    tiny,
    wait_until_running,
)
from tests.support.waiting import wait_for


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    return train(tiny(), tmp_path_factory.mktemp("whole") / "binaryvit-seed0", progress=False)


def copy_teacher(source: Path, root: Path) -> None:
    name = teacher_run_id(tiny())
    subprocess.run(["cp", "-r", str(source.parent / name), str(root / name)], check=True)


# Resume -----------------------------------------------------------------------------------------------------------------


@pytest.mark.processes
@pytest.mark.slow
def test_kill_9_at_three_random_moments_resumes_to_the_bit(tmp_path):
    config = tiny(steps=90, checkpoint_every=6, evaluate_every=30)
    whole = train(config, tmp_path / "whole" / "run", progress=False)
    elapsed = load_run(whole).timings["elapsed_s"].max() * 90 / 80
    other = tmp_path / "killed" / "run"
    other.parent.mkdir()
    copy_teacher(whole, other.parent)
    seed = random.SystemRandom().randrange(10**6)
    chance = random.Random(seed)
    killed = 0
    for _ in range(3):
        process = start_process(config, other)
        wait_until_running(other, process)
        time.sleep(chance.uniform(0.0, 0.5 * elapsed))
        process.kill()
        killed += process.wait() == -signal.SIGKILL
    assert killed >= 1, f"no kill came in time (random seed {seed})"
    train(config, other, progress=False)
    assert differing(whole, other) == [], f"random seed {seed}"


@pytest.mark.processes
@pytest.mark.slow
@pytest.mark.parametrize("moment", [1, 6, 7, 13, 23])
def test_an_exception_at_any_step_resumes_to_the_bit(finished, tmp_path, monkeypatch, moment):
    folder = tmp_path / "runs" / finished.name
    folder.parent.mkdir()
    copy_teacher(finished, folder.parent)
    fail_at(monkeypatch, moment)
    with pytest.raises(ZeroDivisionError):
        train(tiny(), folder, progress=False)
    assert load_run(folder).state == "failed"
    monkeypatch.undo()
    train(tiny(), folder, progress=False)
    assert differing(finished, folder) == []


def fail_at(monkeypatch, moment: int) -> None:
    original = torch.optim.AdamW.step
    count = iter(range(10**6))

    def step(self, closure=None):
        if next(count) == moment:
            raise ZeroDivisionError
        return original(self, closure)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)


@pytest.mark.processes
@pytest.mark.slow
@pytest.mark.parametrize("forgotten", ["watch", "regularizer", "optimizer"])
def test_control_a_forgotten_state_is_seen(finished, tmp_path, monkeypatch, forgotten):
    """The comparison above must fail when something is deliberately not restored."""
    import bvit_analysis.training.run as module

    folder = tmp_path / "runs" / finished.name
    folder.parent.mkdir()
    copy_teacher(finished, folder.parent)
    fail_at(monkeypatch, 13)
    with pytest.raises(ZeroDivisionError):
        train(tiny(), folder, progress=False)
    monkeypatch.undo()
    restore = module.restore_state

    def forget(state, tensors, figures, step):
        kept = {
            "watch": state.watch,
            "regularizer": state.regularizer,
            "optimizer": state.optimizer,
        }[forgotten]
        monkeypatch.setattr(kept, "load_state_dict", lambda *args, **kwargs: None)
        restore(state, tensors, figures, step)

    monkeypatch.setattr(module, "restore_state", forget)
    train(tiny(), folder, progress=False)
    if (
        forgotten == "regularizer"
    ):  # its first period of 100 steps is not over: only its own counter can tell
        assert differing(finished, folder)[0].startswith("checkpoint.regularizer")
    else:
        assert differing(finished, folder) != []


@pytest.mark.processes
def test_sigterm_saves_and_the_next_start_goes_on(tmp_path):
    config = tiny(steps=400, checkpoint_every=400, evaluate_every=400)
    folder = tmp_path / "run"
    process = start_process(config, folder)
    wait_for(lambda: process.poll() is not None or status_of(folder).get("step", 0) >= 20)
    process.ask_to_stop()
    wait_for(lambda: process.poll() is not None)
    assert process.wait() == 143
    run = load_run(folder)
    assert run.state == "interrupted"
    checkpoint = load_checkpoint(folder)
    assert checkpoint is not None
    assert 0 < checkpoint.step < 400
    assert run.scalars["step"].max() == checkpoint.step


@pytest.mark.slow
def test_a_finished_run_is_returned_at_once(finished):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    assert train(tiny(), finished, progress=False) == finished
    assert before == {
        path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()
    }


@pytest.mark.slow
def test_what_a_kill_after_the_end_left_is_removed_by_the_next_start(finished, tmp_path):
    folder = tmp_path / "runs" / finished.name
    shutil.copytree(finished, folder)
    before = sorted(folder.rglob("*"))
    owner = {"host": socket.gethostname(), "pid": os.getpid(), "pid_started": 1, "created": 0.0}
    (folder / "lock").write_text(json.dumps(owner))
    (folder / "scalars" / ".part-000009.parquet.1-ab.tmp").write_bytes(b"half")
    (folder / ".lock.1-ab.tmp").write_bytes(b"")
    newest = folder / "checkpoints" / f"ckpt-{STEPS:08d}"
    shutil.copytree(newest, newest.with_name(f"{newest.name}.old"))
    (folder / "checkpoints" / f"ckpt-{STEPS + 1:08d}.tmp-1-ab").mkdir()
    (folder / "checkpoints" / f"ckpt-{STEPS - 1:08d}.gone-ab").mkdir()
    assert train(tiny(), folder, progress=False) == folder
    assert sorted(folder.rglob("*")) == before
    assert differing(finished, folder) == []


def test_what_is_half_in_a_run_that_somebody_writes_stays(finished, tmp_path):
    folder = tmp_path / "runs" / finished.name
    shutil.copytree(finished, folder)
    half = folder / "scalars" / ".part-000009.parquet.1-ab.tmp"
    half.write_bytes(b"half")
    lock = take_lock(folder)
    assert train(tiny(), folder, progress=False) == folder
    assert half.exists()
    lock.release()
    train(tiny(), folder, progress=False)
    assert not half.exists()


def test_an_old_checkpoint_goes_only_where_its_successor_is_whole(finished, tmp_path):
    folder = tmp_path / "runs" / finished.name
    shutil.copytree(finished, folder)
    newest = folder / "checkpoints" / f"ckpt-{STEPS:08d}"
    old = newest.with_name(f"{newest.name}.old")
    shutil.copytree(newest, old)
    (newest / "state.json").write_text("{}")
    train(tiny(), folder, progress=False)
    assert old.is_dir()
    with pytest.warns(RunWarning, match="state.json does not match"):
        assert load_checkpoint(folder).path == old


@pytest.mark.slow
def test_a_second_training_of_the_same_run_is_refused(finished, tmp_path):
    folder = tmp_path / "runs" / "other"
    folder.parent.mkdir()
    copy_teacher(finished, folder.parent)
    process = start_process(tiny(steps=4000, checkpoint_every=4000), folder)
    try:
        wait_until_running(folder, process)
        with pytest.raises(RunHeldError, match=f"written by process {process.pid}"):
            train(tiny(steps=4000, checkpoint_every=4000), folder, progress=False)
    finally:
        process.kill()


# A teacher that another process trains ------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_seeds_started_together_share_the_teacher_that_one_of_them_trains(finished, tmp_path):
    folders = [tmp_path / f"binaryvit-seed{seed}" for seed in (0, 1)]
    processes = [
        start_process(dataclasses.replace(tiny(), seed=seed), folder)
        for seed, folder in enumerate(folders)
    ]
    for process in processes:
        wait_for(lambda process=process: process.poll() is not None)
    assert [process.poll() for process in processes] == [0, 0]
    assert differing(finished, folders[0]) == []
    teacher = tmp_path / teacher_run_id(tiny())
    assert differing(finished.parent / teacher.name, teacher) == []
    assert list(teacher.glob("*/superseded-*")) == []  # trained once
    assert all(leftovers(folder) == [] for folder in (*folders, teacher))


@pytest.mark.slow
def test_who_waits_for_a_teacher_goes_on_where_its_killed_trainer_stopped(
    finished, tmp_path, capfd
):
    config = tiny()
    long = dataclasses.replace(config.teacher, steps=400, checkpoint_every=20)
    config = dataclasses.replace(config, teacher=long)
    teacher = tmp_path / teacher_run_id(config)
    first = start_process(config, tmp_path / "one")
    try:
        wait_for(lambda: first.poll() is not None or status_of(teacher).get("step", 0) >= 40)
        seen = []

        def moment(seconds: float) -> None:
            """Look once while the first trains, then kill it."""
            if not seen:
                seen.append(status_of(teacher)["step"])
                first.kill()

        with pytest.MonkeyPatch.context() as patch:
            # Its own clock, not everybody's: a thread that another test left may sleep as well.
            patch.setattr(waiting, "time", SimpleNamespace(sleep=moment, monotonic=time.monotonic))
            train(config, tmp_path / "two", progress=True)
    finally:
        first.kill()
    assert seen[0] >= 40
    said = capfd.readouterr().err
    assert (
        f"waiting for process {first.pid} on {socket.gethostname()}, which is training it" in said
    )
    assert load_run(teacher).state == "finished"
    assert load_run(teacher).scalars["step"].tolist() == list(range(1, 401))
    whole = train(config, tmp_path / "whole" / "two", progress=False)
    assert differing(whole.parent / teacher.name, teacher) == []
    assert differing(whole, tmp_path / "two") == []


def test_a_writer_that_lives_but_does_nothing_is_not_waited_for_for_ever(
    finished, tmp_path, monkeypatch
):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    sleeper = Child([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
    try:
        owner = {"host": socket.gethostname(), "pid": sleeper.pid, "created": time.time()}
        (folder / "lock").write_text(
            json.dumps({**owner, "pid_started": process_start(sleeper.pid)})
        )
        clock = iter(range(0, 10**6, 100))
        still = SimpleNamespace(sleep=lambda seconds: None, monotonic=lambda: next(clock))
        monkeypatch.setattr(waiting, "time", still)
        with pytest.raises(RunError, match=f"process {sleeper.pid}.*done nothing for 600 s"):
            waiting.wait_for_writer(folder, progress=False)
        # Processor time is a sign of life, as are steps in the status.
        signs = iter(range(40))
        monkeypatch.setattr(waiting, "cpu_seconds", lambda pid: next(signs))
        with pytest.raises(StopIteration):
            waiting.wait_for_writer(folder, progress=False)
    finally:
        sleeper.kill()
    waiting.wait_for_writer(folder, progress=False)  # it is gone, so there is nothing to wait for


def test_another_configuration_in_the_folder_is_refused(finished):
    changed = dataclasses.replace(tiny(), seed=5)
    with pytest.raises(ConfigError, match="seed: 0 there, 5 asked for"):
        train(changed, finished, progress=False)


# Numbers --------------------------------------------------------------------------------------------------------------


@pytest.mark.processes
@pytest.mark.slow
def test_same_seed_same_bits_and_another_seed_differs(finished, tmp_path):
    again = train(tiny(), tmp_path / finished.name, progress=False)
    assert differing(finished, again) == []
    other = train(dataclasses.replace(tiny(), seed=1), tmp_path / "seed1", progress=False)
    one, two = load_run(finished).scalars["loss"], load_run(other).scalars["loss"]
    assert not np.array_equal(one, two)


def test_a_run_is_complete(finished):
    run = load_run(finished)
    assert run.state == "finished"
    assert run.scalars["step"].tolist() == list(range(1, STEPS + 1))
    assert run.result["test_count"] == 100
    assert run.result["test_accuracy"] == run.result["test_correct"] / 100
    assert run.result["teacher_test_accuracy"] is not None
    assert set(run.site_table["kind"]) == {"weight", "activation", "attention"}
    assert run.sites["flip_rate"].notna().any()
    assert run.sites["sign_entropy_bits"].notna().any()
    assert run.sites["twin_agreement"].notna().any()
    assert len(run.costs) > 0
    assert run.info["versions"]["torch"] == torch.__version__.split("+")[0]


def test_the_teacher_is_a_run_of_its_own_and_is_reused(finished):
    folder = finished.parent / teacher_run_id(tiny())
    run = load_run(folder)
    assert run.info["kind"] == "float"
    assert run.state == "finished"
    assert teacher_run_id(tiny()) == teacher_run_id(dataclasses.replace(tiny("grs"), seed=3))


def test_non_finite_loss_stops_before_the_update(tmp_path, monkeypatch):
    import bvit_analysis.training.loop as module

    config = tiny(None)
    original = module._loss
    calls = iter(range(100))

    def poisoned(*args):
        loss = original(*args)
        return loss * math.nan if next(calls) == 7 else loss

    monkeypatch.setattr(module, "_loss", poisoned)
    with pytest.raises(
        TrainingError, match=r"loss is nan at step 8 .*learning rate .*only in the backward pass"
    ):
        train(config, tmp_path / "run", progress=False)
    run = load_run(tmp_path / "run")
    assert run.state == "failed"
    assert "loss is nan at step 8" in run.status["error"]
    checkpoint = load_checkpoint(tmp_path / "run")
    assert checkpoint.step == 6
    assert all(
        bool(t.isfinite().all()) for t in checkpoint.tensors.values() if t.is_floating_point()
    )


def test_the_first_non_finite_module_is_named():
    from bvit_analysis.training.finiteness import first_non_finite

    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Identity(), torch.nn.LayerNorm(2))
    with torch.no_grad():
        model[0].bias.fill_(3e38)
        model[0].weight.fill_(3e38)
    assert first_non_finite(model, torch.ones(1, 2)) == "output of 0"
    with torch.no_grad():
        model[2].weight[0] = math.nan
    assert first_non_finite(model, torch.ones(1, 2)) == "parameter 2.weight"


def test_progress_shows_no_accuracy_before_there_is_one():
    assert describe_progress(812.4, 2.3456, math.nan) == "812 images/s, loss 2.346"
    assert describe_progress(812.4, 2.3456, 0.25) == "812 images/s, loss 2.346, val 0.250"


def test_schedule_equals_timm():
    from timm.scheduler import CosineLRScheduler

    training = TrainingConfig(steps=50, warmup_steps=0, learning_rate=0.3)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    scheduler = CosineLRScheduler(optimizer, t_initial=50, lr_min=0.0, t_in_epochs=False)
    for step in range(50):
        scheduler.step_update(step)
        assert learning_rate(step, training) == pytest.approx(
            optimizer.param_groups[0]["lr"], abs=1e-12
        )


def test_warm_up_is_linear_and_meets_the_peak():
    training = TrainingConfig(steps=50, warmup_steps=5, learning_rate=1.0)
    assert [learning_rate(step, training) for step in range(6)] == pytest.approx(
        [0.2, 0.4, 0.6, 0.8, 1.0, 1.0]
    )


def test_distillation_loss_by_hand():
    rng = np.random.default_rng(0)
    s, t = rng.normal(size=(3, 5)), rng.normal(size=(3, 5))

    def softmax(z):
        e = np.exp(z / 2.0)
        return e / e.sum(-1, keepdims=True)

    p, q = softmax(t), softmax(s)
    expected = 4 * (p * np.log(p / q)).sum(-1).mean()
    got = distillation_loss(torch.tensor(s), torch.tensor(t), temperature=2.0)
    assert got.item() == pytest.approx(expected)
    assert distillation_loss(torch.tensor(s), torch.tensor(s)).item() == pytest.approx(
        0.0, abs=1e-12
    )


def test_evaluation_is_unpadded_and_leaves_the_mode(finished):
    from bvit_analysis.data import evaluation_batches, load_dataset

    dataset = load_dataset(tiny().data)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10)).train()
    accuracy, loss, correct, count = evaluate(model, dataset, "validation")
    assert model.training
    images, labels = next(evaluation_batches(dataset, "validation", batch_size=1000))
    with torch.no_grad():
        logits = model(images)
    assert (correct, count) == (int((logits.argmax(1) == labels).sum()), 100)
    assert accuracy == correct / count
    assert loss == pytest.approx(functional.cross_entropy(logits, labels).item(), rel=1e-5)
