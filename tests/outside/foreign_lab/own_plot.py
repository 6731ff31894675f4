"""A plot of the lab's own: a table of runs in, axes out."""

from matplotlib.axes import Axes

from bvit_analysis import tables
from bvit_analysis.plots import style


@style.bvit()
def plot_spread(runs: tables.Runs, *, ax: Axes | None = None) -> Axes:
    """Draw the spread of row norms over training, the mean over sites, a line a run."""
    frame = tables.site_frame(runs, ["row_spread"], kind="weight").dropna(subset=["row_spread"])
    ax = style.axes(ax)
    if frame.empty:
        return style.nothing(ax, "No row_spread is recorded in these runs.")
    for label, rows in frame.groupby("run"):
        ax.plot(rows.groupby("step")["row_spread"].mean(), label=style.clip(str(label), 40))
    style.titles(ax, title="Spread of row norms", x=style.STEP, y="largest / mean")
    style.legend(ax)
    return style.describe(ax, f"Spread of row norms over training, {frame['run'].nunique()} runs.")
