"""Watching a training by the Trainer of Hugging Face's transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

from torch import Tensor, nn

from bvit_analysis.errors import ConfigError, TrainingError
from bvit_analysis.extras import missing_extra, not_installed
from bvit_analysis.sites import Site
from bvit_analysis.watch import Watch

try:
    import accelerate as _accelerate  # noqa: F401  transformers imports without it, its Trainer does not
    from transformers import Trainer, TrainerCallback
except ModuleNotFoundError as error:
    missing = not_installed(["transformers", "accelerate"]) or ["transformers"]
    raise missing_extra("bvit_analysis.adapters.huggingface", missing, "huggingface") from error


@contextmanager
def watch_trainer(
    trainer: Trainer,
    run_dir: str | Path,
    *,
    sites: Sequence[Site] | Callable[[nn.Module], Sequence[Site]] | None = None,
    total_steps: int | None = None,
    **settings: Any,
) -> Iterator[TrainerWatch]:
    """Watch what ``trainer.train()`` does inside ``with watch_trainer(trainer, "runs/mine"):`` and record a run.

    A callback is added to the trainer, enters the watch when training begins and leaves it when it ends. The
    ``with`` is there because a Trainer tells its callbacks nothing of an error or Ctrl-C: then the end of the block
    leaves the watch. One row a step of the optimizer: with accumulated gradients one a window. Training is as
    without it, to the bit, and the trainer is left as it was.

    Columns beside the measures: `loss`, `lr` of the optimizer's first group, as the step used it, and `epoch`,
    passes through the data. The Trainer hands no loss to callbacks, and its logs have means over logging_steps. So
    the block listens to what trainer.training_step returns, which is the share of a micro-batch in the loss that is
    minimized, whoever computes it (the model, compute_loss, compute_loss_func, label smoothing); their sum over the
    micro-batches of a step is its loss: equal to the log's with logging_steps=1.

    Args:
        trainer: The Trainer, or one of a subclass; its training has not begun.
        run_dir: Folder of the run; a second training needs another one.
        sites: What find_sites returned, or a function of the model that returns it, for a Trainer with model_init;
            None finds the layers of this package.
        total_steps: Length of the training; None takes the Trainer's max_steps.
        settings: More arguments of Watch: config, teacher, info, instruments.

    Yields:
        The callback; its ``watch`` is the Watch once training began.

    Raises:
        ConfigError: When training begins, on several devices or processes or where the watch has nothing to watch;
            and at the end of the block if nothing was trained in it.
    """
    callback = TrainerWatch(Path(run_dir), sites, total_steps, settings)
    inner: Callable[..., Tensor] = trainer.training_step
    own = "training_step" in vars(trainer)

    def listened(*args: Any, **kwargs: Any) -> Tensor:
        loss = inner(*args, **kwargs)
        callback.losses.append(loss.detach())
        return loss

    trainer.add_callback(callback)
    trainer.training_step = listened
    try:
        yield callback
    except BaseException as error:
        callback.leave(error)
        raise
    finally:
        trainer.remove_callback(callback)
        if own:
            trainer.training_step = inner
        else:
            del trainer.training_step
    if callback.watch is None:
        raise ConfigError(
            f"nothing was trained, so {run_dir} was not made; call trainer.train() inside `with watch_trainer(...)`"
        )
    # Where the block itself caught what ended the training, it is not finished all the same.
    callback.leave(None if callback.ended else KeyboardInterrupt("the training did not end"))


@final
class TrainerWatch(TrainerCallback):
    """What watch_trainer adds to a Trainer; alone it would know neither losses nor errors."""

    def __init__(
        self,
        run_dir: Path,
        sites: Sequence[Site] | Callable[[nn.Module], Sequence[Site]] | None,
        total_steps: int | None,
        settings: dict[str, Any],
    ) -> None:
        self.watch: Watch | None = None
        "The watch while a training runs, and after it."
        self.losses: list[Tensor] = []
        "Shares of the micro-batches since the last step."
        self.ended = False
        "Whether the last training that began came to its end."
        self._run_dir, self._sites, self._total_steps = run_dir, sites, total_steps
        self._settings = settings
        self._lr = float("nan")

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Enter the watch."""
        devices = args.world_size * max(1, args.n_gpu)
        if devices > 1:
            raise ConfigError(
                f"watch_trainer watches one device of one process, got {devices}; start one process, with"
                " CUDA_VISIBLE_DEVICES=0"
            )
        # A Trainer with auto_find_batch_size begins anew by itself; the folder's refusal says so.
        self.leave(TrainingError("the Trainer began again, so this run ends here"))
        model = given["model"]
        self.losses.clear()
        self.ended = False
        self.watch = Watch(
            model,
            self._run_dir,
            sites=self._sites(model) if callable(self._sites) else self._sites,
            optimizer=given["optimizer"],
            total_steps=self._total_steps or state.max_steps,
            **self._settings,
        )
        self.watch.__enter__()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Keep the learning rate of the step; the schedule goes on right after."""
        self._lr = float(given["optimizer"].param_groups[0]["lr"])

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Record the step."""
        shares, self.losses[:] = list(self.losses), []
        if self.watch is not None:
            loss = sum(shares) if shares else None
            self.watch.step(loss=loss, lr=self._lr, epoch=state.epoch)

    def on_log(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Leave the watch at the log that closes a training: after it the best model may be loaded, which is no step."""
        if "train_loss" in (given.get("logs") or {}):
            self.on_train_end(args, state, control)

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Leave the watch."""
        self.ended = True
        self.leave(None)

    def leave(self, error: BaseException | None) -> None:
        """Leave the watch, if it is entered."""
        if self.watch is not None:
            trace = None if error is None else error.__traceback__
            self.watch.__exit__(None if error is None else type(error), error, trace)
