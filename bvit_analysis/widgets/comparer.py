"""Runs compared: their curves, their figures, and the table behind both."""

from __future__ import annotations

import base64
import functools
import html
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import ipywidgets as W
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bvit_analysis import plots, tables
from bvit_analysis.files import write_bytes_atomic
from bvit_analysis.plots import style
from bvit_analysis.plots.comparison import (
    HUES,
    compared_frame,
    compared_text,
    dress,
    hue_colours,
    hue_legend,
    running_mean,
)
from bvit_analysis.records import Run
from bvit_analysis.tables import csv_text
from bvit_analysis.widgets.base import Explorer, read_runs, run_names, safe
from bvit_analysis.widgets.screen import Ground, fixed, wiped

MEASURES = {
    "accuracy": "accuracy",
    "flips": "flip_rate",
    "bimodality": "bimodality_coefficient",
    "entropy": "sign_entropy_bits",
}
"Panel and the measure it shows."

_SMALL = (4.6, 2.5)  # inches of one of the four panels
# The lab's own style hides that a link is one, and breaks numbers over lines.
_LINK = "color:#0072B2;text-decoration:underline"
_FRAME = "overflow-x:auto;max-height:24em;white-space:nowrap;line-height:1.5;font-size:90%"
_TEXT_COLUMNS = ("run_id", "label", "recipe", "seed", "scale", "state", "steps")


@final
class RunComparer(Explorer):
    """Choose any set of runs and see their accuracy, flips, bimodality and entropy in one view.

    Args:
        runs: Runs, or folders of runs; float ones show their accuracy.
    """

    def __init__(self, runs: Run | str | Path | Sequence[Run | str | Path]) -> None:
        super().__init__("Runs compared")
        self.names = run_names(read_runs(runs))
        listed = list(self.names.values())
        self.table = tables.run_table(listed)
        self.table.insert(0, "run", list(self.names))
        self._frames = _frames(self.names)
        self._grounds: dict[str, tuple[Ground | None, Figure, dict[Any, Line2D]]] = {}
        self._scatter_stage = fixed(7.2, 3.1, left=0.75, right=2.3)
        binary = [name for name, run in self.names.items() if tables.recipe_of(run) != tables.FLOAT]
        rows = [(f"{name}: {style.clip(run.label, 40)}", name) for name, run in self.names.items()]
        chosen = self.control(
            "runs",
            W.SelectMultiple(
                options=rows,
                value=binary or list(self.names),
                description="runs",
                rows=min(14, max(4, len(rows))),
            ),
        )
        colour = self.control(
            "colour",
            W.Dropdown(options=[(f"by {hue}", hue) for hue in HUES], description="colour"),
        )
        self._metrics = tables.metrics_of(listed)
        known = [name for name in self._metrics if name != "test_accuracy"]
        evidence = self.control(
            "evidence",
            W.Dropdown(options=known, value="late_flip_rate", description="evidence"),
        )
        smooth = self.control(
            "smooth",
            W.IntSlider(
                min=1, max=25, value=3, description="smooth flips", continuous_update=False
            ),
        )
        smooth.style.description_width = "initial"
        chosen.layout.width = "310px"
        chosen.style.description_width = "40px"
        images = []
        for panel, name in MEASURES.items():
            # the rest is recorded too seldom to be smoothed
            reads = ["runs", "colour", *(["smooth"] if name == "flip_rate" else [])]
            images.append(self.panel(panel, functools.partial(self._curves, panel), reads))
        scatter = self.panel("scatter", self._scatter, ["runs", "colour", "evidence"])
        self.listing = W.HTML()
        self.listing.add_class("bvit-table")
        wrap = W.Layout(flex_flow="row wrap", align_items="flex-start")
        self.children = [
            W.HBox([colour, evidence, smooth], layout=wrap),
            self.finding,
            W.HBox(images[:2], layout=wrap),
            W.HBox(images[2:], layout=wrap),
            W.HBox([chosen, scatter], layout=wrap),
            self.listing,
        ]
        chosen.observe(lambda _: self._list(), names="value")
        self.begin()
        self._list()

    def _chosen(self) -> dict[Any, Any]:
        """Return the colour of each chosen run."""
        rows = self.chosen_rows()
        return hue_colours(rows, self.value("colour")) if len(rows) else {}

    def chosen_rows(self) -> pd.DataFrame:
        """Return the rows of the table for the chosen runs."""
        return self.table[self.table["run"].isin(self.value("runs"))]

    def _curves(self, panel: str) -> Figure:
        name, frame = MEASURES[panel], self._frames[MEASURES[panel]]
        if panel not in self._grounds:
            figure, (ax,) = fixed(*_SMALL, left=0.75)
            plots.plot_compared(frame, name, ax=ax, chosen={})
            lines = {line.get_gid(): line for line in ax.get_lines()}
            ground = Ground(figure, list(lines.values())) if lines else None
            self._grounds[panel] = ground, figure, lines
        ground, figure, lines = self._grounds[panel]
        if ground is not None:
            chosen = self._chosen()
            smooth = self.value("smooth") if name == "flip_rate" else 1
            dress(lines, chosen)
            for run, rows in frame.groupby("run", sort=False):
                lines[run].set_ydata(running_mean(rows[name].to_numpy(), smooth))
            ground.marks.sort(key=lambda line: line.get_zorder())
            style.describe(figure.axes[0], compared_text(frame, name, chosen))
        return figure

    def _scatter(self) -> Figure:
        figure, axes = self._scatter_stage
        (ax,) = wiped(axes)
        rows, chosen = self.chosen_rows(), self._chosen()
        plots.plot_run_scatter(self.table, self.value("evidence"), ax=ax, chosen=chosen)
        with style.bvit():
            ax.set_title("A point a run; grey ones are not chosen" if ax.axison else "")
            if len(rows):
                handles = hue_legend(rows, self.value("colour"))
                many = len(handles) > 14
                style.legend(ax, handles=[*handles[:14], *([style.key("...", "none")] * many)])
        return figure

    # the table

    def to_csv(self) -> str:
        """Return the table of the chosen runs as CSV; text that looks like a formula is made harmless."""
        return csv_text(self.chosen_rows().drop(columns="run"))

    def save_csv(self, path: str | Path) -> Path:
        """Write the table of the chosen runs as a CSV file and return its path.

        Raises:
            RunError: If it cannot be written.
        """
        write_bytes_atomic(Path(path), self.to_csv().encode())
        return Path(path)

    def _list(self) -> None:
        self.listing.value = self.table_html()

    def table_html(self) -> str:
        """Return the table of the chosen runs as escaped HTML, with a link that saves it."""
        rows = self.chosen_rows().drop(columns="run")
        if rows.empty:
            return "<p>No run is chosen.</p>"
        data = base64.b64encode(self.to_csv().encode()).decode("ascii")
        head = "".join(
            f'<th style="padding:0 0.6em">{safe(_words(name))}</th>' for name in rows.columns
        )
        body = "".join(
            "<tr>"
            + "".join(_cell(name, row[name], self._metrics.get(name)) for name in rows.columns)
            + "</tr>"
            for row in rows.to_dict("records")
        )
        return (
            f'<p><a download="runs.csv" style="{_LINK}"'
            f' href="data:text/csv;charset=utf-8;base64,{data}">'
            f"Save these {len(rows)} rows as CSV</a></p>"
            f'<div style="{_FRAME}"><table class="bvit-runs">'
            f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        )

    # words

    def say(self) -> str:
        """Return accuracy and late flip rate of the chosen runs by recipe, with their numbers."""
        rows = self.chosen_rows()
        rows = rows[rows["recipe"] != tables.FLOAT]
        if rows.empty:
            return "No run that binarizes is chosen."
        parts = []
        for recipe in tables.ordered(rows["recipe"]):
            one = rows[rows["recipe"] == recipe]
            accuracy, rate = one["test_accuracy"].mean(), one["late_flip_rate"].mean()
            text = f"{style.clip(recipe, 30)} (n={len(one)})"
            text += "" if math.isnan(accuracy) else f" {accuracy:.1%}"
            text += "" if math.isnan(rate) else f" with {rate:.2g} late flips per weight and step"
            parts.append(text)
        most = max(len(rows[rows["recipe"] == recipe]) for recipe in set(rows["recipe"]))
        hedge = " Fewer than three seeds a recipe: differences may be chance." if most < 3 else ""
        chosen = [self.names[name] for name in rows["run"]]
        notes = filter(None, (tables.levels_sentence(chosen), tables.unverified_sentence(chosen)))
        return " ".join([f"Mean test accuracy: {'; '.join(parts)}.{hedge}", *notes])

    def rows(self) -> list[list[str]]:
        """Return the panels as they lie in one picture."""
        return [["accuracy", "flips"], ["bimodality", "entropy"], ["scatter"]]

    def _sets(self) -> dict[tuple[str, ...], str]:
        """Return sets of runs worth looking at, with their names."""
        rows = self.table[self.table["recipe"] != tables.FLOAT]
        sets: dict[tuple[str, ...], str] = {tuple(self.value("runs")): "chosen runs"}
        for column, word in (("recipe", "only {}"), ("seed", "only seed {}")):
            for value in rows[column].dropna().drop_duplicates():
                names = tuple(rows.loc[rows[column] == value, "run"])
                sets.setdefault(names, style.clip(word.format(value), 40))
        return sets

    def story(self) -> dict[str, list[Any]]:
        """Return each recipe and each seed apart, and a few measures of evidence, for a stored copy."""
        if not self.names:
            return {}
        measures = ["late_flip_rate", "bimodality_coefficient", "sign_entropy_bits"]
        return {"runs": list(self._sets()), "evidence": measures}

    def option_text(self, name: str, value: Any) -> str:
        """Return how a control shows a value; sets of runs have names."""
        if name == "runs":
            return self._sets().get(tuple(value), f"{len(value)} runs")
        return super().option_text(name, value)


def _frames(names: dict[str, Run]) -> dict[str, pd.DataFrame]:
    """Return the frame of each measure, with the names of the runs in its column run."""
    everyone = list(names)
    binary = [name for name, run in names.items() if tables.recipe_of(run) != tables.FLOAT]
    runs = list(names.values())
    frames = {}
    for name in MEASURES.values():
        frame = compared_frame(runs, name)
        of = everyone if name == "accuracy" else binary
        frames[name] = frame.assign(run=[of[int(position)] for position in frame["run"]])
    return frames


def _words(column: str) -> str:
    return column.replace("_", " ")


def _cell(name: str, value: object, known: tables.Metric | None) -> str:
    if isinstance(value, float) and name not in _TEXT_COLUMNS:
        form = ".2%" if name.endswith("accuracy") or known is None else known.form
        text = "" if math.isnan(value) else format(value, form)
        return f'<td style="text-align:right;padding:0 0.6em">{text}</td>'
    text = html.escape(style.clip(str(value), 60))
    return f'<td style="text-align:left;padding:0 0.6em">{text}</td>'
