"""One training, top to bottom: float teacher, binary student, GRS, watch, checkpoints, exact resume.

Randomness is a function of (seed, purpose, counters), never of a stream, so a resumed run needs no generator state
and repeats the uninterrupted one bit for bit (same machine, versions and thread count).
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import math
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from bvit_analysis.checkpoints import load_checkpoint
from bvit_analysis.config import Recipe, RunConfig, TrainingConfig, config_hash
from bvit_analysis.convert import binarize, build_model, calibrate
from bvit_analysis.data import Dataset, evaluation_batches, load_dataset, train_batches
from bvit_analysis.errors import BvitError, ConfigError, RunError, TrainingError
from bvit_analysis.finiteness import first_non_finite
from bvit_analysis.instruments.attention import attention_examples
from bvit_analysis.interruption import Interrupted as Interrupted
from bvit_analysis.interruption import stop_signals
from bvit_analysis.randomness import seeded
from bvit_analysis.records import RunWriter, check_name, load_run
from bvit_analysis.regularization import GradientRegularizer
from bvit_analysis.run_identity import check_same_data, describe_run, is_finished
from bvit_analysis.sites import Site, find_sites
from bvit_analysis.training_state import TrainingState, part, restore_state, save_state
from bvit_analysis.watch import Watch


def train(config: RunConfig, run_dir: str | Path, *, progress: bool = True) -> Path:
    """Train one model and record it; calling it again resumes, or returns at once if the run is finished.

    Args:
        config: What to train; recipe None trains the float model on labels.
        run_dir: Folder of the run; its name is the run id. A teacher is looked for, and made, beside it.
        progress: Whether to show a progress bar.

    Returns:
        The run folder.

    Raises:
        ConfigError: If the folder holds a run with another configuration, or a name is wrong.
        TrainingError: If the loss or the gradient is not finite; the update was not made.
        Interrupted: After SIGTERM or SIGINT, once a checkpoint is saved.
    """
    run_dir = Path(run_dir)
    check_name(run_dir.name)
    if is_finished(config, run_dir):
        return run_dir
    torch.set_num_threads(config.training.threads)
    dataset = load_dataset(config.data)
    check_same_data(run_dir, dataset)
    teacher, teacher_figures = _teacher(config, run_dir.parent, dataset, progress)
    model, sites = _student(config, dataset, teacher)
    started = (run_dir / "run.json").exists()
    checkpoint = load_checkpoint(run_dir) if started else None
    writer = RunWriter(
        run_dir,
        info=describe_run(config, run_dir.name, dataset, model, sites, teacher_figures),
        resume_step=(checkpoint.step if checkpoint else 0) if started else None,
    )
    try:
        state = _start(config, model, sites, teacher, writer, run_dir)
        if checkpoint:
            restore_state(state, checkpoint.tensors, checkpoint.state, checkpoint.step)
        _loop(config, dataset, teacher, state, writer, run_dir, progress)
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


def _loop(
    config: RunConfig,
    dataset: Dataset,
    teacher: nn.Module | None,
    state: TrainingState,
    writer: RunWriter,
    run_dir: Path,
    progress: bool,
) -> None:
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
                bar.set_postfix_str(
                    f"{speed:.0f} images/s, loss {value:.3f}, val {state.accuracy:.3f}"
                )
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


@torch.no_grad()
def evaluate(
    model: nn.Module, dataset: Dataset, split: str, device: str = "cpu"
) -> tuple[float, float, int, int]:
    """Evaluate on a split, unpadded and in order; the model's mode is put back.

    Returns:
        Accuracy in 0..1, mean cross-entropy in nats, number correct, number of images.
    """
    training = model.training
    model.eval()
    correct = count = 0
    loss = 0.0
    for images, labels in evaluation_batches(dataset, split, batch_size=500):
        logits = model(images.to(device))
        labels = labels.to(device)
        loss += float(functional.cross_entropy(logits, labels, reduction="sum"))
        correct += int((logits.argmax(dim=-1) == labels).sum())
        count += len(labels)
    model.train(training)
    return correct / max(1, count), loss / max(1, count), correct, count


def teacher_config(config: RunConfig) -> RunConfig:
    """Return the configuration of the float teacher of a binary run; one teacher serves all recipes and seeds."""
    assert config.teacher is not None
    return dataclasses.replace(config, recipe=None, seed=0, training=config.teacher, teacher=None)


def teacher_run_id(config: RunConfig) -> str:
    """Return the run id of the float teacher: equal for all runs that can share it."""
    return f"teacher-{config_hash(teacher_config(config))[:8]}"


def _teacher(
    config: RunConfig, root: Path, dataset: Dataset, progress: bool
) -> tuple[nn.Module | None, dict[str, Any]]:
    """Load the float teacher, training it first if there is none; return it with its figures."""
    pretrained = config.model.pretrained or config.model.checkpoint
    if config.recipe is None or (config.teacher is None and not pretrained):
        return None, {}
    model = _build(config, dataset)
    figures: dict[str, Any] = {}
    if config.model.checkpoint:
        path = Path(config.model.checkpoint)
        if not path.is_file():
            raise ConfigError(
                f"no teacher weights at {path}; give a safetensors file as model.checkpoint"
            )
        model.load_state_dict(load_file(path))
    elif config.teacher is not None:
        folder = train(teacher_config(config), root / teacher_run_id(config), progress=progress)
        checkpoint = load_checkpoint(folder)
        if checkpoint is None:
            raise RunError(
                f"the teacher {folder} has no checkpoint; delete the folder to train it again"
            )
        model.load_state_dict(part(checkpoint.tensors, "model"))
        figures = {
            "teacher": folder.name,
            "teacher_test_accuracy": (load_run(folder).result or {})["test_accuracy"],
        }
    figures["teacher_sha256"] = _digest(model)
    return model.to(config.training.device).eval().requires_grad_(False), figures


def _student(
    config: RunConfig, dataset: Dataset, teacher: nn.Module | None
) -> tuple[nn.Module, list[Site]]:
    model = _build(config, dataset)
    if config.recipe is None:
        return model.to(config.training.device), []
    if teacher is not None:
        model.load_state_dict(teacher.state_dict())
    binarize(model, config.recipe)
    model.to(config.training.device)
    images, _ = next(
        evaluation_batches(dataset, "train", batch_size=config.training.calibration_images)
    )
    calibrate(model, images.to(config.training.device))
    return model, find_sites(model)


def _build(config: RunConfig, dataset: Dataset) -> nn.Module:
    with seeded(config.seed, "init"):
        return build_model(
            config.model,
            img_size=config.data.img_size,
            in_chans=dataset.in_chans,
            num_classes=dataset.num_classes,
        )


def _start(
    config: RunConfig,
    model: nn.Module,
    sites: list[Site],
    teacher: nn.Module | None,
    writer: RunWriter,
    run_dir: Path,
) -> TrainingState:
    latents = {site.name: site.latent for site in sites if site.latent is not None}
    decay = config.recipe.latent_weight_decay if config.recipe else 0.0
    optimizer = _optimizer(model, list(latents.values()), config.training, decay)
    watch = Watch(
        model,
        run_dir,
        sites=sites,
        config=config.watch,
        teacher=teacher,
        writer=writer,
        total_steps=config.training.steps,
    )
    return TrainingState(
        model, optimizer, GradientRegularizer(latents, config.recipe or Recipe()), watch
    )


def _optimizer(
    model: nn.Module, latents: list[nn.Parameter], training: TrainingConfig, latent_decay: float
) -> torch.optim.Optimizer:
    """AdamW with decay on float matrices, none on vectors, and the recipe's own on latent weights."""
    known = {id(parameter) for parameter in latents}
    others = [p for p in model.parameters() if p.requires_grad and id(p) not in known]
    groups = [
        {"params": latents, "weight_decay": latent_decay},
        {"params": [p for p in others if _decays(p)], "weight_decay": training.weight_decay},
        {"params": [p for p in others if not _decays(p)], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=training.learning_rate)


def _decays(parameter: nn.Parameter) -> bool:
    # Scales per head are (h, 1, 1), positions (1, N, D): only true matrices and convolutions decay.
    return parameter.squeeze().ndim >= 2 and parameter.shape[0] > 1


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


def _digest(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


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
