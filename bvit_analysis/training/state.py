"""All that changes during a training, and its way into a checkpoint and back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bvit_analysis.records import RunWriter
from bvit_analysis.records.checkpoints import (
    MODEL,
    OPTIMIZER,
    REGULARIZER,
    WATCH,
    part,
    prefixed,
    save_checkpoint,
)
from bvit_analysis.regularization import GradientRegularizer
from bvit_analysis.watch import Watch


@dataclass
class TrainingState:
    """All that a checkpoint holds, apart from the configuration."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    regularizer: GradientRegularizer
    watch: Watch
    step: int = 0
    accuracy: float = math.nan
    best_accuracy: float = -math.inf
    best_step: int | None = None

    def note_accuracy(self, accuracy: float) -> None:
        """Take an evaluation of this step; a value that is not finite is never the best."""
        self.accuracy = accuracy
        if math.isfinite(accuracy) and accuracy > self.best_accuracy:
            self.best_accuracy, self.best_step = accuracy, self.step


def save_state(state: TrainingState, writer: RunWriter, run_dir: Path) -> None:
    """Seal the rows so far, then write a checkpoint of everything; the best evaluated one is kept."""
    tensors = prefixed(state.model.state_dict(), MODEL)
    for index, slots in state.optimizer.state_dict()["state"].items():
        tensors |= prefixed(slots, f"{OPTIMIZER}.{index}")
    tensors |= prefixed(state.regularizer.state_dict(), REGULARIZER)
    tensors |= prefixed(state.watch.state_dict(), WATCH)
    figures = {
        "best_accuracy": state.best_accuracy if math.isfinite(state.best_accuracy) else None,
        "best_step": state.best_step,
        "accuracy": state.accuracy if math.isfinite(state.accuracy) else None,
    }
    # Rows first: a checkpoint without its rows would leave a hole in the record, rows without it are superseded.
    writer.seal()
    save_checkpoint(run_dir, state.step, tensors, figures, best_step=state.best_step)


def restore_state(
    state: TrainingState, tensors: dict[str, Tensor], figures: dict[str, Any], step: int
) -> None:
    """Put a checkpoint's tensors and figures into a state, as they were after a step."""
    state.model.load_state_dict(part(tensors, MODEL))
    slots: dict[int, dict[str, Tensor]] = {}
    for name, value in part(tensors, OPTIMIZER).items():
        index, slot = name.split(".", 1)
        slots.setdefault(int(index), {})[slot] = value
    packed = state.optimizer.state_dict()
    state.optimizer.load_state_dict({**packed, "state": slots})
    state.regularizer.load_state_dict(part(tensors, REGULARIZER))
    state.watch.load_state_dict(part(tensors, WATCH))
    state.step = step
    state.best_step = figures["best_step"]
    state.best_accuracy = (
        -math.inf if figures["best_accuracy"] is None else figures["best_accuracy"]
    )
    state.accuracy = math.nan if figures["accuracy"] is None else figures["accuracy"]
