"""What every explorer is made of: controls, pictures that follow them, and frames for readers without a kernel."""

from __future__ import annotations

import base64
import html
import itertools
import os
from abc import ABCMeta, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, final

import ipywidgets as W
from matplotlib.figure import Figure

from bvit_analysis import tables
from bvit_analysis.errors import ConfigError, unknown_name
from bvit_analysis.outputs import (
    ALT_KEY,
    FRAMES,
    FRAMES_MIME,
    FRAMES_VARIABLE,
    FRAMES_VERSION,
    StoredFrames,
    StoredPicture,
)
from bvit_analysis.plots import style
from bvit_analysis.plots.export import save_shown
from bvit_analysis.records import Run
from bvit_analysis.widgets.screen import ScreenImage, arranged, lighter, quick_png

_KEPT = 64  # pictures a panel remembers, some tens of KB each


@dataclass(frozen=True)
class Drawn:
    """A picture as it is shown."""

    png: bytes
    alt: str
    "What a reader is told who does not see it."


@final
class Panel:
    """One picture of an explorer: how it is drawn, which controls it follows, and the widget that shows it."""

    def __init__(self, draw: Callable[[], Figure], reads: Sequence[str]) -> None:
        self.draw = draw
        self.reads = tuple(reads)
        self.image = ScreenImage(layout=W.Layout(max_width="100%", object_fit="contain"))
        self.image.add_class("bvit-panel")
        self.known: OrderedDict[str, Drawn] = OrderedDict()
        self.shown = ""


class _AbstractWidget(ABCMeta, type(W.VBox)):  # type: ignore[misc]
    """Lets a widget have abstract methods: traitlets' metaclass and abc's do not know each other."""


class Explorer(W.VBox, metaclass=_AbstractWidget):  # type: ignore[misc]
    """Controls and pictures that follow them; works in JupyterLab, in a test, and as stored frames.

    A subclass makes its controls with `control()`, its pictures with `panel()`, arranges both and ends its
    constructor with `begin()`. A picture is a pure function of the controls it reads, so it is drawn once a setting.
    """

    def __init__(self, title: str) -> None:
        super().__init__()
        self.title = title
        self.controls: dict[str, Any] = {}
        self.panels: dict[str, Panel] = {}
        self.finding = W.HTML()
        self.finding.add_class("bvit-finding")
        self._quiet = 0
        self._adapting = False
        self._stale: set[str] = set()

    @abstractmethod
    def say(self) -> str:
        """Return what the pictures show at the present setting, one or two sentences of plain text."""

    @abstractmethod
    def story(self) -> dict[str, list[Any]]:
        """Return the controls worth turning in a stored copy, each with the values to store, present one included.

        Every combination must be a setting that `set()` takes, in this order.
        """

    def adapt(self, name: str) -> None:  # noqa: B027  most explorers have nothing to do here
        """Bring the options of other controls in line with the new value of this one.

        Runs at once, before anything is drawn and before the next control of `set()` is turned, so
        register controls in the order in which they decide over each other.
        """

    def rows(self) -> list[list[str]]:
        """Return the names of the panels as they lie beside and below each other in one picture."""
        return [[name] for name in self.panels]

    def control(self, name: str, widget: Any) -> Any:
        """Register a widget whose `value` decides what is drawn, and return it."""
        self.controls[name] = widget
        widget.add_class(f"bvit-{name}")
        return widget

    def panel(self, name: str, draw: Callable[[], Figure], reads: Sequence[str]) -> W.Image:
        """Register a picture and return the widget that shows it.

        Args:
            name: Of the picture.
            draw: Makes the figure from the present values of the controls in `reads`, and of nothing else that changes.
            reads: Names of those controls.
        """
        self.panels[name] = Panel(draw, reads)
        self.panels[name].image.add_class(f"bvit-panel-{name}")
        return self.panels[name].image

    def begin(self) -> None:
        """Watch the controls and draw for the first time; the last line of a constructor."""
        for name, panel in self.panels.items():
            for control in panel.reads:
                if control not in self.controls:
                    raise ConfigError(
                        unknown_name(f"control of panel {name!r}", control, self.controls)
                    )
        for name, widget in self.controls.items():
            widget.observe(lambda _, name=name: self._changed(name), names="value")
        self.redraw()

    def value(self, name: str) -> Any:
        """Return the present value of a control."""
        return self.controls[name].value

    def set(self, **values: Any) -> Explorer:
        """Turn controls by name, as a hand would; pictures are drawn once, at the end.

        Raises:
            ConfigError: If a control is unknown or does not take the value.
        """
        with self.quiet():
            for name, value in values.items():
                if name not in self.controls:
                    raise ConfigError(unknown_name("control", name, self.controls))
                try:
                    self.controls[name].value = value
                except Exception as error:  # traitlets raises several kinds
                    raise ConfigError(
                        f"control {name!r} does not take {value!r}: {error}"
                    ) from error
        return self

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Hold the drawing back while several controls change."""
        self._quiet += 1
        try:
            yield
        finally:
            self._quiet -= 1
            if not self._quiet and self._stale:
                self.redraw(self._stale)

    def _changed(self, name: str) -> None:
        self._stale.add(name)
        if self._adapting:
            return  # what set this one off goes on to adapt the rest, and then draws
        with self.quiet():
            self._adapting = True
            try:
                self.adapt(name)
            finally:
                self._adapting = False

    def redraw(self, changed: Collection[str] | None = None) -> None:
        """Draw the pictures that read one of the changed controls, None for all."""
        names = list(self.controls if changed is None else changed)
        self._stale = set()
        for name, panel in self.panels.items():
            key = self._key(panel)
            if panel.shown != key and (changed is None or not set(panel.reads).isdisjoint(names)):
                drawn = self.picture(name)
                panel.image.value = drawn.png
                panel.image.tooltip = drawn.alt
                panel.shown = key
        self.finding.value = f"<p>{html.escape(self.say())}</p>"

    def _key(self, panel: Panel) -> str:
        return repr([(name, self.controls[name].value) for name in panel.reads])

    def figure(self, name: str) -> Figure:
        """Return a picture as a figure, at the present setting; look at it before the next change.

        Raises:
            ConfigError: If there is no such picture.
        """
        if name not in self.panels:
            raise ConfigError(unknown_name("panel", name, self.panels))
        return self.panels[name].draw()

    def picture(self, name: str) -> Drawn:
        """Return a picture as bytes, at the present setting; drawn only if it has not been lately."""
        panel = self.panels[name]
        key = self._key(panel)
        if key in panel.known:
            panel.known.move_to_end(key)
            return panel.known[key]
        figure = panel.draw()
        panel.known[key] = drawn = Drawn(quick_png(figure), style.alt_text(figure))
        if len(panel.known) > _KEPT:
            panel.known.popitem(last=False)
        return drawn

    def frames(self, limit: int = FRAMES) -> StoredFrames:
        """Return the pictures for many settings, for a page without a kernel.

        Args:
            limit: Settings at most; a longer story is thinned evenly.

        Returns:
            JSON; each picture is in it once.
        """
        present = {name: widget.value for name, widget in self.controls.items()}
        story = thinned(self.story(), present, limit)
        pictures: dict[bytes, int] = {}
        stored: list[StoredPicture] = []
        shown: dict[str, list[int]] = {name: [] for name in self.panels}
        findings: list[str] = []
        try:
            for values in itertools.product(*story.values()):
                with self.quiet():
                    # From the present each time: what follows from a setting must not depend on the last.
                    self.set(**present)
                    self.set(**dict(zip(story, values, strict=True)))
                findings.append(self.say())
                for name in self.panels:
                    drawn = self.picture(name)
                    if drawn.png not in pictures:
                        pictures[drawn.png] = len(stored)
                        png = base64.b64encode(lighter(drawn.png)).decode("ascii")
                        stored.append({"png": png, "alt": drawn.alt})
                    shown[name].append(pictures[drawn.png])
        finally:
            self.set(**present)
        return {
            "version": FRAMES_VERSION,
            "title": self.title,
            "controls": [
                {
                    "name": name,
                    "label": str(getattr(self.controls[name], "description", "")) or name,
                    "options": [self.option_text(name, value) for value in values],
                    "start": values.index(present[name]),
                }
                for name, values in story.items()
            ],
            "panels": [{"name": name, "frames": frames} for name, frames in shown.items()],
            "findings": findings,
            "pictures": stored,
        }

    def option_text(self, name: str, value: Any) -> str:
        """Return how a control shows a value."""
        options = getattr(self.controls[name], "_options_full", None)
        for label, known in options or ():
            if known is value or known == value:
                return str(label)
        if isinstance(value, float):
            return f"{value:.4g}"
        if isinstance(value, tuple):
            joint = ", " if options is not None else " to "
            parts = (f"{part:g}" if isinstance(part, float) else str(part) for part in value)
            return joint.join(parts) or "none"
        return str(value)

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        bundle = super()._repr_mimebundle_(**kwargs)
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        drawn = {name: self.picture(name) for name in self.panels}
        alt = " ".join([self.say(), *(one.alt for one in drawn.values())])
        data["text/plain"] = f"{self.title}. {self.say()}"
        if drawn:
            rows = [[drawn[name].png for name in row] for row in self.rows()]
            png = base64.b64encode(arranged(rows)).decode("ascii")
            data["image/png"] = png  # what a reader sees where widgets are not drawn
            saved = save_shown({name: partial(self.figure, name) for name in self.panels})
            metadata = {**metadata, "image/png": {ALT_KEY: alt, **saved}}
        limit = int(os.environ.get(FRAMES_VARIABLE, "0") or 0)
        if limit > 0 and self.panels:
            data[FRAMES_MIME] = self.frames(limit)
        return data, metadata


def thinned(
    story: Mapping[str, Sequence[Any]], present: Mapping[str, Any], limit: int
) -> dict[str, list[Any]]:
    """Return a story with at most so many combinations: the longest list loses values, never the present one."""
    kept = {}
    for name, values in story.items():
        kept[name] = [value for i, value in enumerate(values) if value not in values[:i]]
        if present[name] not in kept[name]:
            kept[name].insert(0, present[name])
    while _product(kept) > max(1, limit):
        longest = max(kept, key=lambda name: len(kept[name]))
        values = kept[longest]
        at = values.index(present[longest])
        # The neighbours in the middle say least that is new; both ends and the present value stay.
        spare = [i for i in range(1, len(values) - 1) if i != at]
        spare = spare or [i for i in range(len(values)) if i != at]
        drop = spare[len(spare) // 2] if len(spare) < 3 else None
        kept[longest] = (
            [value for i, value in enumerate(values) if i != drop]
            if drop is not None
            else [
                value
                for i, value in enumerate(values)
                if i not in spare[1::2][: max(1, len(spare) // 3)]
            ]
        )
    return kept


def _product(story: Mapping[str, Sequence[Any]]) -> int:
    total = 1
    for values in story.values():
        total *= len(values)
    return total


def safe(text: object, most: int = 80) -> str:
    """Return text from a run folder for use in HTML: one line, cut, escaped."""
    return html.escape(style.clip(str(text), most))


def run_names(runs: Sequence[Run]) -> dict[str, Run]:
    """Return the runs by a short name that is theirs alone: the run's own, counted where it repeats."""
    names: dict[str, Run] = {}
    for run in runs:
        name, again = style.clip(run.run_id), 1
        while name in names:
            again += 1
            name = f"{style.clip(run.run_id)} ({again})"
        names[name] = run
    return names


def read_runs(runs: Run | str | Path | Sequence[Run | str | Path]) -> list[Run]:
    """Return runs in the fixed order of recipes and seeds; paths among them are loaded.

    Raises:
        RunError: If a path has no run in it.
    """
    listed = [runs] if isinstance(runs, (Run, str, Path)) else list(runs)
    found = [one for one in listed if isinstance(one, Run)]
    paths = [one for one in listed if not isinstance(one, Run)]
    return tables.in_order([*found, *(tables.load_runs(paths) if paths else [])])
