"""The oscillation atlas: where signs flip, which weights flip most there, and one of them step by step."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any, TypeVar, final

import ipywidgets as W
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from bvit_analysis import plots, tables
from bvit_analysis.plots import style
from bvit_analysis.plots.flips import atlas_notes
from bvit_analysis.records import Run
from bvit_analysis.tables.weights import inside, rank_weights
from bvit_analysis.widgets.atlas_map import SIZE, AtlasMap, side_by_side
from bvit_analysis.widgets.base import Explorer, read_runs, run_names
from bvit_analysis.widgets.screen import fixed, wiped
from bvit_analysis.widgets.weight_words import row_of, weight_text

NONE = "none"
"Choice of no second run."

LEVELS = "level_change_rate"
"What takes the place of the flip rate where weights have more than two levels."

_WARM = (
    0.1  # the window begins after so much of the run: first signs that settle are no oscillation
)
_SHOWS = 6  # flips of one weight that are seen to go back and forth
_GROUNDS = 16
_READY = 16  # runs
_T = TypeVar("_T")


@final
class OscillationExplorer(Explorer):
    """Choose a run, a site and a window of steps, and see which weights oscillate there, and how.

    Args:
        runs: Runs, or folders of runs; those that binarize are offered.
    """

    def __init__(self, runs: Run | str | Path | Sequence[Run | str | Path]) -> None:
        super().__init__("Oscillation atlas")
        self.runs = run_names(tables.binary_runs(read_runs(runs)))
        offered = list(tables.atlas_choices(list(self.runs.values())))
        self._flipless = {
            (name, one.site): one
            for name, run in self.runs.items()
            for one in tables.multilevel(run)
        }
        shown = next((name for name in ("flip_rate", LEVELS) if name in offered), offered[0])
        self._all = tables.site_frame(list(self.runs.values()), offered, kind="weight")
        self._kept: dict[Hashable, Any] = {}
        self._grounds: dict[Hashable, list[AtlasMap]] = {}
        self._stages = {
            "ranking": fixed(3.3, 3.1, left=0.95),
            "ranks": fixed(3.7, 3.1),
            "trajectory": fixed(7.1, 3.9, rows=3, left=0.85, heights=(3, 2, 1.2)),
        }
        first = next(iter(self.runs), None)
        for ax in self._stages["trajectory"][1]:
            ax.yaxis.set_label_coords(-0.105, 0.5)
        for name in list(self.runs)[:_READY]:  # read now, so that nobody waits at the first choice
            self._late(name)
            self._found(name, shown)
        run = self.control(
            "run", W.Dropdown(options=list(self.runs), value=first, description="run")
        )
        beside = self.control(
            "beside",
            W.Dropdown(
                options=[NONE, *self.runs], value=self._partner(first), description="beside"
            ),
        )
        metric = self.control(
            "metric",
            W.Dropdown(options=offered, value=shown, description="measure"),
        )
        site = self.control("site", W.Select(options=[], description="site", rows=9))
        window = self.control(
            "window",
            W.IntRangeSlider(
                min=0, max=1, value=(0, 1), description="steps", continuous_update=False
            ),
        )
        self.control("weight", W.Select(options=[], description="weight", rows=9))
        window.layout.width = "100%"
        for select in (site, self.controls["weight"]):
            select.layout.width = "225px"
            select.style.description_width = "48px"
        self._offer_sites()
        window.value = (math.ceil(_WARM * window.max), window.max)
        site.value = self._telling_site()
        self._offer_weights(keep=False)

        atlas = self.panel("atlas", self._atlas, ["run", "beside", "metric", "site", "window"])
        ranking = self.panel("ranking", self._ranking, ["run", "site", "window"])
        ranks = self.panel("ranks", self._ranks, ["run", "beside", "site"])
        weight = self.panel(
            "trajectory", self._trajectory, ["run", "beside", "site", "window", "weight"]
        )
        wrap = W.Layout(flex_flow="row wrap", align_items="flex-start")
        self.children = [
            W.HBox([run, beside, metric], layout=wrap),
            window,
            self.finding,
            atlas,
            W.HBox([site, ranking, ranks], layout=wrap),
            W.HBox([self.controls["weight"], weight], layout=wrap),
        ]
        self.begin()

    # what is known of a run, worked out once

    def _once(self, key: Hashable, make: Callable[[], _T]) -> _T:
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]  # type: ignore[no-any-return]

    def _partner(self, name: str | None) -> str:
        """Return the GRS run of the same seed for a baseline one, else none."""
        if name is None or tables.recipe_of(self.runs[name]) != "baseline":
            return NONE
        seed = self.runs[name].info.get("seed")
        for other, run in self.runs.items():
            if tables.recipe_of(run) == "grs" and run.info.get("seed") == seed:
                return other
        return NONE

    def _run(self, control: str) -> Run | None:
        return self.runs.get(self.value(control))

    def _late(self, name: str | None) -> dict[str, float]:
        """Return the flip rate of each site over the last half of a run; in its last tenth few flips are left.

        Of sites of more than two levels it is the rate of their level changes.
        """

        def make() -> dict[str, float]:
            rates: dict[str, float] = {}
            frame = tables.site_frame(self.runs[name or ""], ["flip_rate", LEVELS], kind="weight")
            for measure in ("flip_rate", LEVELS):
                late = tables.late_by_site(frame, measure, share=tables.LAST_HALF)
                sites, found = late["site"].astype(str), late[measure].astype(float)
                rates |= dict(zip(sites, found, strict=True))
            return rates

        return self._once(("late", name), make) if name in self.runs else {}

    def _found(self, name: str, metric: str) -> tables.Atlas:
        run = self.runs[name]
        # another run may have measures of its own that this one lacks
        held = run if metric in run.measures else None
        return self._once(("atlas", name, metric), lambda: tables.site_atlas(held, metric))

    def _followed(self, name: str | None, site: str | None) -> pd.DataFrame | None:
        if name not in self.runs or site is None:
            return None
        return self._once(
            ("followed", name, site), lambda: tables.followed(self.runs[name or ""], site)
        )

    def _ranked(self) -> pd.DataFrame | None:
        """Return the followed weights of the chosen site, by their flips in the window."""
        rows, run = self._followed(self.value("run"), self.value("site")), self._run("run")
        if rows is None or run is None:
            return None
        shapes = run.site_table.set_index("site")["shape"]
        width = max(1, math.prod(shapes[self.value("site")][1:]))
        window = self.value("window")
        key = ("ranked", self.value("run"), self.value("site"), window)
        return self._once(key, lambda: rank_weights(rows, width, window))

    def _telling_site(self) -> str | None:
        """Return the site with the highest late flip rate among those where a followed weight shows it."""
        late = self._late(self.value("run"))
        window, best, most = self.value("window"), self.controls["site"].value, 0
        for site in sorted(late, key=lambda name: -late[name]):
            rows = self._followed(self.value("run"), site)
            flips = 0 if rows is None else inside(rows, window).groupby("index")["flip"].sum().max()
            if flips >= _SHOWS:
                return site
            if flips > most:
                best, most = site, flips
        return best

    def _limits(self) -> tuple[float, float]:
        metric = self.value("metric")
        return self._once(("limits", metric), lambda: tables.colour_limits(self._all, metric))

    # what a control may choose from

    def adapt(self, name: str) -> None:
        """Offer the sites and steps of the new run, and the weights of the new site, keeping what still exists."""
        if name == "run":
            self._offer_sites()
        if name in ("run", "site", "window"):
            self._offer_weights(keep=True)

    def _offer_sites(self) -> None:
        run, site, window = self._run("run"), self.controls["site"], self.controls["window"]
        sites = tables.weight_sites(run) if run else []
        chosen = site.value
        site.options = [(style.clip(name), name) for name in sites]
        late = self._late(self.value("run"))
        top = max(late, key=lambda name: late[name]) if late else next(iter(sites), None)
        site.value = chosen if chosen in sites else top
        last = max(1, run.step if run else 1)
        if last != window.max:
            low, high = window.value
            window.max = last
            window.value = (
                (low, high) if low < last and high <= last else (math.ceil(_WARM * last), last)
            )

    def _offer_weights(self, *, keep: bool) -> None:
        weight, ranked = self.controls["weight"], self._ranked()
        chosen = weight.value
        rows = [] if ranked is None else ranked.to_dict("records")
        weight.options = [
            (f"[{row['output']}, {row['input']}]  {self._turns()}: {row['flips']}", row["index"])
            for row in rows
        ]
        known = [row["index"] for row in rows]
        weight.value = chosen if keep and chosen in known else next(iter(known), None)

    # pictures

    def _atlas(self) -> Figure:
        metric = self.value("metric")
        names = [self.value("run"), self.value("beside")]
        founds = {
            name: self._found(name, metric) for name in dict.fromkeys(names) if name in self.runs
        }
        shown = [name for name in names if name in founds and founds[name].sites]
        if not shown:
            figure, (ax,) = fixed(*SIZE)
            levels = tables.levels_sentence([self.runs[name] for name in founds], measure=metric)
            nothing = f"No {metric} of weight sites is recorded in these runs (yet)."
            style.nothing(ax, levels or nothing)
            return figure
        forms = [(founds[name].sites, founds[name].edges.tobytes()) for name in shown]
        notes = [tuple(atlas_notes(self.runs[name], metric, founds[name])) for name in shown]
        key = (metric, *forms, *notes)  # the notes stand in the ground
        if key not in self._grounds:
            while len(self._grounds) >= _GROUNDS:
                self._grounds.pop(next(iter(self._grounds)))
            runs = [self.runs[name] for name in shown]
            self._grounds[key] = side_by_side(
                runs, [founds[name] for name in shown], metric, self._limits()
            )
        maps = self._grounds[key]
        for one, name in zip(maps, shown, strict=True):
            one.show(self.runs[name], founds[name], metric)
            one.mark(self.value("site"), self.value("window"))
        return maps[0].mesh.figure

    def _ranking(self) -> Figure:
        figure, axes = self._stages["ranking"]
        (ax,) = wiped(axes)
        run, site = self._run("run"), self.value("site")
        colour = style.colours([tables.recipe_of(run)])[tables.recipe_of(run)] if run else None
        plots.plot_flip_ranking(
            self._ranked(), ax=ax, site=site, window=self.value("window"), colour=colour
        )
        flips = self._turns() == "flips"
        _retitle(ax, "Most oscillating in the window" if flips else "Most sign changes there")
        return figure

    def _ranks(self) -> Figure:
        figure, axes = self._stages["ranks"]
        (ax,) = wiped(axes)
        names = dict.fromkeys([self.value("run"), self.value("beside")])
        chosen = [self.runs[name] for name in names if name in self.runs]
        plots.plot_flip_ranks(chosen, ax=ax, site=self.value("site"))
        _retitle(ax, "All weights, whole run")
        return figure

    def _trajectory(self) -> Figure:
        figure, axes = self._stages["trajectory"]
        latent, gradient, sign = wiped(axes)
        site, index, window = self.value("site"), self.value("weight"), self.value("window")
        rows: dict[str, pd.DataFrame] = {}
        for name in dict.fromkeys([self.value("run"), self.value("beside")]):
            found = self._followed(name, site)
            if found is not None and (inside(found, window)["index"] == index).any():
                rows[name] = found
        if self.value("run") not in rows:
            for ax in (gradient, sign):
                ax.set_axis_off()
                style.describe(ax, "")
            style.nothing(latent, "No trajectory of a single weight is recorded here.")
            _retitle(latent, "")
            return figure
        recipes = {name: tables.recipe_of(self.runs[name]) for name in rows}
        colours = style.colours(recipes.values())
        first = self.value("run")
        for name in reversed(rows):  # the chosen run last: it lies on top, and describes the axes
            again = name != first and recipes[name] == recipes[first]
            for ax, values in ((latent, "latent"), (gradient, "gradient"), (sign, "sign")):
                plots.plot_weight(
                    rows[name],
                    ax=ax,
                    site=site,
                    index=index,
                    values=values,  # type: ignore[arg-type]
                    window=window,
                    colour="#999999" if again else colours[recipes[name]],
                    label=style.clip(self.runs[name].label, 30),
                )
        row = row_of(self._ranked(), index)
        where = f"{style.clip(str(site), 34)} [{row.get('output')}, {row.get('input')}]"
        with style.bvit():
            for ax, label in ((latent, "latent weight"), (gradient, "gradient"), (sign, "sign")):
                ax.set_ylabel(label)
                dot = "a flip" if self._turns() == "flips" else "a sign change"
                ax.set_title(f"{where}: a dot is {dot}" if ax is latent else "")
                ax.set_xlabel(style.STEP if ax is sign else "")
            # an exponent in the corner would lie on the axes above
            latent.yaxis.set_major_locator(MaxNLocator(4))
            gradient.yaxis.set_major_locator(MaxNLocator(3))
            gradient.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.2g}"))
            if len(rows) > 1:
                handles = latent.get_legend_handles_labels()[0][::-1]
                corner: dict[str, Any] = {"loc": "lower right", "bbox_to_anchor": (1.0, 0.97)}
                latent.legend(handles=handles, ncols=2, **corner)
            style.literal(latent)
        return figure

    # words

    def say(self) -> str:
        """Return the late flip rates at the site, and how often and how soon the weight comes back."""
        name, site = self.value("run"), self.value("site")
        if name not in self.runs:
            return "No run that binarizes is given, so there is nothing to explore."
        if site is None:
            return f"{style.clip(self.runs[name].label)} has no weight sites."
        words = []
        shown = [one for one in dict.fromkeys((name, self.value("beside"))) if one in self.runs]
        where = style.clip(str(site), 60)
        for what in ("flips", "level changes"):
            known = [
                f"{self._late(one)[site]:.2g} in {style.clip(self.runs[one].label, 40)}"
                for one in shown
                if site in self._late(one)
                and (what == "level changes") == ((one, site) in self._flipless)
            ]
            if known:
                words.append(
                    f"At {where}, in the last half of training, {what} per weight and step: "
                    f"{', '.join(known)}."
                )
        row = row_of(self._ranked(), self.value("weight"))
        words.append(weight_text(row, self.value("window"), flips=self._turns() == "flips"))
        listed = [self.runs[one] for one in shown]
        words.append(tables.levels_sentence(listed, sites=[site]))
        words.append(tables.unverified_sentence(listed, kind="weight", sites=[site]))
        return " ".join(filter(None, words))

    def _turns(self) -> str:
        """Return what a change of sign is called at the chosen site: 'flips', or 'sign changes' of several levels."""
        here = (self.value("run"), self.controls["site"].value)
        return "sign changes" if here in self._flipless else "flips"

    def rows(self) -> list[list[str]]:
        """Return the panels as they lie in one picture."""
        return [["atlas"], ["ranking", "ranks"], ["trajectory"]]

    def story(self) -> dict[str, list[Any]]:
        """Return a run of each recipe that has the sites of the present one, and those sites."""
        if not self.runs:
            return {}
        sites = [value for _, value in self.controls["site"].options]
        recipes = {tables.recipe_of(self.runs[self.value("run")]): self.value("run")}
        for name, run in self.runs.items():
            if tables.weight_sites(run) == sites:
                recipes.setdefault(tables.recipe_of(run), name)
        names = [name for name in self.runs if name in recipes.values()]
        return {"run": names, "site": sites} if sites else {"run": [self.value("run")]}


def _retitle(ax: Axes, title: str) -> None:
    with style.bvit():
        if ax.axison:
            ax.set_title(title)
            style.literal(ax)
