"""One training, top to bottom: float teacher, binary student, GRS, watch, checkpoints, exact resume.

Randomness is a function of (seed, purpose, counters), never of a stream, so a resumed run needs no generator state
and repeats the uninterrupted one bit for bit (same machine, versions and thread count).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bvit_analysis.config import Recipe, RunConfig
from bvit_analysis.data import Dataset, check_batch_size, evaluation_batches, load_dataset
from bvit_analysis.errors import BvitError, RunError
from bvit_analysis.instruments import Instrument, declared_by, standard
from bvit_analysis.instruments.attention import attention_examples
from bvit_analysis.instruments.optimizer import describe_optimizer
from bvit_analysis.pretrained import model_preprocessing
from bvit_analysis.records import Measure, RunWriter, check_name
from bvit_analysis.records.checkpoints import (
    Checkpoint,
    half_checkpoints,
    load_checkpoint,
    remove_half_checkpoints,
)
from bvit_analysis.records.lock import RunHeldError, leftovers, remove_leftovers, take_lock
from bvit_analysis.regularization import GradientRegularizer
from bvit_analysis.sites import Site
from bvit_analysis.training.evaluation import evaluate
from bvit_analysis.training.identity import check_same_data, describe_run, is_finished
from bvit_analysis.training.interruption import Interrupted
from bvit_analysis.training.loop import train_steps
from bvit_analysis.training.models import (
    check_devices,
    check_recipe,
    make_optimizer,
    make_student,
    teacher_config,
    teacher_folder,
)
from bvit_analysis.training.state import TrainingState, restore_state
from bvit_analysis.training.teacher import make_teacher, teacher_origin
from bvit_analysis.training.waiting import wait_for_writer
from bvit_analysis.watch import Watch


def train(
    config: RunConfig,
    run_dir: str | Path,
    *,
    progress: bool = True,
    instruments: Callable[[], Sequence[Instrument]] = standard,
) -> Path:
    """Train one model and record it; calling it again resumes, or returns at once if the run is finished.

    Args:
        config: What to train; recipe None trains the float model on labels.
        run_dir: Folder of the run; its name is the run id. A teacher is looked for, and made, beside it.
        progress: Whether to show a progress bar.
        instruments: Makes what measures, for example lambda: [*standard(), Mine()].

    Returns:
        The run folder.

    Raises:
        ConfigError: If the folder holds a run with another configuration, a name is wrong, a device is not here, or the
            teacher's head is made for other classes.
        TrainingError: If the loss or the gradient is not finite; the update was not made.
        RunError: If the folder is being written already, by another process or by this one.
        Interrupted: After SIGTERM or SIGINT, once a checkpoint is saved.
    """
    run_dir = Path(run_dir)
    check_name(run_dir.name)
    if is_finished(config, run_dir):
        _tidy(run_dir)
        return run_dir
    check_recipe(config)
    check_devices(config)
    panel = list(instruments())
    measures = declared_by(panel)  # what is wrong with one is said before a teacher is trained
    torch.set_num_threads(config.training.threads)
    dataset = load_dataset(config.data, model_preprocessing(config.model))
    check_same_data(run_dir, dataset, config.data)
    origin = teacher_origin(config, dataset)
    check_batch_size(dataset, config.training.batch_size)  # before a teacher is trained

    def train_first() -> Path:
        return train_teacher(config, teacher_folder(config, run_dir.parent), progress=progress)

    teacher, teacher_figures = make_teacher(config, dataset, run_dir, origin, train_first)
    model, sites = make_student(config, dataset, teacher)
    latents = {site.name: site.latent for site in sites if site.latent is not None}
    decay = config.recipe.latent_weight_decay if config.recipe else 0.0
    optimizer = make_optimizer(model, list(latents.values()), config.training, decay)
    info = describe_run(config, run_dir.name, dataset, model, sites, teacher_figures)
    info["optimizer"] = describe_optimizer(optimizer, sites)
    opened = _open(config, run_dir, info, measures)
    if opened is None:  # another process has finished it since
        return run_dir
    writer, checkpoint = opened
    try:
        state = _start(config, model, sites, optimizer, teacher, writer, run_dir, panel)
        if checkpoint:
            restore_state(state, checkpoint.tensors, checkpoint.state, checkpoint.step)
        train_steps(config, dataset, teacher, state, writer, run_dir, progress)
        _keep_attention(config, dataset, state, teacher, sites, writer)
        _finish(config, dataset, state, writer, teacher_figures)
    except Interrupted:
        writer.write_status("interrupted", state.step, config.training.steps)
        raise
    except BaseException as error:
        _note_failure(writer, config, error)
        raise
    finally:
        writer.close()
    return run_dir


def _open(
    config: RunConfig, run_dir: Path, info: dict[str, Any], measures: Sequence[Measure]
) -> tuple[RunWriter, Checkpoint | None] | None:
    """Return the writer of a run and the checkpoint to go on from, or None if the run is finished."""
    # What is there is looked at by its owner alone: until then another process may be changing it.
    lock = take_lock(run_dir)
    try:
        if is_finished(config, run_dir):
            lock.release()
            return None
        remove_half_checkpoints(run_dir)
        started = (run_dir / "run.json").exists()
        checkpoint = load_checkpoint(run_dir) if started else None
        step = (checkpoint.step if checkpoint else 0) if started else None
        writer = RunWriter(run_dir, info=info, resume_step=step, measures=measures, lock=lock)
        return writer, checkpoint
    except BaseException:
        lock.release()
        raise


def train_teacher(config: RunConfig, folder: Path, *, progress: bool = True) -> Path:
    """Train the float teacher of a run, or wait for the process that trains it; if that one dies, go on in its place.

    Args:
        config: Of the run that needs the teacher.
        folder: Of the teacher.
        progress: Whether to show a progress bar.

    Returns:
        The teacher's folder, finished.

    Raises:
        RunError: If the process that has the teacher lives, but does nothing.
    """
    while True:
        try:
            return train(teacher_config(config), folder, progress=progress)
        except RunHeldError:
            wait_for_writer(folder, progress=progress)


def _tidy(run_dir: Path) -> None:
    """Remove what a kill after the end of a run has left, unless somebody is still at it."""
    if leftovers(run_dir) or half_checkpoints(run_dir):
        with contextlib.suppress(RunError):
            lock = take_lock(run_dir)
            remove_leftovers(run_dir)
            remove_half_checkpoints(run_dir)
            lock.release()


def _start(
    config: RunConfig,
    model: nn.Module,
    sites: list[Site],
    optimizer: torch.optim.Optimizer,
    teacher: nn.Module | None,
    writer: RunWriter,
    run_dir: Path,
    instruments: Sequence[Instrument],
) -> TrainingState:
    latents = {site.name: site.latent for site in sites if site.latent is not None}
    watch = Watch(
        model,
        run_dir,
        sites=sites,
        config=config.watch,
        teacher=teacher,
        writer=writer,
        total_steps=config.training.steps,
        instruments=instruments,
    )
    return TrainingState(
        model, optimizer, GradientRegularizer(latents, config.recipe or Recipe()), watch
    )


def _keep_attention(
    config: RunConfig,
    dataset: Dataset,
    state: TrainingState,
    teacher: nn.Module | None,
    sites: list[Site],
    writer: RunWriter,
) -> None:
    number = config.watch.attention_images
    if not number or not sites:
        return
    images, labels = next(evaluation_batches(dataset, "test", batch_size=number, limit=number))
    mean, std = (torch.tensor(x).view(-1, 1, 1) for x in (dataset.mean, dataset.std))
    pixels = ((images * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
    device = config.training.device
    examples = attention_examples(
        state.model, teacher, sites, images.to(device), pixels.numpy(), labels.numpy()
    )
    if examples is not None:
        writer.write_attention(examples)


def _finish(
    config: RunConfig,
    dataset: Dataset,
    state: TrainingState,
    writer: RunWriter,
    teacher: dict[str, Any],
) -> None:
    accuracy, _, correct, count = evaluate(state.model, dataset, "test", config.training.device)
    writer.write_result(
        {
            "test_accuracy": accuracy,
            "test_correct": correct,
            "test_count": count,
            "validation_accuracy": state.accuracy,
            "best_validation_accuracy": state.best_accuracy,
            "teacher_test_accuracy": teacher.get("teacher_test_accuracy"),
            "steps": state.step,
        }
    )
    writer.write_status("finished", state.step, config.training.steps)


def _note_failure(writer: RunWriter, config: RunConfig, error: BaseException) -> None:
    # The disk may be what failed; the first error is the one to show.
    with contextlib.suppress(OSError, BvitError):
        text = f"{type(error).__name__}: {error}"
        writer.write_status("failed", writer.step, config.training.steps, error=text)
