"""Training: exact resume after kill -9, non-finite losses, signals, schedules, and what a run may not touch."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from bvit_analysis.config import (
    RunConfig,
    TrainingConfig,
    to_dict,
)
from bvit_analysis.errors import ConfigError, TrainingError
from bvit_analysis.records import load_run
from bvit_analysis.records.checkpoints import load_checkpoint
from bvit_analysis.training.evaluation import evaluate
from bvit_analysis.training.loop import distillation_loss, learning_rate
from bvit_analysis.training.models import teacher_run_id
from bvit_analysis.training.run import train
from tests.support.tiny_run import STEPS, tiny


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    return train(tiny(), tmp_path_factory.mktemp("whole") / "binaryvit-seed0", progress=False)


def everything(folder: Path) -> dict[str, object]:
    """All that a run records and learns, without what a clock measured."""
    run = load_run(folder)
    found: dict[str, object] = {}
    for kind in ("scalars", "sites", "histograms", "channels", "trajectories"):
        frame = getattr(run, kind)
        for column in frame.columns:
            values = frame[column].to_numpy()
            if values.dtype == object:
                values = (
                    np.concatenate([np.asarray(v).ravel() for v in values])
                    if kind in ("histograms", "channels") and column == "counts"
                    else values.astype(str)
                )
            found[f"{kind}.{column}"] = values
    for site in run.site_table.query("kind == 'weight'")["site"]:
        for name, array in run.counts(site).items():
            found[f"counts.{site}.{name}"] = np.asarray(array)
    if run.attention is not None:
        for name in ("images", "predictions", "bits", "scores", "teacher"):
            found[f"attention.{name}"] = getattr(run.attention, name)
    checkpoint = load_checkpoint(folder)
    assert checkpoint is not None
    for name, tensor in checkpoint.tensors.items():
        found[f"checkpoint.{name}"] = (
            tensor.float().numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()
        )
    found["result"] = np.array(
        sorted(str(item) for item in (run.result or {}).items() if item[0] != "seconds")
    )
    return found


def differing(one: Path, two: Path) -> list[str]:
    first, second = everything(one), everything(two)
    return [*(first.keys() ^ second.keys())] + [
        name
        for name in first.keys() & second.keys()
        if not np.array_equal(
            first[name], second[name], equal_nan=np.asarray(first[name]).dtype.kind == "f"
        )
    ]


def copy_teacher(source: Path, root: Path) -> None:
    name = teacher_run_id(tiny())
    subprocess.run(["cp", "-r", str(source.parent / name), str(root / name)], check=True)


# Resume -----------------------------------------------------------------------------------------------------------------


def start_process(config: RunConfig, folder: Path) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-m", "bvit_analysis.training.sweep", str(folder)],
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    process.stdin.write(json.dumps(to_dict(config)).encode())
    process.stdin.close()
    return process


def wait_until_running(folder: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if json.loads((folder / "status.json").read_text())["state"] == "running":
                return
        except (OSError, ValueError):
            pass
        time.sleep(0.005)
    raise AssertionError(f"the training did not start: exit code {process.poll()}")


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
    wait_until_running(folder, process)
    time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 143
    run = load_run(folder)
    assert run.state == "interrupted"
    checkpoint = load_checkpoint(folder)
    assert checkpoint is not None
    assert 0 < checkpoint.step < 400
    assert run.scalars["step"].max() == checkpoint.step


def test_a_finished_run_is_returned_at_once(finished):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    assert train(tiny(), finished, progress=False) == finished
    assert before == {
        path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()
    }


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
