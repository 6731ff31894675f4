"""Atlases of one or two runs side by side, drawn once, with cells and marks that can be moved."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from bvit_analysis import plots, tables
from bvit_analysis.plots import style
from bvit_analysis.plots.flips import atlas_cells, atlas_text
from bvit_analysis.records import Run
from bvit_analysis.widgets.screen import Ground

SIZE = (9.4, 3.5)
"Of the picture, inches; as wide as a notebook's column."

MARK = "#D55E00"
"Colour of the frame around the chosen site."


class AtlasMap:
    """One atlas in a picture, with cells, title and marks that can be moved."""

    def __init__(self, ax: Axes) -> None:
        mesh: Any = ax.collections[0]
        self.mesh = mesh
        self.title = ax.set_title(" ")
        low, high = ax.get_ylim()
        dashes: dict[str, Any] = {"color": "white", "linewidth": 1.2, "linestyle": (0, (4, 3))}
        ends = mesh.get_coordinates()[0, [0, -1], 0]
        self.ends = [ax.plot([0, 0], [0, 1], **dashes)[0] for _ in ends]
        self.box = Rectangle((0, 0), 1, 1, fill=False, edgecolor=MARK, linewidth=2.2)
        self.box.set_clip_on(False)
        ax.add_patch(self.box)
        ax.set_xlim(*ends)  # marks must not stretch the axes
        ax.set_ylim(low, high)
        self.sites: tuple[str, ...] = ()

    @property
    def marks(self) -> list[Any]:
        return [self.mesh, *self.ends, self.box, self.title]

    def show(self, run: Run, found: tables.Atlas, metric: str) -> None:
        """Take the cells of a run whose sites and steps are those of the map."""
        self.sites = found.sites
        self.mesh.set_array(atlas_cells(found))
        self.title.set_text(style.clip(run.label, 40))  # the colour bar names the measure
        self.title.set_parse_math(False)
        style.describe(self.mesh.axes, atlas_text(run, metric, found))

    def mark(self, site: str | None, window: tuple[int, int]) -> None:
        """Frame a site within a window of steps."""
        self.box.set_visible(site in self.sites)
        if site in self.sites:
            self.box.set_bounds(window[0], self.sites.index(site) - 0.5, window[1] - window[0], 1)
        for line, step in zip(self.ends, window, strict=True):
            line.set_data([step, step], [-0.5, len(self.sites) - 0.5])


def side_by_side(
    runs: list[Run], founds: list[tables.Atlas], metric: str, limits: tuple[float, float]
) -> list[AtlasMap]:
    """Draw the atlases of one or two runs side by side, with one colour bar."""
    width, height = SIZE
    alike = len({found.sites for found in founds}) == 1
    longest = max(len(style.clip(site, 32)) for found in founds for site in found.sites)
    margin = 0.2 + 0.068 * longest  # inches that names of sites need
    room = width - margin * (1 if alike else len(runs)) - 1.05 - 0.32 * (len(runs) - 1)
    across, bottom, up = room / len(runs) / width, 0.5 / height, (height - 0.85) / height
    left = margin / width
    with style.bvit():
        figure = style.figure(width, height)
        figure.set_layout_engine(None)
        bar = figure.add_axes((1 - 0.95 / width, bottom, 0.16 / width, up))
        places = []
        for _ in runs:  # all before the first is drawn, whose note makes the figure higher
            places.append(figure.add_axes((left, bottom, across, up)))
            left += across + (0.32 if alike else margin + 0.32) / width
        maps = []
        for number, (run, ax) in enumerate(zip(runs, places, strict=True)):
            last = number == len(runs) - 1
            plots.plot_flip_atlas(
                run, ax=ax, metric=metric, limits=limits, bar=bar if last else "none"
            )
            if number and alike:
                ax.tick_params(labelleft=False)
            maps.append(AtlasMap(ax))
    Ground(figure, [mark for one in maps for mark in one.marks])
    return maps
