"""Watching a loop of one's own that uses Hugging Face's accelerate."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, final

from torch import Tensor, nn
from torch.optim import Optimizer

from bvit_analysis.errors import ConfigError
from bvit_analysis.watch import Watch

if TYPE_CHECKING:
    from accelerate import Accelerator


@final
class AcceleratedWatch:
    """A Watch for loops under ``accelerator.accumulate``: step() after every micro-batch, one row a step.

    On a micro-batch that only accumulates, the prepared optimizer does nothing, and neither does the watch but keep
    the loss; the row of a step has the mean of its micro-batches' losses.

    Args:
        accelerator: The Accelerator of the loop.
        model: What accelerator.prepare() made of the model, or the model.
        run_dir: Folder of the run.
        optimizer: What accelerator.prepare() made of the optimizer.
        settings: More arguments of Watch: sites, config, teacher, info, total_steps, instruments.

    Raises:
        ConfigError: On several processes, or where the watch has nothing to watch.

    Example:
        with AcceleratedWatch(accelerator, model, "runs/mine", optimizer=optimizer) as watch:
            for images, labels in loader:
                with accelerator.accumulate(model):
                    loss = criterion(model(images), labels)
                    accelerator.backward(loss)
                    optimizer.step()
                    optimizer.zero_grad()
                    watch.step(loss)
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        run_dir: str | Path,
        *,
        optimizer: Optimizer,
        **settings: Any,
    ) -> None:
        if accelerator.num_processes > 1:
            raise ConfigError(
                f"AcceleratedWatch watches one process, got {accelerator.num_processes}; start it with"
                " `accelerate launch --num_processes 1`"
            )
        self._accelerator = accelerator
        self.watch = Watch(
            accelerator.unwrap_model(model), run_dir, optimizer=optimizer, **settings
        )
        "The watch itself."
        self._losses: list[Tensor] = []

    def __enter__(self) -> Self:
        self.watch.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.watch.__exit__(kind, error, trace)

    def step(self, loss: Tensor | None = None, **scalars: Any) -> None:
        """Look at the model after a micro-batch; only one after which the optimizer stepped makes a row.

        Args:
            loss: Of the micro-batch, as it is given to accelerator.backward().
            scalars: Further columns of the row: epoch, lr, grad_norm, accuracy, validation_loss.

        Raises:
            ConfigError: If a scalar's name is unknown, or the watch is not entered.
        """
        if loss is not None:
            self._losses.append(loss.detach())
        if not self._accelerator.sync_gradients:
            return
        losses, self._losses = self._losses, []
        self.watch.step(loss=sum(losses) / len(losses) if losses else None, **scalars)
