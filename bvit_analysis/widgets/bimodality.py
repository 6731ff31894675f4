"""Do the latent weights part in two: histogram, ridges and statistics of any site, step by step, run over run."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, final

import ipywidgets as W
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bvit_analysis import plots, tables
from bvit_analysis.plots import style
from bvit_analysis.plots.bimodality import NO_WEIGHTS
from bvit_analysis.plots.distribution import ridge_frame, ridge_limit, ridge_marks
from bvit_analysis.plots.nulls import NO_STATISTICS, null_frame, null_marks, statistics_of
from bvit_analysis.plots.overlay import looks
from bvit_analysis.records import MEASURES, Run
from bvit_analysis.widgets.base import Explorer, read_runs, run_names
from bvit_analysis.widgets.choices import run_choices, step_choice
from bvit_analysis.widgets.screen import Ground, fixed

ALL = ""
"Value of the control `site` for all weight sites together, and of `beside` for no second run."

_STEPS = 8  # about so many are kept for a page without a kernel


@final
class BimodalityExplorer(Explorer):
    """Latent weights of any site over training, one run over another, with statistics beside their null values.

    Opens on all sites at the last step: a baseline and, laid over it, the run with gradient regularization of the
    same seed where there is one.

    Controls: run, beside (a second run or none), step (of the distribution), site (one or all).
    Pictures: histogram (over the Gaussian's density), statistics (each from Gaussian to two points), ridges (a
    ridge a site).

    Args:
        runs: Run, runs, or folders of runs; float runs are left out.
    """

    def __init__(self, runs: Run | str | Path | Sequence[Run | str | Path]) -> None:
        super().__init__("Bimodality explorer")
        listed = tables.binary_runs(read_runs(runs))
        self.runs = run_names(listed)
        self._highest: dict[tuple[str, str | None], float] = {}
        names = list(self.runs)
        first, second = tables.pair_of_seed(listed, "grs")
        sites = list(dict.fromkeys(site for run in listed for site in tables.weight_sites(run)))
        self._sites = sites
        self._ridges: Scene | None = None
        self._statistics: Scene | None = None
        steps = sorted({step for run in listed for step in tables.distribution_steps(run)}) or [0]
        for name, choice in run_choices(names, first, second).items():
            self.control(name, choice)
        self.control(
            "site",
            W.Select(
                options=[("all sites", ALL), *((style.clip(site), site) for site in sites)],
                value=ALL,
                description="site",
                rows=6,
                layout=W.Layout(width="26em"),
            ),
        )
        self.control("step", step_choice(steps))
        reads = ("run", "beside", "site", "step")
        pictures = {
            "histogram": self._draw_histogram,
            "statistics": self._draw_statistics,
            "ridges": self._draw_ridges,
        }
        images = {name: self.panel(name, draw, reads) for name, draw in pictures.items()}
        wrap = W.Layout(flex_flow="row wrap")
        choices = W.VBox([self.controls[name] for name in ("run", "beside", "step")])
        curves = W.VBox([images["histogram"], images["statistics"]])
        self.children = [
            W.HBox([choices, self.controls["site"]], layout=wrap),
            self.finding,
            W.HBox([curves, images["ridges"]], layout=wrap),
        ]
        self.begin()

    def rows(self) -> list[list[str]]:
        return [["histogram", "statistics"], ["ridges"]]

    def story(self) -> dict[str, list[Any]]:
        sites = [value for _, value in self.controls["site"].options]
        chosen = dict.fromkeys([ALL, *sites[1:2], *sites[-1:], self.value("site")])
        steps = list(self.controls["step"].options)
        stride = max(1, math.ceil((len(steps) - 1) / (_STEPS - 1)))
        kept = {*steps[::stride], steps[-1], self.value("step")}
        return {"step": sorted(kept), "site": list(chosen)}

    def say(self) -> str:
        shown = self._shown()
        site = self.value("site") or None
        parts, verdicts = [], []
        found = statistics_of(shown, site, self.value("step"))
        for look, table in zip(looks(shown), found, strict=True):
            if len(table):
                value = table.set_index("statistic")["value"]
                taken = table.attrs["step"]
                late = "" if taken == self.value("step") else f" (at its step {taken})"
                parts.append(
                    f"{look.name}{late} has a bimodality coefficient of "
                    f"{value['bimodality_coefficient']:.2f} and "
                    f"{value['mass_near_zero_010']:.1%} of its weights near zero"
                )
                careful = "Careful, " if tables.statistics_disagree(table) else ""
                verdicts.append(f"{careful}{look.name}: {tables.bimodality_verdict(table)}.")
        if not parts:
            return "No distribution of latent weights is recorded here."
        where = "Over all weight sites" if site is None else f"At {style.clip(site)}"
        return (
            f"{where}, step {self.value('step')}: {'; '.join(parts)} (Gaussian "
            f"weights: {MEASURES['bimodality_coefficient'].null:.2f} and "
            f"{MEASURES['mass_near_zero_010'].null:.1%}). " + " ".join([*verdicts, *self._doubt()])
        )

    def _doubt(self) -> list[str]:
        """Return the sentence on the unverified sites that are shown; the ridges show all of them."""
        sentence = tables.unverified_sentence(self._shown(), kind="weight")
        return [sentence] if sentence else []

    def _shown(self) -> list[Run]:
        names = dict.fromkeys((self.value("run"), self.value("beside")))
        return [self.runs[name] for name in names if name in self.runs]

    def _top(self, site: str | None) -> float:
        """Return the highest density of the shown runs over all steps, so that the slider moves no axis.

        Args:
            site: A site or ALL of them pooled; None for the highest of any one site.
        """
        names = {self.value("run"), self.value("beside")} & set(self.runs)
        for name in names:
            if (name, site) not in self._highest:
                run = self.runs[name]
                pooled = site == ALL
                top = plots.density_limit(run) if pooled else ridge_limit(run, site)
                self._highest[name, site] = top
        return max(1.0 / math.pi, *(self._highest[name, site] for name in names), 0.0)

    def _draw_histogram(self) -> Figure:
        figure, (ax,) = fixed(5.6, 2.8, right=1.75)
        site = self.value("site")
        plots.plot_latent_density(
            self._shown(),
            ax=ax,
            site=site or None,
            step=self.value("step"),
            highest=self._top(site),
        )
        return figure

    def _draw_statistics(self) -> Figure:
        shown, site = self._shown(), self.value("site") or None
        found = statistics_of(shown, site, self.value("step"))
        if not any(len(table) for table in found):
            return _empty(NO_STATISTICS)
        if self._statistics is None:
            self._statistics = Scene(*fixed(5.6, 2.9, left=1.8, right=0.3), null_frame)
        return self._statistics.show(lambda ax: null_marks(ax, shown, found, site))

    def _draw_ridges(self) -> Figure:
        shown = self._shown()
        if not any(tables.distribution_steps(run) for run in shown):
            return _empty(NO_WEIGHTS)
        if self._ridges is None:
            height = min(9.0, max(3.0, 1.2 + 0.28 * len(self._sites)))
            frame = partial(ridge_frame, sites=self._sites)
            self._ridges = Scene(*fixed(5.4, height, left=1.75), frame)
        return self._ridges.show(
            lambda ax: ridge_marks(
                ax,
                shown,
                self._sites,
                step=self.value("step"),
                highlight=self.value("site") or None,
                highest=self._top(None),
            )
        )


def _empty(sentence: str) -> Figure:
    figure, (ax,) = fixed(5.4, 1.2)
    style.nothing(ax, sentence)
    return figure


class Scene:
    """Axes drawn once, and marks that are replaced whenever a control turns.

    Args:
        figure: A figure of one axes.
        axes: Those axes, empty.
        frame: Draws into them what stays.
    """

    def __init__(self, figure: Figure, axes: list[Axes], frame: Callable[[Axes], object]) -> None:
        (self.ax,) = axes
        with style.bvit():
            frame(self.ax)
            self._title = self.ax.set_title("")
        self._ground = Ground(figure, [])

    def show(self, draw: Callable[[Axes], list[Artist]]) -> Figure:
        """Replace the marks by those that `draw` makes, the title being one of them, and return the figure."""
        figure = self._ground.figure
        before = style.noted(figure)
        style.forget_notes(figure)
        for mark in self._ground.marks:
            if mark is not self._title:
                mark.remove()
        with style.bvit():
            self._ground.marks = draw(self.ax)
        if style.noted(figure) != before:
            self._ground.forget()
        for mark in self._ground.marks:
            mark.set_animated(True)
        return figure
