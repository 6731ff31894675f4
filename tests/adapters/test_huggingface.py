"""The Trainer's own train(), watched: counts, losses and gradients of a plain loop, bits of a training nobody watches."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from bvit_analysis.errors import ConfigError, MissingExtraError, RunError
from bvit_analysis.records import load_run
from bvit_analysis.sites import find_sites
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

BATCHES = 6
"Of an epoch: two steps."


class Classifier(nn.Module):
    """A model as transformers has them: it computes the loss itself where it is given labels."""

    def __init__(self) -> None:
        super().__init__()
        self.net = binary_vit()

    def forward(self, images: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.net(images)
        if labels is None:
            return {"logits": logits}
        return {"loss": functional.cross_entropy(logits, labels), "logits": logits}


@pytest.fixture(scope="module")
def transformers() -> Any:
    """The package, whose Trainer takes seconds to import."""
    return importlib.import_module("transformers")


@pytest.fixture(autouse=True)
def fresh_state(transformers: Any) -> Iterator[None]:
    """Accelerate keeps its state in the process."""
    from accelerate.state import AcceleratorState, GradientState

    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def images() -> list[dict[str, Tensor]]:
    """The images of the micro-batches, one by one."""
    return [
        {"images": image, "labels": label}
        for number in range(BATCHES)
        for image, label in zip(*micro_batch(number), strict=True)
    ]


def trainer_of(transformers: Any, folder: Path, *, kind: Any = None, **settings: Any) -> Any:
    class InOrder(kind or transformers.Trainer):
        def _get_train_sampler(self, *_: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    quiet = {"report_to": "none", "save_strategy": "no", "disable_tqdm": True, "use_cpu": True}
    plain = {"per_device_train_batch_size": 6, "num_train_epochs": 1, "logging_steps": 1}
    plain |= {"gradient_accumulation_steps": ACCUMULATED, "max_grad_norm": CLIP}
    parts = ("compute_loss_func", "eval_dataset")
    given = {name: settings.pop(name) for name in parts if name in settings}
    arguments = transformers.TrainingArguments(folder / "output", **{**quiet, **plain, **settings})
    model = Classifier()
    return InOrder(
        model=model, args=arguments, train_dataset=images(), optimizers=made(model), **given
    )


def watching(trainer: Any, path: Path, **settings: Any) -> Any:
    from bvit_analysis.adapters import watch_trainer

    return watch_trainer(trainer, path, config=EACH, **settings)


def logged(trainer: Any) -> list[float]:
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


def test_steps_losses_and_flips_are_those_of_a_plain_loop(
    transformers: Any, tmp_path: Path
) -> None:
    trainer = trainer_of(transformers, tmp_path)
    with watching(trainer, tmp_path / "run"):
        trainer.train()
    counted = by_hand(BATCHES)
    assert len(counted.losses) == 2
    assert_recorded(tmp_path / "run", counted, prefix="net.")
    assert_same_bits(trainer.model.net, counted.state)
    run = load_run(tmp_path / "run")
    assert (run.state, run.status["total_steps"]) == ("finished", 2)
    assert run.scalars["epoch"].tolist() == [0.5, 1.0]
    assert "training_step" not in vars(trainer)
    assert not [one for one in trainer.callback_handler.callbacks if "bvit" in type(one).__module__]
    assert hooks_of(trainer.model, trainer.optimizer.optimizer) == 0


def test_gradients_are_those_of_the_update(transformers: Any, tmp_path: Path) -> None:
    trainer = trainer_of(transformers, tmp_path)
    with watching(trainer, tmp_path / "run"):
        trainer.train()
    assert_gradients(tmp_path / "run", by_hand(BATCHES), prefix="net.")


def test_training_is_the_same_to_the_bit(transformers: Any, tmp_path: Path) -> None:
    alone = trainer_of(transformers, tmp_path, num_train_epochs=2)
    alone.train()
    watched = trainer_of(transformers, tmp_path, num_train_epochs=2)
    with watching(watched, tmp_path / "run"):
        watched.train()
    assert_same_bits(watched.model, alone.model.state_dict())
    assert logged(watched) == logged(alone)
    assert load_run(tmp_path / "run").step == 4


def test_the_example_of_the_page_runs(
    transformers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(example("watch_trainer("), {"trainer": trainer_of(transformers, tmp_path)})
    assert_recorded(tmp_path / "runs" / "mine", by_hand(BATCHES), prefix="net.")


def test_the_loss_is_what_is_minimized_whoever_computes_it(
    transformers: Any, tmp_path: Path
) -> None:
    """A loss of the Trainer's own, of a function, and with a last window of two micro-batches of four."""

    class Own(transformers.Trainer):
        def compute_loss(self, model: Any, inputs: Any, *_: Any, **__: Any) -> Tensor:
            return 7 * model(**inputs)["loss"]

    def per_item(outputs: Any, labels: Tensor, num_items_in_batch: Any) -> Tensor:
        loss = functional.cross_entropy(outputs["logits"], labels, reduction="sum")
        return loss / num_items_in_batch

    trainers = {
        "own": trainer_of(transformers, tmp_path, kind=Own, gradient_accumulation_steps=4),
        "function": trainer_of(
            transformers, tmp_path, compute_loss_func=per_item, gradient_accumulation_steps=4
        ),
    }
    first = {}
    for name, trainer in trainers.items():
        with watching(trainer, tmp_path / name):
            trainer.train()
        losses = load_run(tmp_path / name).scalars["loss"]
        assert len(losses) == 2
        np.testing.assert_allclose(losses, logged(trainer), rtol=1e-6)
        first[name] = losses[0]
    mean = by_hand(4, accumulated=4).losses[0]
    np.testing.assert_allclose([first["own"], first["function"]], [7 * mean, mean], rtol=1e-5)


@pytest.mark.parametrize(
    ("error", "state"),
    [(ValueError("spilled"), "failed"), (KeyboardInterrupt(), "interrupted")],
    ids=["error", "Ctrl-C"],
)
def test_an_error_leaves_the_watch(
    transformers: Any, tmp_path: Path, error: BaseException, state: str
) -> None:
    class Spills(transformers.TrainerCallback):
        def on_substep_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 1:
                raise error

    def spilling() -> Any:
        trainer = trainer_of(transformers, tmp_path)
        trainer.add_callback(Spills())
        return trainer

    trainer = spilling()
    with pytest.raises(type(error)), watching(trainer, tmp_path / "run"):
        trainer.train()
    run = load_run(tmp_path / "run")
    assert run.state == state
    assert run.scalars["step"].tolist() == [1]
    assert "training_step" not in vars(trainer)
    assert hooks_of(trainer.model, trainer.optimizer.optimizer) == 0

    trainer = spilling()
    with watching(trainer, tmp_path / "caught"), contextlib.suppress(ValueError, KeyboardInterrupt):
        trainer.train()
    assert load_run(tmp_path / "caught").state == "interrupted"
    assert hooks_of(trainer.model, trainer.optimizer.optimizer) == 0


def test_the_best_model_that_is_loaded_at_the_end_is_no_step(
    transformers: Any, tmp_path: Path
) -> None:
    every = dict.fromkeys(("eval_strategy", "save_strategy"), "steps")
    every |= dict.fromkeys(("eval_steps", "save_steps"), 1)
    best = {"load_best_model_at_end": True, "metric_for_best_model": "eval_loss"}
    best |= {"greater_is_better": True, "eval_dataset": images()}
    trainer = trainer_of(transformers, tmp_path, **every, **best)
    with watching(trainer, tmp_path / "run"):
        trainer.train()
    counted = by_hand(BATCHES)
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-1")
    assert_same_bits(trainer.model.net, by_hand(ACCUMULATED).state)
    assert_recorded(tmp_path / "run", counted, prefix="net.")
    assert load_run(tmp_path / "run").state == "finished"


def test_a_second_training_needs_another_folder(transformers: Any, tmp_path: Path) -> None:
    trainer = trainer_of(transformers, tmp_path)
    sites = find_sites(trainer.model.net)
    with watching(trainer, tmp_path / "run", sites=sites):
        trainer.train()
        with pytest.raises(RunError, match="already holds a run"):
            trainer.train()
    assert load_run(tmp_path / "run").state == "finished"
    assert_recorded(tmp_path / "run", by_hand(BATCHES))


def test_a_block_in_which_nothing_is_trained_says_so(transformers: Any, tmp_path: Path) -> None:
    trainer = trainer_of(transformers, tmp_path)
    with (
        pytest.raises(ConfigError, match="nothing was trained"),
        watching(trainer, tmp_path / "run"),
    ):
        pass
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("processes", "devices"), [(2, 1), (1, 2), (3, 0)])
def test_several_devices_are_refused(
    transformers: Any, tmp_path: Path, processes: int, devices: int
) -> None:
    trainer = trainer_of(transformers, tmp_path)
    several = SimpleNamespace(world_size=processes, n_gpu=devices)
    words = f"one device of one process, got {max(processes, devices)}"
    with pytest.raises(ConfigError, match=words), watching(trainer, tmp_path / "run") as callback:
        callback.on_train_begin(several, None, None)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("hidden", ["transformers", "accelerate"])
def test_without_them_the_line_that_installs_them(
    monkeypatch: pytest.MonkeyPatch, hidden: str
) -> None:
    name = "bvit_analysis.adapters.huggingface"
    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, hidden, None)
    with pytest.raises(MissingExtraError, match=rf"needs {hidden}, .*\[huggingface\]"):
        importlib.import_module(name)
