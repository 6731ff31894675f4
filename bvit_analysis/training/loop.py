"""The training loop: one step after another, watched, checkpointed, stoppable."""

from __future__ import annotations

import math
import signal
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from bvit_analysis.config import RunConfig, TrainingConfig
from bvit_analysis.data import Dataset, train_batches
from bvit_analysis.errors import TrainingError
from bvit_analysis.randomness import seeded
from bvit_analysis.records import RunWriter
from bvit_analysis.training.evaluation import evaluate
from bvit_analysis.training.finiteness import first_non_finite
from bvit_analysis.training.interruption import Interrupted, stop_signals
from bvit_analysis.training.state import TrainingState, save_state


def train_steps(
    config: RunConfig,
    dataset: Dataset,
    teacher: nn.Module | None,
    state: TrainingState,
    writer: RunWriter,
    run_dir: Path,
    progress: bool,
) -> None:
    """Train from the state's step to the last one: every step is watched, some are checkpointed and evaluated.

    Args:
        config: The run's.
        dataset: Its images.
        teacher: Float model whose logits are learned from, or None.
        state: All that changes; it is left as the last step made it.
        writer: Of the run's record.
        run_dir: Folder of the run, for checkpoints.
        progress: Whether to show a progress bar.

    Raises:
        TrainingError: If the loss or the gradient is not finite; the update was not made.
        Interrupted: After SIGTERM or SIGINT, once a checkpoint is saved.
    """
    training = config.training
    writer.write_status("running", state.step, training.steps)
    batches = train_batches(
        dataset,
        config.data,
        seed=config.seed,
        batch_size=training.batch_size,
        start_step=state.step,
        total_steps=training.steps,
    )
    bar = tqdm(
        total=training.steps,
        initial=state.step,
        desc=run_dir.name,
        unit="step",
        disable=not progress,
        mininterval=1.0,
    )
    started = lap = time.monotonic()
    with stop_signals() as stop, state.watch, bar:
        for batch in batches:
            images = batch.images.to(training.device)
            labels = batch.labels.to(training.device)
            rate = learning_rate(state.step, training)
            for group in state.optimizer.param_groups:
                group["lr"] = rate

            state.model.train()
            with seeded(config.seed, "step", state.step):
                logits = state.model(images)
            loss = _loss(config, logits, labels, images, teacher)
            loss.backward()
            norm = _clip(state.model, training.clip_norm)
            value, size = loss.item(), norm.item()
            _check_finite(value, size, state, images, rate)
            state.regularizer.apply(learning_rate=rate, progress=state.step / training.steps)
            state.optimizer.step()
            state.optimizer.zero_grad()
            state.step += 1

            accuracy = validation_loss = math.nan
            if state.step % training.evaluate_every == 0 or state.step == training.steps:
                accuracy, validation_loss, _, _ = evaluate(
                    state.model, dataset, "validation", training.device
                )
                state.note_accuracy(accuracy)
            state.watch.step(
                loss=value,
                epoch=state.step * training.batch_size / max(1, len(dataset.train)),
                lr=rate,
                grad_norm=size,
                accuracy=accuracy,
                validation_loss=validation_loss,
            )
            if state.step % 20 == 0:
                now = time.monotonic()
                speed = 20 * training.batch_size / max(now - lap, 1e-9)
                lap = now
                writer.append(
                    "timings",
                    {"step": [state.step], "images_per_s": [speed], "elapsed_s": [now - started]},
                )
                writer.write_status("running", state.step, training.steps)
                bar.set_postfix_str(describe_progress(speed, value, state.accuracy))
            bar.update()
            if state.step % training.checkpoint_every == 0 or state.step == training.steps or stop:
                save_state(state, writer, run_dir)
                writer.write_status("running", state.step, training.steps)
            if stop:
                name = signal.Signals(stop[0]).name
                print(
                    f"{run_dir.name}: stopped by {name} at step {state.step}, checkpoint saved",
                    file=sys.stderr,
                )
                raise Interrupted(128 + stop[0])


def describe_progress(images_per_s: float, loss: float, accuracy: float) -> str:
    """Return what stands beside the bar: speed, loss, and the validation accuracy (0..1) once there is one."""
    known = f", val {accuracy:.3f}" if math.isfinite(accuracy) else ""
    return f"{images_per_s:.0f} images/s, loss {loss:.3f}{known}"


def _loss(
    config: RunConfig, logits: Tensor, labels: Tensor, images: Tensor, teacher: nn.Module | None
) -> Tensor:
    if config.recipe is not None and config.recipe.distillation and teacher is not None:
        with torch.no_grad():
            target = teacher(images)
        return distillation_loss(logits, target, config.training.temperature)
    return functional.cross_entropy(logits, labels, label_smoothing=config.training.label_smoothing)


def distillation_loss(logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Return the mean divergence of the student from the teacher: T^2 KL(softmax(t / T) || softmax(s / T)).

    Args:
        logits: Of the student, (B, classes).
        teacher_logits: Of the teacher, (B, classes), treated as constant.
        temperature: T.

    Returns:
        A scalar, nats.

    Source: Hinton et al., arXiv 1503.02531; as the only loss of a binary network: ReActNet, arXiv 2003.03488.
    """
    student = functional.log_softmax(logits / temperature, dim=-1)
    target = functional.log_softmax(teacher_logits.detach() / temperature, dim=-1)
    return (
        functional.kl_div(student, target, log_target=True, reduction="batchmean") * temperature**2
    )


def learning_rate(step: int, training: TrainingConfig) -> float:
    """Return the rate of a step: a linear warm-up to the peak, then half a cosine to zero.

    Args:
        step: Applied steps before this one, 0..steps - 1.
        training: Peak, warm-up and length.

    Returns:
        Learning rate, a pure function of the step.
    """
    if step < training.warmup_steps:
        return training.learning_rate * (step + 1) / training.warmup_steps
    span = max(1, training.steps - training.warmup_steps)
    return (
        training.learning_rate
        * 0.5
        * (1 + math.cos(math.pi * (step - training.warmup_steps) / span))
    )


def _clip(model: nn.Module, bound: float) -> Tensor:
    limit = bound if bound > 0 else math.inf
    return nn.utils.clip_grad_norm_(model.parameters(), limit)


def _check_finite(
    loss: float, norm: float, state: TrainingState, images: Tensor, rate: float
) -> None:
    if math.isfinite(loss) and math.isfinite(norm):
        return
    what = f"the loss is {loss}" if not math.isfinite(loss) else f"the gradient norm is {norm}"
    where = first_non_finite(state.model, images)
    raise TrainingError(
        f"{what} at step {state.step + 1} (learning rate {rate:.2e}); the update was not made; first non-finite value:"
        f" {where}; lower the learning rate and start again, or resume from the last checkpoint"
    )
