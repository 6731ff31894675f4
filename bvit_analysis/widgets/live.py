"""A run watched while it is written: progress, the curves so far, and the state in words."""

from __future__ import annotations

import base64
import contextlib
import html
import math
import os
import re
import signal
import time
import warnings
from collections import deque
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol, final

import ipywidgets as W
from IPython import get_ipython
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bvit_analysis import plots, tables
from bvit_analysis.errors import BvitError, ConfigError
from bvit_analysis.outputs import ALT_KEY
from bvit_analysis.plots import style
from bvit_analysis.plots.export import save_shown
from bvit_analysis.records import Run, RunWarning, load_run
from bvit_analysis.widgets.base import safe
from bvit_analysis.widgets.screen import ScreenImage, quick_png

OVER = ("finished", "failed", "interrupted", "silent")
"States after which nothing more is written, unless somebody takes the run up again."

_BARS = {"finished": "success", "failed": "danger", "interrupted": "warning", "silent": "warning"}
_SIZE = (3.4, 2.4)  # inches of one of the three plots
_SPEED_S = 30.0  # the speed is that of about so many last seconds
_MOST_WORDS = 500  # characters of an error that are shown
_MOST_BYTES = 8192  # of what a process said last


class Started(Protocol):
    """A process that was started; subprocess.Popen is one."""

    def poll(self) -> int | None:
        """Return the exit code, or None while it runs."""


@final
class LiveRun(W.VBox):  # type: ignore[misc]
    """State in words, progress and three curves of a run, brought up to date while somebody trains it.

    It only reads the run folder, so the training may be in another process, and be begun before or after.

    Args:
        run_dir: The run folder; it need not be there yet.
        title: What it is called; empty takes the folder's name.
    """

    def __init__(self, run_dir: str | Path, *, title: str = "") -> None:
        super().__init__()
        self.run_dir = Path(run_dir)
        self.title = style.clip(title or self.run_dir.name)
        self.run: Run | None = None
        self.state = "waiting"
        self.words = ""
        self.alt = ""
        self._speed = _Speed()
        self._drawn: object = None
        self._shown: Run | None = None
        self._began = time.monotonic()
        self.bar = W.IntProgress(min=0, max=1, layout=W.Layout(width="100%", max_width="640px"))
        self.bar.add_class("bvit-progress")
        self.text = W.HTML()
        self.text.add_class("bvit-finding")
        self.image = ScreenImage(layout=W.Layout(max_width="100%", object_fit="contain"))
        self.image.add_class("bvit-panel").add_class("bvit-panel-live")
        self.children = (self.text, self.bar, self.image)
        self.add_class("bvit-live")
        self.update()

    def update(self) -> bool:
        """Read the folder once and show what is there.

        Returns:
            Whether more may come: False once the run is over, True while it runs or has not begun.
        """
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", RunWarning)
                self.run = run = load_run(self.run_dir)
                self._draw(run)
                words = self._running(run) if run.state == "running" else _ended(run)
            self.state = run.state
            notes = [str(one.message) for one in caught]
            self._say(words, [*filter(None, [tables.unverified_sentence(run)]), *notes])
        except (BvitError, OSError) as error:
            begun = (self.run_dir / "run.json").exists()
            self.state = "failed" if begun else "waiting"
            waited = f"Waiting for the first record: {time.monotonic() - self._began:.0f} s so far."
            self._say(f"This run cannot be read: {error}" if begun else waited)
            if not self.image.value:
                self._draw(None)
        return self.state not in OVER

    def follow(
        self,
        process: Started | BaseProcess | None = None,
        *,
        every: float = 0.5,
        patience: float = 60.0,
        show: bool = True,
    ) -> str:
        """Show the run and keep it up to date until it is over; this blocks.

        A process counts for more than an old record: a run that failed once and is taken up again is followed until
        its process ends. A Popen with ``stderr=subprocess.PIPE`` is also told by its last line if it fails.

        Args:
            process: Who trains; None trusts what the folder says.
            every: Seconds between two looks; folders that are slow to read are looked at less often.
            patience: Seconds to wait for a run to begin, where no process is given.
            show: Whether to display the widget, if this is a notebook.

        Returns:
            The state at the end: finished, failed, interrupted or silent; waiting if none was begun.

        Raises:
            ConfigError: If a number of seconds is not above zero.
        """
        for name, seconds in (("every", every), ("patience", patience)):
            if not seconds > 0:
                raise ConfigError(f"{name} must be above 0 seconds, got {seconds}")
        shown = display(self, display_id=True) if show and get_ipython() is not None else None
        try:
            self._follow(process, every, patience)
        except KeyboardInterrupt:
            # A notebook's stop button reaches the training too, which then stores a checkpoint.
            _wait(process, 10.0)
            self.update()
            raise KeyboardInterrupt(f"stopped looking at {self.run_dir.name}") from None
        finally:
            if shown is not None:
                shown.update(self)  # a stored notebook then has the last picture, not the first
        return self.state

    def _follow(self, process: Started | BaseProcess | None, every: float, patience: float) -> None:
        tail = b""
        while True:
            looked = time.monotonic()
            code = _exit_code(process)
            more = self.update()
            tail = _last_bytes(process, tail)
            if code is not None:
                self._say_exit(code, _last_line(tail))
                return
            if self.state == "finished" or (process is None and not more):
                return
            if process is not None and not more:
                self._say(f"Being taken up again. Until now: {self.words}")
            elif process is None and self.state == "waiting" and looked - self._began > patience:
                self._say(f"No run was begun here within {patience:.0f} s.")
                return
            # A watcher must not take the processor from the training it watches.
            time.sleep(max(every, 3 * (time.monotonic() - looked)))

    def _say_exit(self, code: int, last: str) -> None:
        if self.state == "finished" and code == 0:
            return
        how = f"exit code {code}"
        if code < 0:
            with contextlib.suppress(ValueError):
                how = signal.Signals(-code).name
        ended = f"The process ended with {how}" + (f": {last}" if last else ".")
        if self.state == "waiting":
            self.state = "failed"
            self._say(f"{ended} No run was begun.")
        elif self.state in ("running", "silent"):
            self.state = "silent"
            step = _step(self.run) if self.run is not None else 0
            self._say(f"{ended} What was recorded up to step {step} is kept.")
        elif self.state == "finished":
            self._say(f"{self.words} {ended}")

    def _running(self, run: Run) -> str:
        total = _total(run)
        parts = [f"Training: step {_step(run)}" + (f" of {total}" if total else "")]
        speed = self._speed.of(run)
        images = run.timings["images_per_s"]
        if len(images):
            parts.append(f"{images.iloc[-1]:.0f} images/s")
        elif speed:
            parts.append(f"{speed:.3g} steps/s")
        if speed and total > _step(run):
            parts.append(f"about {_duration((total - _step(run)) / speed)} left")
        return ", ".join([*parts, *_accuracy(run)]) + "."

    def _draw(self, run: Run | None) -> None:
        key = None if run is None else (run.label, _step(run), len(run.scalars), len(run.sites))
        if self.image.value and key == self._drawn:
            return
        self._drawn, self._shown = key, run
        figure = self._curves()
        self.image.value = quick_png(figure)
        self.alt = style.alt_text(figure)
        self.image.tooltip = self.alt

    def _curves(self) -> Figure:
        figure, axes = style.panels(1, 3, width=_SIZE[0], height=_SIZE[1])
        plot_live(self._shown, list(axes[0]))
        return figure

    def figure(self) -> Figure:
        """Return the curves with title and state above them, as a new figure: what a stored notebook shows."""
        figure = self._curves()
        figure.set_figheight(_SIZE[1] + 0.35)
        caption = style.clip(f"{self.title}. {self.words}", 140)
        figure.suptitle(caption, x=0.01, ha="left", fontsize=10, parse_math=False)
        return figure

    def _say(self, words: str, notes: list[str] | None = None) -> None:
        self.words = style.clip(words, _MOST_WORDS)
        lines = [f"<b>{html.escape(self.title)}</b>", html.escape(self.words)]
        lines += [f"<small>{safe(note, 200)}</small>" for note in (notes or [])[:3]]
        self.text.value = f"<p>{'<br>'.join(lines)}</p>"
        step = _step(self.run) if self.run is not None else 0
        self.bar.max = max(1, step, _total(self.run) if self.run is not None else 0)
        self.bar.value = step
        self.bar.bar_style = _BARS.get(self.state, "info")

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        bundle = super()._repr_mimebundle_(**kwargs)
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        data["text/plain"] = f"{self.title}. {self.words}"
        data["image/png"] = base64.b64encode(quick_png(self.figure())).decode("ascii")
        alt = f"{self.title}. {self.words} {self.alt}"
        # Only the last of the pictures that were shown meanwhile is one to keep.
        saved = save_shown({"": self.figure}) if self.state in OVER else {}
        return data, {**metadata, "image/png": {ALT_KEY: alt, **saved}}


@final
class _Speed:
    """Steps a second, from the heartbeats seen lately."""

    def __init__(self) -> None:
        self.seen: deque[tuple[float, int]] = deque()

    def of(self, run: Run) -> float:
        """Return steps/s with this look counted in, 0 while unknown."""
        beat, seen = run.status.get("heartbeat"), self.seen
        if not isinstance(beat, (int, float)) or not math.isfinite(beat):
            return 0.0
        if seen and run.step < seen[-1][1]:
            seen.clear()  # taken up again from an earlier checkpoint
        if not seen or (beat > seen[-1][0] and run.step > seen[-1][1]):
            seen.append((float(beat), run.step))
        while len(seen) > 2 and seen[-1][0] - seen[1][0] > _SPEED_S:
            seen.popleft()
        seconds = seen[-1][0] - seen[0][0]
        return (seen[-1][1] - seen[0][1]) / seconds if seconds > 0 else 0.0


@style.bvit()
def plot_live(run: Run | None, axes: list[Axes]) -> None:
    """Draw loss, validation accuracy and flip rate so far on three small axes, steps up to the planned end."""
    if run is None:
        for ax in axes:
            style.nothing(ax, "Nothing is recorded yet.")
        return
    plots.plot_loss(run, ax=axes[0], by="run", window=10)
    plots.plot_accuracy(run, ax=axes[1], by="run")
    if tables.binary_runs(run):
        plots.plot_flip_rate(run, ax=axes[2], by="run")
    else:
        style.nothing(axes[2], "A float run: nothing is binary, so nothing flips.")
    names = ("Loss (nats)", "Validation accuracy (share)", "Flips per weight and step")
    for ax, name in zip(axes, names, strict=True):
        if ax.axison:
            legend = ax.get_legend()
            if legend is not None:
                legend.remove()
            ax.set_xlim(0, max(1, _step(run), _total(run)))
            style.titles(ax, title=name, x=style.STEP)


def _step(run: Run) -> int:
    """Return the last step that is told or recorded: either may be ahead."""
    return max(run.step, int(run.scalars["step"].max()) if len(run.scalars) else 0)


def _total(run: Run) -> int:
    total = run.status.get("total_steps")
    return total if type(total) is int and 0 < total < 2**31 else 0


def _accuracy(run: Run) -> list[str]:
    known = run.scalars["accuracy"].dropna()
    return [f"validation accuracy {known.iloc[-1]:.1%}"] if len(known) else []


def _ended(run: Run) -> str:
    if run.state == "finished":
        parts = [f"Finished: {_step(run)} steps", *_accuracy(run)]
        test = (run.result or {}).get("test_accuracy")
        if isinstance(test, float):
            parts.append(f"test accuracy {test:.1%}")
        return ", ".join(parts) + "."
    if run.state == "failed":
        return f"Failed at step {_step(run)}: {run.status.get('error') or 'no reason is recorded'}"
    if run.state == "interrupted":
        return f"Interrupted at step {_step(run)}; the command that began it goes on from its last checkpoint."
    return (
        f"No sign of life since step {_step(run)}: its process is gone. What it recorded is kept."
    )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _exit_code(process: Started | BaseProcess | None) -> int | None:
    if process is None:
        return None
    return process.exitcode if isinstance(process, BaseProcess) else process.poll()


def _wait(process: Started | BaseProcess | None, seconds: float) -> None:
    until = time.monotonic() + seconds
    while process is not None and _exit_code(process) is None and time.monotonic() < until:
        time.sleep(0.05)


def _last_bytes(process: object, before: bytes) -> bytes:
    """Empty the pipe that a process writes its errors to, so that it never waits for a reader, and keep the end."""
    pipe = getattr(process, "stderr", None)
    with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or not a real pipe
        number = pipe.fileno()  # type: ignore[union-attr]
        os.set_blocking(number, False)
        while piece := os.read(number, _MOST_BYTES):
            before = (before + piece)[-_MOST_BYTES:]
    return before


def _last_line(said: bytes) -> str:
    lines = re.split(r"[\r\n]+", said.decode("utf-8", "replace"))
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
