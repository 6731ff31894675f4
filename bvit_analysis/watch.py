"""Watch: instruments, their cadence and a run folder, for any training loop and any binarizer."""

from __future__ import annotations

import shutil
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, final

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from bvit_analysis.config import WatchConfig
from bvit_analysis.environment import describe_environment
from bvit_analysis.errors import CheckpointError, ConfigError, unknown_name
from bvit_analysis.instruments import Instrument, Rows, Watched
from bvit_analysis.instruments.compiled import forget_compiled
from bvit_analysis.instruments.identity import Identities, check_alone
from bvit_analysis.instruments.inspection import Inspection
from bvit_analysis.instruments.optimizer import StepHooks, check_moves
from bvit_analysis.instruments.standard import Panel, standard
from bvit_analysis.records import SCHEMAS, RunWriter, check_name
from bvit_analysis.sites import Site, describe_sites, distinct, find_sites

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

    The first forward pass, and one every so often, shows whether the tracked signs are those that the model uses. A
    wrong one is refused in that first pass; what could not be seen is said, and stands in run.json.

    Args:
        model: The model that is trained, of any kind that has sites.
        run_dir: Folder of the run, made here unless a writer is given; its name is the run id.
        sites: What find_sites returned; None finds the layers of this package. Weights that share a storage count
            once.
        config: What is measured how often.
        optimizer: If given, step() finds out whether the optimizer really stepped (a GradScaler may skip it), and
            recorded gradients are those that the update used. What wraps an optimizer will do: of accelerate,
            Lightning, Lookahead, SAM or PARQ.
        teacher: Float model with the same module paths, for twin_agreement; run it yourself on the same images.
        info: Further keys of run.json.
        writer: Where to record, if the run is somebody else's, who then tells its state and closes it.
        total_steps: Length of the training if known; flips in its last tenth are counted apart then.
        instruments: What measures, such as [*standard(), Mine()]; None takes the standard ones. What an instrument
            declares beside the catalogue becomes columns of the run; a writer that is given must declare it too.

    Raises:
        ConfigError: If there is nothing to watch, the optimizer moves none of it, several processes train the model, or
            what an instrument declares is wrong.
    """

    def __init__(
        self,
        model: nn.Module,
        run_dir: str | Path,
        *,
        sites: Sequence[Site] | None = None,
        config: WatchConfig | None = None,
        optimizer: Any = None,
        teacher: nn.Module | None = None,
        info: Mapping[str, Any] | None = None,
        writer: RunWriter | None = None,
        total_steps: int | None = None,
        instruments: Iterable[Instrument] | None = None,
    ) -> None:
        self.run_dir = Path(run_dir)
        check_name(self.run_dir.name)
        self.config = config or WatchConfig()
        self.sites = distinct(find_sites(model) if sites is None else sites)
        if not self.sites and writer is None:
            raise ConfigError(
                f"found nothing binary in the {type(model).__name__}; binarize it first, or pass"
                " sites=find_sites(model, effective_sign={YourLayer: fn})"
            )
        check_alone()
        self.total_steps = total_steps
        self.skipped_steps = 0
        self._info = dict(info or {})
        self._writer, self._owns_writer = writer, writer is None
        self._ids = _site_ids(self.sites, writer)
        watched = Watched(model, self._ids, self.config, teacher=teacher, total_steps=total_steps)
        self._watched = watched
        self._identities = Identities(model, self.sites)
        self._panel = Panel(standard() if instruments is None else instruments, watched)
        self.flips = self._panel.flips
        self._trajectories = self._panel.trajectories
        self._listeners = self._panel.listeners
        self._inspection = Inspection(watched, self._panel)
        self._hooks: StepHooks | None = None
        if optimizer is not None:
            latents = [site.latent for site in self.sites if site.latent is not None]
            self._hooks = StepHooks(optimizer, latents, self._gather)
        if writer is not None:
            self._panel.check_declared(writer.measures)
        self._handles: list[RemovableHandle] = []
        self._inside = self._loaded = self._resumes = False
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

    @classmethod
    def resume(
        cls, run_dir: str | Path, model: nn.Module, state: Mapping[str, Tensor], **options: Any
    ) -> Watch:
        """Return a watch that goes on with a run, with rows equal to those of a run that was never interrupted.

        Args:
            run_dir: The folder of the run.
            model: The model, restored to where the state was taken.
            state: What state_dict() returned, saved in the same checkpoint as the model and the optimizer.
            options: As for Watch, the same as when the run began.

        Raises:
            CheckpointError: If the state is of other sites or instruments.
            ConfigError: As for Watch.
        """
        watch = cls(model, run_dir, **options)
        watch.load_state_dict(state)
        watch._resumes = True
        return watch

    def __enter__(self) -> Self:
        fresh = not self.run_dir.exists() or not any(self.run_dir.iterdir())
        self._disposable = fresh and self._owns_writer
        try:
            if self._identities.follow():
                self.flips.tracker.replan()
            if self._hooks is not None:
                check_moves(self._hooks.optimizer, self.sites)
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
        given = scalars if loss is None else {"loss": loss, **scalars}
        numbers = {name: _number(name, value) for name, value in given.items()}
        self._identities.check()
        if not self._was_applied(applied):
            self.skipped_steps += 1
            self._panel.skip()
            return
        self._pending.append(self._panel.step())
        if self._inspection.step():
            self._note_sites()
        self._panel.listen()
        self._scalars.append({"step": self.steps, **numbers})
        waited = time.monotonic() - self._flushed_at
        if len(self._scalars) >= _FLUSH_STEPS or waited >= _FLUSH_SECONDS:
            self._flush()

    @torch.no_grad()
    def rebase(self) -> int:
        """Take the weights as they are now for those after the last step, and return how many signs differed.

        For weights that were set on purpose, such as the best checkpoint's in the middle of a training: what they
        changed is no flip, and is not counted.

        Raises:
            ConfigError: If a watched module was replaced.
        """
        self._identities.follow()
        if self._hooks is not None:
            check_moves(self._hooks.optimizer, self.sites)
        changed = self._panel.rebase()
        if self._inside:
            self._inspection.look()
        return changed

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
        self._pending, self._scalars = [], []
        if self._hooks is not None:
            self._hooks.stepped = 0
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
        resume_step = self.steps if self._resumes else None
        writer = RunWriter(
            self.run_dir, info=info, measures=self._panel.own, resume_step=resume_step
        )
        writer.write_status("running", self.steps, self.total_steps)
        return writer

    def _attach(self) -> None:
        if self._hooks is not None:
            self._hooks.attach()
        elif self._trajectories is not None:
            self._handles += self._trajectories.hook_gradients()
        self._panel.listen()
        self._inspection.begin()
        forget_compiled()

    def _detach(self) -> None:
        self._inside = False
        self._panel.remove()
        self._inspection.remove()
        if self._hooks is not None:
            self._hooks.remove()
        while self._handles:
            self._handles.pop().remove()

    def _gather(self, scale: float) -> None:
        if self._trajectories is not None:
            self._trajectories.gather_gradients(scale)

    def _note_sites(self) -> None:
        if self._writer is not None:
            self._writer.note_sites(self._inspection.describe())

    def _was_applied(self, applied: bool | None) -> bool:
        stepped = 1 if self._hooks is None else self._hooks.take(warn=applied is None)
        if stepped > 0 if applied is None else applied:
            return True
        changed = self.flips.tracker.differing()
        if changed:
            raise ConfigError(
                f"no step of the optimizer was seen, but {changed} signs changed since step {self.steps}; give the watch"
                " the optimizer that moves the weights, or call watch.rebase() after setting them yourself"
            )
        return False

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
            for kind, columns in rows.tables().items():
                writer.append(kind, columns)
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
            for position, (site_id, site) in enumerate(self._watched.weights.items()):
                if site_id not in self._watched.multilevel:
                    writer.write_counts(site.name, **self.flips.counts(position))
            if error is None and self.steps:
                self._inspection.finish()
            self._note_sites()
            if self._owns_writer:
                state, text = _end_state(error)
                writer.write_status(state, self.steps, self.total_steps, text)
        finally:
            self._writer = None
            if self._owns_writer:
                writer.close()
                if error is not None and self._disposable and not self.steps:
                    shutil.rmtree(self.run_dir, ignore_errors=True)  # nothing was recorded in it


def _end_state(error: BaseException | None) -> tuple[str, str | None]:
    if error is None:
        return "finished", None
    text = f"{type(error).__name__}: {error}"
    return ("failed", text) if isinstance(error, Exception) else ("interrupted", text)


def _number(name: str, value: float | Tensor) -> float:
    try:
        return float(value.detach()) if isinstance(value, Tensor) else float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ConfigError(
            f"scalar {name!r} must be one number, got {got}; take its mean, for example"
        ) from error


def _site_ids(sites: Sequence[Site], writer: RunWriter | None) -> dict[int, Site]:
    if writer is None:
        return dict(enumerate(sites))
    for site in sites:
        if site.name not in writer.site_ids:
            raise ConfigError(unknown_name("site of the run", site.name, writer.site_ids))
    return {writer.site_ids[site.name]: site for site in sites}
