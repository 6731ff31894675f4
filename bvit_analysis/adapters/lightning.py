"""Watching a training by Lightning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf, nan
from pathlib import Path
from typing import Any, final

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from bvit_analysis.errors import ConfigError
from bvit_analysis.extras import missing_extra
from bvit_analysis.sites import Site
from bvit_analysis.watch import Watch

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.callbacks import GradientAccumulationScheduler
except ModuleNotFoundError as error:
    raise missing_extra("bvit_analysis.adapters.lightning", ["lightning"], "lightning") from error


@final
class WatchCallback(Callback):
    """Watches ``trainer.fit`` and records a run: ``Trainer(callbacks=[WatchCallback("runs/mine")])``.

    The watch is entered when training starts, after optimizers were made and a checkpoint was restored, and left
    when it ends, also by an error or Ctrl-C. One row a step of the optimizer: with accumulated gradients one a
    window. Training is as without it, to the bit.

    Columns beside the measures: `loss`, the mean of what training_step returned over the micro-batches of the step;
    `lr` of the optimizer's first group, as the step used it; `epoch`, passes through the data. In manual
    optimization the loss is that of self.manual_backward(), and missing where backward() was called otherwise.

    Args:
        run_dir: Folder of the run; a second fit needs another one.
        sites: What find_sites returned, or a function of the LightningModule that returns it, for a model that is
            made in configure_model; None finds the layers of this package.
        optimizer: Which of several optimizers is watched: its number in configure_optimizers. Its steps count, and
            losses since the last step of any of them.
        total_steps: Length of the training; None takes what Lightning estimates, for automatic optimization.
        settings: More arguments of Watch: config, teacher, info, instruments.

    Raises:
        ConfigError: When training starts, on several devices or processes, with several optimizers of which none was
            chosen, or where the watch has nothing to watch.
    """

    def __init__(
        self,
        run_dir: str | Path,
        *,
        sites: Sequence[Site] | Callable[[nn.Module], Sequence[Site]] | None = None,
        optimizer: int | None = None,
        total_steps: int | None = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        self.run_dir = Path(run_dir)
        self.watch: Watch | None = None
        "The watch while a training runs, and the last one after it."
        self._sites, self._optimizer, self._total_steps = sites, optimizer, total_steps
        self._settings = settings
        self._watched: Optimizer | None = None
        self._handles: list[RemovableHandle] = []
        self._losses: list[Tensor] = []
        self._of_step: list[Tensor] = []
        self._lr, self._tried = nan, False
        self._global_step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Enter the watch."""
        if trainer.world_size > 1:
            raise ConfigError(
                f"WatchCallback watches one device of one process, got {trainer.world_size}; use Trainer(devices=1,"
                " num_nodes=1)"
            )
        self._watched = self._chosen(trainer)
        sites = self._sites(pl_module) if callable(self._sites) else self._sites
        self._losses, self._tried, self._global_step = [], False, trainer.global_step
        self.watch = Watch(
            pl_module,
            self.run_dir,
            sites=sites,
            optimizer=self._watched,
            total_steps=self._length(trainer, pl_module),
            **self._settings,
        )
        self.watch.__enter__()
        if not pl_module.automatic_optimization:
            self._hear_steps(trainer, self._watched)

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        """Keep the loss of a backward pass in manual optimization, where nothing else tells it."""
        if not pl_module.automatic_optimization and self.watch is not None:
            scaler = getattr(trainer.precision_plugin, "scaler", None)
            self._losses.append(loss.detach() / (1.0 if scaler is None else scaler.get_scale()))

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Keep what belongs to the step: its learning rate, as the schedule goes on right after, and its losses."""
        manual = not pl_module.automatic_optimization
        if manual:
            # Those before a step that a scaler skips, or of another optimizer, are not of the next one.
            self._of_step, self._losses = self._losses, []
        if optimizer is self._watched or not manual:
            self._lr = float(optimizer.param_groups[0]["lr"])
            self._tried = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the loss of a micro-batch, and record the step if it was the last of one."""
        if not pl_module.automatic_optimization:
            if self._tried and self.watch is not None:
                self._tried = False
                self.watch.step()  # finds that a scaler skipped it
            return
        loss = outputs.get("loss") if isinstance(outputs, dict) else None
        if loss is not None:  # a training_step may skip its batch
            self._losses.append(loss.detach() * trainer.accumulate_grad_batches)
        if trainer.global_step > self._global_step:
            self._global_step = trainer.global_step
            self._of_step, self._losses = self._losses, []
            self._record(trainer, batch_idx)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the watch."""
        self._leave(None)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Leave the watch, which records why."""
        self._leave(exception)

    def _chosen(self, trainer: Trainer) -> Optimizer:
        number = len(trainer.optimizers)
        if self._optimizer is None and number == 1:
            return trainer.optimizers[0]
        if self._optimizer is None or not 0 <= self._optimizer < number:
            raise ConfigError(
                f"expected the number of the optimizer to watch, 0 to {number - 1}, got {self._optimizer}; use"
                " WatchCallback(..., optimizer=0) for the first"
            )
        return trainer.optimizers[self._optimizer]

    def _length(self, trainer: Trainer, module: LightningModule) -> int | None:
        if self._total_steps is not None or not module.automatic_optimization:
            return self._total_steps
        for one in trainer.callbacks:
            if isinstance(one, GradientAccumulationScheduler) and len(one.scheduling) > 1:
                return None  # the estimate is of one number of micro-batches
        steps = trainer.estimated_stepping_batches
        return int(steps) if 0 < steps < inf else None

    def _hear_steps(self, trainer: Trainer, watched: Optimizer) -> None:
        """Record each step of manual optimization, of which a batch may have several, right after it."""

        def heard(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
            self._record(trainer, trainer.fit_loop.batch_idx)

        try:
            # After the watch's own, so that it has seen the step when this hears of it.
            self._handles.append(watched.register_step_post_hook(heard))
        except AttributeError as error:
            raise ConfigError(
                f"a {type(watched).__name__} does not tell of its steps, so manual optimization with it cannot be"
                " watched; use automatic optimization, or the optimizer inside it"
            ) from error

    def _record(self, trainer: Trainer, batch_idx: int) -> None:
        if self.watch is None:
            return
        self._tried = False
        loss = sum(self._of_step) / len(self._of_step) if self._of_step else None
        batches = trainer.num_training_batches  # infinite for a stream
        epoch = trainer.current_epoch + (batch_idx + 1) / batches if batches < inf else nan
        self.watch.step(loss=loss, lr=self._lr, epoch=epoch)

    def _leave(self, error: BaseException | None) -> None:
        while self._handles:
            self._handles.pop().remove()
        if self.watch is not None:
            watch, trace = self.watch, None if error is None else error.__traceback__
            watch.__exit__(None if error is None else type(error), error, trace)
