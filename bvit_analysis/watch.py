"""Watch: instruments, their cadence and a run folder, for any training loop and any binarizer."""

from __future__ import annotations

import time
import warnings
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from bvit_analysis.config import WatchConfig
from bvit_analysis.environment import describe_environment
from bvit_analysis.errors import CheckpointError, ConfigError, unknown_name
from bvit_analysis.instruments import Instrument, Rows, Watched, check_signs
from bvit_analysis.instruments.standard import Panel, standard
from bvit_analysis.records import SCHEMAS, Measure, RunWriter, check_name
from bvit_analysis.sites import Site, describe_sites, find_sites

_FLUSH_STEPS = 64
_FLUSH_SECONDS = 1.0
_SCALARS = [name for name in SCHEMAS["scalars"].names if name != "step"]


@final
class Watch:
    """Measures a model while somebody else's loop trains it, and records what it saw; training is as without it, to the bit.

    Use it as a context manager around the loop and call step() once after each optimizer step. Forward passes in
    evaluation mode or without gradients are not seen; gradients may be accumulated over several passes. While it is
    entered the model carries hooks, all of which are removed at the end, also after an error; copies of the model
    made meanwhile (an EMA, for example) are not watched.

    Args:
        model: The model that is trained, of any kind that has sites.
        run_dir: Folder of the run, made here unless a writer is given; its name is the run id.
        sites: What find_sites returned; None finds the layers of this package. Weights that share a storage count
            once.
        config: What is measured how often.
        optimizer: If given, step() finds out whether the optimizer really stepped (a GradScaler may skip it), and
            recorded gradients are those that the optimizer was given.
        teacher: Float model with the same module paths, for twin_agreement; run it yourself on the same images.
        info: Further keys of run.json.
        writer: Where to record, if the run is somebody else's, who then tells its state and closes it.
        total_steps: Length of the training if known; flips in its last tenth are counted apart then.
        instruments: What measures, such as [*standard(), Mine()]; None takes the standard ones. What an instrument
            declares beside the catalogue becomes columns of the run; a writer that is given must declare it too.

    Raises:
        ConfigError: If there is nothing to watch, a tracked sign is not the one that the forward pass uses, or what an
            instrument declares is wrong.
    """

    def __init__(
        self,
        model: nn.Module,
        run_dir: str | Path,
        *,
        sites: Sequence[Site] | None = None,
        config: WatchConfig | None = None,
        optimizer: Optimizer | None = None,
        teacher: nn.Module | None = None,
        info: Mapping[str, Any] | None = None,
        writer: RunWriter | None = None,
        total_steps: int | None = None,
        instruments: Iterable[Instrument] | None = None,
    ) -> None:
        self.run_dir = Path(run_dir)
        check_name(self.run_dir.name)
        self.config = config or WatchConfig()
        self.sites = _distinct(find_sites(model) if sites is None else sites)
        if not self.sites and sites is None:
            raise ConfigError(
                f"found nothing binary in the {type(model).__name__}; binarize it first, or pass"
                " sites=find_sites(model, effective_sign={YourLayer: fn})"
            )
        self.total_steps = total_steps
        self.skipped_steps = 0
        self._optimizer = optimizer
        self._info = dict(info or {})
        self._writer, self._owns_writer = writer, writer is None
        ids = _site_ids(self.sites, writer)
        watched = Watched(model, ids, self.config, teacher=teacher, total_steps=total_steps)
        check_signs(list(watched.weights.values()))
        self._panel = Panel(standard() if instruments is None else instruments, watched)
        self.flips = self._panel.flips
        self._trajectories = self._panel.trajectories
        self._listeners = self._panel.listeners
        if writer is not None:
            _check_declared(self._panel.own, writer)
        self._handles: list[RemovableHandle] = []
        self._stepped = 0
        self._inside = self._loaded = False
        self._scalars: list[dict[str, float]] = []
        self._pending: list[Rows] = []
        self._flushed_at = time.monotonic()

    @property
    def steps(self) -> int:
        """Applied steps seen so far."""
        return self.flips.steps

    @property
    def state_bytes(self) -> int:
        """Bytes that counting takes, all weights together; scratch and tables included."""
        return self.flips.tracker.state_bytes()

    def __enter__(self) -> Self:
        try:
            if not self._loaded:
                self._pending += self._panel.start()
            self._panel.rehearse()
            self._attach()
            if self._writer is None:
                self._writer = self._make_writer()
        except BaseException:
            self._detach()
            raise
        self._inside = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._detach()
        try:
            self._finish(error)
        except Exception as failure:
            if error is None:
                raise
            error.add_note(f"the watch could not store its last rows: {failure}")

    def close(self) -> None:
        """Remove every hook and store what is left, the counts of each weight among it; a second call does nothing."""
        self.__exit__(None, None, None)

    def step(
        self,
        *,
        loss: float | Tensor | None = None,
        applied: bool | None = None,
        **scalars: float | Tensor,
    ) -> None:
        """Look at the model after an optimizer step.

        Args:
            loss: Of the step.
            applied: Whether the optimizer changed the weights; None finds out from the optimizer, if it is known, and
                else takes it for granted. A step that was not applied is not counted; skipped_steps is.
            scalars: Further columns of the record: epoch, lr, grad_norm, accuracy, validation_loss.

        Raises:
            ConfigError: If a scalar's name is unknown, or the watch is not entered.
        """
        if not self._inside:
            raise ConfigError(
                "the watch is not entered; call step() inside `with Watch(...) as watch:`"
            )
        for name in scalars:
            if name not in _SCALARS:
                raise ConfigError(unknown_name("scalar", name, _SCALARS))
        if not self._was_applied(applied):
            self.skipped_steps += 1
            return
        self._pending.append(self._panel.step())
        self._panel.listen()
        given = scalars if loss is None else {"loss": loss, **scalars}
        self._scalars.append(
            {"step": self.steps, **{name: _number(value) for name, value in given.items()}}
        )
        waited = time.monotonic() - self._flushed_at
        if len(self._scalars) >= _FLUSH_STEPS or waited >= _FLUSH_SECONDS:
            self._flush()

    def state_dict(self) -> dict[str, Tensor]:
        """Return all that the next step depends on, as tensors, and hand the rows so far to the writer.

        Take it between steps; the checkpoint it goes to then has all its rows on record once the writer is sealed.
        """
        self._flush()
        state = self._panel.state_dict()
        state["layout"] = self._layout()
        state["skipped_steps"] = torch.tensor(self.skipped_steps)
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a state_dict, before or after the watch is entered; rows of the old run are dropped.

        Raises:
            CheckpointError: If it is of other sites or instruments.
        """
        layout = state.get("layout")
        if layout is None or not torch.equal(layout.cpu(), self._layout()):
            raise CheckpointError(
                "the watch's state is of other sites; resume with the model and sites that wrote the checkpoint"
            )
        self._panel.load_state_dict(state)
        self.skipped_steps = int(state["skipped_steps"])
        self._loaded = True
        self._pending, self._scalars, self._stepped = [], [], 0
        if self._inside:
            self._panel.listen()

    def _layout(self) -> Tensor:
        spans = self.flips.tracker.spans
        rows = [
            [zlib.crc32(site.name.encode()), stop - start]
            for site, (start, stop) in zip(self.flips.sites, spans, strict=True)
        ]
        return torch.tensor(rows, dtype=torch.int64).view(-1, 2)

    def _make_writer(self) -> RunWriter:
        info = {
            "kind": "watched",
            "sites": describe_sites(self.sites),
            **describe_environment(self.flips.tracker.device),
            **self._info,
        }
        writer = RunWriter(self.run_dir, info=info, measures=self._panel.own)
        writer.write_status("running", self.steps, self.total_steps)
        return writer

    def _attach(self) -> None:
        if self._optimizer is None:
            if self._trajectories is not None:
                self._handles += self._trajectories.hook_gradients()
        else:
            self._handles.append(self._optimizer.register_step_pre_hook(self._before_step))
            self._handles.append(self._optimizer.register_step_post_hook(self._after_step))
        self._panel.listen()

    def _detach(self) -> None:
        self._inside = False
        self._panel.deafen()
        while self._handles:
            self._handles.pop().remove()

    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if self._trajectories is not None:
            self._trajectories.gather_gradients()

    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        # Fused optimizers take the scaler's verdict with them and skip inside; it is 1 where a gradient overflowed.
        found_inf = getattr(optimizer, "found_inf", None)
        if not (isinstance(found_inf, Tensor) and bool((found_inf != 0).any())):
            self._stepped += 1

    def _was_applied(self, applied: bool | None) -> bool:
        stepped, self._stepped = self._stepped, 0
        if applied is not None:
            return applied
        if self._optimizer is None:
            return True
        if stepped > 1:
            warnings.warn(
                f"the optimizer stepped {stepped} times since the last watch.step(); call it after each step,"
                " or flips between them are missed",
                RuntimeWarning,
                stacklevel=3,
            )
        return stepped > 0

    def _flush(self) -> None:
        self._flushed_at = time.monotonic()
        writer = self._writer
        if writer is None:
            return
        scalars, self._scalars = self._scalars, []
        pending, self._pending = self._pending, []
        if scalars:
            names = dict.fromkeys(name for row in scalars for name in row)
            nan = float("nan")
            writer.append("scalars", {n: [row.get(n, nan) for row in scalars] for n in names})
        for rows in pending:
            if rows.metrics:
                writer.append("sites", rows.site_columns())
            if rows.histograms["step"]:
                writer.append("histograms", rows.histograms)
            if rows.channels["step"]:
                writer.append("channels", rows.channels)
        trajectories = {} if self._trajectories is None else self._trajectories.drain()
        if trajectories:
            writer.append("trajectories", trajectories)

    def _finish(self, error: BaseException | None) -> None:
        writer, self._writer = self._writer, None
        if writer is None:
            return
        self._writer = writer
        try:
            self._flush()
            for position, site in enumerate(self.flips.sites):
                writer.write_counts(site.name, **self.flips.counts(position))
            if self._owns_writer:
                state, text = _end_state(error)
                writer.write_status(state, self.steps, self.total_steps, text)
        finally:
            self._writer = None
            if self._owns_writer:
                writer.close()


def _end_state(error: BaseException | None) -> tuple[str, str | None]:
    if error is None:
        return "finished", None
    text = f"{type(error).__name__}: {error}"
    return ("failed", text) if isinstance(error, Exception) else ("interrupted", text)


def _check_declared(own: Iterable[Measure], writer: RunWriter) -> None:
    for one in own:
        if writer.measures.get(one.name) != one:
            raise ConfigError(
                f"the writer that is given does not declare measure {one.name!r}; open it with"
                " RunWriter(..., measures=instruments.declared_by(instruments))"
            )


def _number(value: float | Tensor) -> float:
    return float(value.detach()) if isinstance(value, Tensor) else float(value)


def _distinct(sites: Sequence[Site]) -> list[Site]:
    """Leave out weights that share a storage with an earlier site."""
    kept, seen = [], set()
    for site in sites:
        if site.latent is not None:
            place = (site.latent.data_ptr(), site.latent.numel())
            if place in seen:
                continue
            seen.add(place)
        kept.append(site)
    names = [site.name for site in kept]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"two sites are named {twice[0]!r}; give each site its own name")
    return kept


def _site_ids(sites: Sequence[Site], writer: RunWriter | None) -> dict[int, Site]:
    if writer is None:
        return dict(enumerate(sites))
    for site in sites:
        if site.name not in writer.site_ids:
            raise ConfigError(unknown_name("site of the run", site.name, writer.site_ids))
    return {writer.site_ids[site.name]: site for site in sites}
