"""Figures of what activations keep after their sign: entropy, error, agreement with the float twin."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from bvit_analysis import tables
from bvit_analysis.errors import ConfigError, unknown_name
from bvit_analysis.plots import style
from bvit_analysis.plots.bimodality import histogram_table
from bvit_analysis.plots.overlay import looks
from bvit_analysis.plots.series import STEP, Data, last_values, over_steps, site_data
from bvit_analysis.records import MEASURES, Run
from bvit_analysis.tables.channels import NEAR_CONSTANT_BITS
from bvit_analysis.tables.seeds import counted, without_diverged

Over = Literal["sites", "steps"]
Kind = Literal["activation", "attention"]


@style.bvit()
def plot_sign_entropy(
    data: Data,
    *,
    ax: Axes | None = None,
    over: Over = "sites",
    kind: Kind = "activation",
    corrected: bool = True,
) -> Axes:
    """Draw the mean entropy of a channel's sign: per site late in training, or over training.

    H = -p log2 p - (1-p) log2(1-p) of p = P(sign = +1), per channel first, then averaged.

    Args:
        data: Run, runs, or a site_frame with the column.
        ax: Where to draw; None makes a figure.
        over: 'sites' draws the last tenth of training site by site, 'steps' the mean over sites.
        kind: 'activation', or 'attention' for the {0,1} attention bits.
        corrected: With the Miller-Madow correction for the number of observations.

    Returns:
        The axes.

    Raises:
        ConfigError: If ``over`` or ``kind`` is unknown.
    """
    name = "sign_entropy_bits" if corrected else "sign_entropy_plugin_bits"
    return _draw(data, ax, name, over, kind, hint=", 1 = balanced")


@style.bvit()
def plot_binarization_error(
    data: Data, *, ax: Axes | None = None, over: Over = "sites", kind: Kind = "activation"
) -> Axes:
    """Draw the share of an activation's variance that its sign loses: 1 - corr(x, sign x)^2.

    Args:
        data: Run, runs, or a site_frame with the column.
        ax: Where to draw; None makes a figure.
        over: 'sites' draws the last tenth of training site by site, 'steps' the mean over sites.
        kind: 'activation' or 'attention'.

    Returns:
        The axes, with the value of Gaussian activations, 1 - 2/pi.

    Raises:
        ConfigError: If ``over`` or ``kind`` is unknown.
    """
    return _draw(data, ax, "binarization_error", over, kind)


@style.bvit()
def plot_twin_agreement(
    data: Data, *, ax: Axes | None = None, over: Over = "sites", kind: Kind = "activation"
) -> Axes:
    """Draw how often a binary activation has the sign of the float teacher's at the same place.

    Args:
        data: Run, runs, or a site_frame with the column.
        ax: Where to draw; None makes a figure.
        over: 'sites' draws the last tenth of training site by site, 'steps' the mean over sites.
        kind: 'activation' or 'attention'.

    Returns:
        The axes, with one half, the value of independent balanced signs.

    Raises:
        ConfigError: If ``over`` or ``kind`` is unknown.
    """
    return _draw(data, ax, "twin_agreement", over, kind)


@style.bvit()
def plot_near_constant(data: Data, *, ax: Axes | None = None, over: Over = "steps") -> Axes:
    """Draw the share of channels whose sign hardly ever changes: entropy below 0.5 bit.

    Args:
        data: Run, runs, or a site_frame with near_constant_share.
        ax: Where to draw; None makes a figure.
        over: 'sites' draws the last tenth of training site by site, 'steps' the mean over sites.

    Returns:
        The axes.

    Raises:
        ConfigError: If ``over`` is unknown.
    """
    return _draw(data, ax, "near_constant_share", over, "activation")


def _draw(data: Data, ax: Axes | None, name: str, over: Over, kind: Kind, hint: str = "") -> Axes:
    known = MEASURES[name]
    title, label = known.title, known.unit + hint
    if over not in ("sites", "steps"):
        raise ConfigError(unknown_name("value of over", over, ("sites", "steps")))
    if kind not in ("activation", "attention"):
        raise ConfigError(unknown_name("kind of site", kind, ("activation", "attention")))
    frame = site_data(data, [name], kind=kind).dropna(subset=[name])
    count = frame["site"].nunique()
    height = min(11.0, 1.5 + 0.19 * max(12, count)) if over == "sites" else 4.0
    ax = style.axes(ax, height=height)
    if frame.empty:
        return style.nothing(ax, f"{title}: nothing of {kind} sites is recorded in these runs.")
    if known.null is not None:
        text, number = known.null_words, f"{known.null:.3g}"
        if over == "sites":
            style.null_line(ax, known.null, f"{text}: {number}", vertical=True)
        else:
            style.null_line(ax, known.null, text, number=number)
    means = tables.mean_over_sites(frame, name)
    title = f"{title} of attention bits" if kind == "attention" else title
    if over == "steps":
        over_steps(ax, means, name)
        style.titles(ax, title=f"{title}, mean over sites", x=STEP, y=label)
    else:
        _by_site(ax, frame, name)
        style.titles(ax, title=f"{title}, last tenth of training", x=label)
    style.describe(
        ax, f"{title} of {count} {kind} sites. Mean at the last step: {last_values(means, name)}."
    )
    return style.note(ax, tables.unverified_sentence(frame, kind=kind))


def _by_site(ax: Axes, frame: pd.DataFrame, name: str) -> None:
    late = tables.late_by_site(without_diverged(frame), name)
    sites = late.drop_duplicates("site").sort_values("order")["site"].tolist()
    position = {site: index for index, site in enumerate(sites)}
    recipes = tables.ordered(late["recipe"])
    colours, markers = style.colours(recipes), style.markers(recipes)
    for nudge, recipe in zip(_nudges(len(recipes)), recipes, strict=True):
        rows = late[late["recipe"] == recipe]
        means = rows.groupby("site")[name].mean()
        ax.plot(
            means.to_numpy(),
            [position[site] + nudge for site in means.index],
            linestyle="none",
            marker=markers[recipe],
            markersize=5,
            markeredgecolor="white",
            markeredgewidth=0.5,
            color=colours[recipe],
            label=f"{style.clip(recipe, 30)} ({counted(rows, 'site')})",
        )
    style.category_ticks(ax, sites)
    ax.set_ylim(len(sites) - 0.4, -0.6)
    style.legend(ax)


def _nudges(count: int) -> np.ndarray:
    return np.linspace(-0.2, 0.2, count) if count > 1 else np.zeros(count)


@style.bvit()
def plot_channel_entropy(
    data: tables.Runs, *, ax: Axes | None = None, site: str | None = None
) -> Axes:
    """Draw how channels share out by the entropy of their sign, at the last recorded step.

    The cumulative share of channels at or below each entropy; a curve that hugs the lower right
    corner has no dead channels. Near-constant channels lie in the shaded part.

    Args:
        data: Run or runs; the channels of a recipe's seeds are pooled.
        ax: Where to draw; None makes a figure.
        site: One activation site; None takes all.

    Returns:
        The axes.
    """
    pooled: dict[str, np.ndarray] = {}
    ends = (0.0, 1.0)
    tables.check_site(tables.binary_runs(data), site)
    for run in tables.binary_runs(data):
        table = histogram_table(run, site=site, kind="channel_entropy")
        if not table.empty:
            last = table.iloc[-1]
            ends = (float(last["lo"]), float(last["hi"]))
            recipe = tables.recipe_of(run)
            pooled[recipe] = pooled.get(recipe, 0) + np.asarray(last["counts"], dtype=np.int64)
    ax = style.axes(ax)
    if not pooled:
        return style.nothing(ax, "No channel entropies are recorded in these runs (yet).")
    colours = style.colours(pooled)
    shares = {}
    for recipe in tables.ordered(pooled):
        counts = pooled[recipe]
        edges = np.linspace(*ends, len(counts) + 1)
        below = np.concatenate([[0.0], np.cumsum(counts) / max(1, counts.sum())])
        shares[recipe] = float(np.interp(NEAR_CONSTANT_BITS, edges, below))
        ax.plot(edges, below, color=colours[recipe], label=style.clip(recipe, 30))
    ax.axvspan(0.0, NEAR_CONSTANT_BITS, color="#EFEFEF", zorder=0, label="near-constant")
    ax.set_xlim(0.0, 1.0)
    ax.set_ylim(0.0, 1.02)
    where = "all activation sites" if site is None else site
    style.titles(
        ax,
        title=f"Channels by entropy: {where}",
        x="sign entropy of a channel (bits)",
        y="share of channels at or below",
    )
    style.legend(ax)
    text = ", ".join(f"{recipe} {share:.1%}" for recipe, share in shares.items())
    style.describe(ax, f"Cumulative share of channels by sign entropy. Below 0.5 bit: {text}.")
    sites = None if site is None else [site]
    doubt = tables.unverified_sentence(tables.binary_runs(data), kind="activation", sites=sites)
    return style.note(ax, doubt)


@style.bvit()
def plot_channels(
    runs: tables.Runs,
    *,
    ax: Axes | None = None,
    site: str | None = None,
    step: int | None = None,
) -> Axes:
    """Draw the sign entropy of each channel of one site, channels sorted, near-constant ones marked.

    H = -p log2 p - (1 - p) log2(1 - p) of p = P(sign = +1) of the channel, Miller-Madow corrected. A marked
    channel is below half a bit; its mark points up where it is nearly always +1 and down where -1.

    Args:
        runs: Run or runs, laid over each other.
        ax: Where to draw; None makes a figure.
        site: One activation site; None takes the first that is recorded.
        step: The last recorded step at or before this one; None takes the last.

    Returns:
        The axes; each run's line goes from its least to its most informative channel.
    """
    chosen = tables.binary_runs(runs)
    ax = style.axes(ax)
    site = site if site is not None else _first_counted(chosen)
    drawn, steps, most = [], [], 0
    for run, look in zip(chosen, looks(chosen), strict=True):
        taken, table = channels_at(run, site, step)
        if table.empty:
            continue
        table = table.sort_values("entropy_bits", ignore_index=True)
        rank = np.arange(1, len(table) + 1)
        ax.plot(rank, table["entropy_bits"], color=look.colour, ls=look.line, label=look.name)
        for sign, marker in ((True, "^"), (False, "v")):
            marked = table["near_constant"] & ((table["positive_share"] >= 0.5) == sign)
            ax.plot(
                rank[marked],
                table.loc[marked, "entropy_bits"],
                linestyle="none",
                marker=marker,
                markersize=6,
                color=look.colour,
                zorder=3,
            )
        most = max(most, len(table))
        steps.append(taken)
        dead, mean = int(table["near_constant"].sum()), table["entropy_bits"].mean()
        drawn.append(f"{look.name} {dead} of {len(table)} near-constant, mean {mean:.2f} bits")
    if not drawn:
        return style.nothing(
            ax, "The signs of single channels are not recorded in these runs at this site."
        )
    label = "near-constant:\nmostly +1 up, -1 down"
    ax.axhspan(0.0, NEAR_CONSTANT_BITS, color="#EFEFEF", zorder=0, label=label)
    ax.set_xlim(0.5 - 0.01 * most, most + 0.5 + 0.01 * most)
    ax.set_ylim(-0.03, 1.06)
    several = dict.fromkeys(steps)
    when = f"step{'s' if len(several) > 1 else ''} {' and '.join(map(str, several))}"
    style.titles(
        ax,
        title=f"{site}, {when}",
        x="channel, least informative first",
        y="sign entropy (bits)",
    )
    style.legend(ax)
    style.describe(ax, f"Sign entropy of the channels of {site} at {when}: {'; '.join(drawn)}.")
    return style.note(ax, tables.unverified_sentence(chosen, sites=[str(site)]))


def channels_at(
    run: Run, site: str | None, step: int | None = None
) -> tuple[int | None, pd.DataFrame]:
    """Return the recorded step that stands for a step, and channel_entropy there; None and no rows without one."""
    steps = [] if site is None else tables.channel_steps(run, site)
    taken = tables.step_at(steps, step)
    if site is None or taken is None:
        return None, pd.DataFrame()
    return taken, tables.channel_entropy(run, site, taken)


def _first_counted(runs: list[Run]) -> str | None:
    return next((site for run in runs for site in tables.channel_sites(run)), None)
