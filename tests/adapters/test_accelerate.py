"""A loop under accelerate's accumulate(), watched: counts, losses and gradients of a plain loop, and its bits."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader

from bvit_analysis.errors import ConfigError
from bvit_analysis.records import load_run
from tests.support.accumulated import (
    ACCUMULATED,
    CLIP,
    EACH,
    assert_gradients,
    assert_recorded,
    assert_same_bits,
    binary_vit,
    by_hand,
    example,
    hooks_of,
    made,
    micro_batch,
)

pytestmark = pytest.mark.slow

BATCHES = 8
"Two full steps, and one of two micro-batches."


@pytest.fixture
def accelerator() -> Iterator[Any]:
    """An Accelerator that accumulates, on the CPU; accelerate keeps its state in the process."""
    accelerate = importlib.import_module("accelerate")
    state = importlib.import_module("accelerate.state")
    yield accelerate.Accelerator(cpu=True, gradient_accumulation_steps=ACCUMULATED)
    state.AcceleratorState._reset_state(reset_partial_state=True)
    state.GradientState._reset_state()


def trained(
    accelerator: Any, path: Path | None, *, fails_at: int = -1, error: BaseException | None = None
) -> tuple[nn.Module, Any]:
    """Train in the way of accelerate's own examples, watched if there is a path."""
    from bvit_analysis.adapters import AcceleratedWatch

    model = binary_vit()
    loader = DataLoader([micro_batch(number) for number in range(BATCHES)], batch_size=None)
    model, optimizer, schedule, loader = accelerator.prepare(model, *made(model), loader)
    entered: Any = contextlib.nullcontext()
    if path is not None:
        entered = AcceleratedWatch(accelerator, model, path, optimizer=optimizer, config=EACH)
    with entered as watch:
        for number, (images, labels) in enumerate(loader):
            if number == fails_at and error is not None:
                raise error
            with accelerator.accumulate(model):
                loss = functional.cross_entropy(model(images), labels)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), CLIP)
                lr = optimizer.param_groups[0]["lr"]
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
                if watch is not None:
                    watch.step(loss, lr=lr)
    return model, optimizer


def test_only_applied_steps_are_rows_and_they_are_those_of_a_plain_loop(
    accelerator: Any, tmp_path: Path
) -> None:
    model, optimizer = trained(accelerator, tmp_path / "run")
    counted = by_hand(BATCHES)
    assert len(counted.losses) == 3
    assert_recorded(tmp_path / "run", counted)
    assert_gradients(tmp_path / "run", counted)
    assert_same_bits(model, counted.state)
    assert hooks_of(model, optimizer.optimizer) == 0


def test_the_example_of_the_page_runs(
    accelerator: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    loader = DataLoader([micro_batch(number) for number in range(BATCHES)], batch_size=None)
    model = binary_vit()
    given = accelerator.prepare(model, made(model)[0], loader)
    names = dict(zip(("model", "optimizer", "loader"), given, strict=True))
    exec(
        example("AcceleratedWatch("),
        {"accelerator": accelerator, "criterion": functional.cross_entropy, **names},
    )
    assert load_run(tmp_path / "runs" / "mine").step == 3


def test_training_is_the_same_to_the_bit(accelerator: Any, tmp_path: Path) -> None:
    alone, _ = trained(accelerator, None)
    watched, _ = trained(accelerator, tmp_path / "run")
    assert_same_bits(watched, alone.state_dict())


@pytest.mark.parametrize(
    ("error", "state"),
    [(ValueError("spilled"), "failed"), (KeyboardInterrupt(), "interrupted")],
    ids=["error", "Ctrl-C"],
)
def test_an_error_leaves_the_watch(
    accelerator: Any, tmp_path: Path, error: BaseException, state: str
) -> None:
    with pytest.raises(type(error)):
        trained(accelerator, tmp_path / "run", fails_at=4, error=error)
    run = load_run(tmp_path / "run")
    assert (run.state, run.step) == (state, 1)


def test_several_processes_are_refused(tmp_path: Path) -> None:
    from bvit_analysis.adapters import AcceleratedWatch

    model = binary_vit()
    several: Any = SimpleNamespace(num_processes=2)
    with pytest.raises(ConfigError, match="one process, got 2"):
        AcceleratedWatch(several, model, tmp_path / "run", optimizer=made(model)[0])
    assert not (tmp_path / "run").exists()
