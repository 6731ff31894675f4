"""What every instrument is: something that looks at a model at chosen steps and leaves rows, and nothing else."""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from bvit_analysis.errors import CheckpointError


@final
class Rows:
    """The rows of one step: metrics by site, histograms and channel counts, merged over all instruments."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.metrics: dict[int, dict[str, float]] = {}
        self.histograms: dict[str, list[Any]] = {
            name: [] for name in ("step", "site_id", "kind", "lo", "hi", "counts")
        }
        self.channels: dict[str, list[Any]] = {
            name: [] for name in ("step", "site_id", "n", "counts")
        }

    def put(self, site_id: int, **values: float) -> None:
        """Set metrics of a site, named as in records.SITE_METRICS."""
        self.metrics.setdefault(site_id, {}).update(values)

    def histogram(self, site_id: int, kind: str, lo: float, hi: float, counts: Tensor) -> None:
        """Add a histogram of a site: counts of equal bins on [lo, hi]."""
        row = (self.step, site_id, kind, lo, hi, counts.cpu().numpy())
        for column, value in zip(self.histograms.values(), row, strict=True):
            column.append(value)

    def channel_counts(self, site_id: int, n: int, counts: Tensor) -> None:
        """Add how many of n values were at or above 0 in each channel of a site, (C,)."""
        row = (self.step, site_id, n, counts.cpu().numpy().astype(np.int64))
        for column, value in zip(self.channels.values(), row, strict=True):
            column.append(value)

    def site_columns(self) -> dict[str, np.ndarray]:
        """Return the metrics as columns, one row a site in order of site_id; what was not measured is NaN."""
        ids = sorted(self.metrics)
        names = dict.fromkeys(name for site_id in ids for name in self.metrics[site_id])
        columns = {
            name: np.array([self.metrics[i].get(name, np.nan) for i in ids], dtype=np.float32)
            for name in names
        }
        return {"step": np.full(len(ids), self.step), "site_id": np.array(ids), **columns}


class Instrument(ABC):
    """Looks at a model at every so many applied steps; subclasses are final.

    Args:
        every: Steps between rows.
    """

    def __init__(self, every: int) -> None:
        self.every = every

    @final
    def is_due(self, step: int) -> bool:
        """Return whether this applied step leaves rows."""
        return step % self.every == 0

    @abstractmethod
    def record(self, rows: Rows) -> None:
        """Add the rows of step rows.step, which is due, from the state after that step."""

    def state_dict(self) -> dict[str, Tensor]:
        """Return what the instrument must remember between steps."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from a state_dict of the same sites.

        Raises:
            CheckpointError: If the state is of something else.
        """
        if state:
            raise CheckpointError(
                f"{type(self).__name__} keeps no state, got {sorted(state)}; resume with the versions"
                " that wrote the checkpoint"
            )


class Listener(ABC):
    """Hears tensors inside forward passes through taps, which are there only while a sampled step runs."""

    def __init__(self) -> None:
        self._handles: list[RemovableHandle] = []

    @property
    @final
    def listening(self) -> bool:
        """Whether its taps are in the model."""
        return bool(self._handles)

    @final
    def listen(self) -> None:
        """Put the taps into the model; the next step's forward passes are heard."""
        if not self._handles:
            self._attach()

    @final
    def deafen(self) -> None:
        """Take every tap out of the model again."""
        while self._handles:
            self._handles.pop().remove()

    @final
    def tap(self, module: nn.Module, key: object, *, student: bool = True) -> None:
        """Hear what goes in and out of a module; of a student only while it trains (train mode, gradients on)."""
        self._handles.append(module.register_forward_hook(Tap(self, module, key, student)))

    @abstractmethod
    def _attach(self) -> None:
        """Call tap() for every module to hear."""

    @abstractmethod
    def hear(self, key: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Take up what a tapped module was given and returned; called without gradients."""


@final
class Tap:
    """A forward hook that knows its module, holds its listener weakly, and goes dead when it is copied or pickled."""

    def __init__(
        self,
        listener: Listener | None = None,
        module: nn.Module | None = None,
        key: object = None,
        student: bool = True,
    ) -> None:
        self._listener = None if listener is None else weakref.ref(listener)
        self._module = None if module is None else weakref.ref(module)
        self._key = key
        self._student = student

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        listener = None if self._listener is None else self._listener()
        # A copied model brings its hooks along: what is heard must come from the watched module itself.
        if listener is None or self._module is None or self._module() is not module:
            return
        if self._student and not (module.training and torch.is_grad_enabled()):
            return
        with torch.no_grad():
            listener.hear(self._key, inputs, output)

    def __deepcopy__(self, memo: dict[int, Any]) -> Tap:
        return Tap()

    def __reduce__(self) -> tuple[type[Tap], tuple[()]]:
        return Tap, ()
