"""Figures of single weights: their latent value, gradient and sign step by step, and how weights rank."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from bvit_analysis import tables
from bvit_analysis.errors import ConfigError, unknown_name
from bvit_analysis.plots import style
from bvit_analysis.plots.flips import NO_COUNTS
from bvit_analysis.plots.series import STEP, one_run
from bvit_analysis.records import Run
from bvit_analysis.tables import weights as single

_NO_TRAJECTORIES = "No trajectories of single weights are recorded in this run."
_UNITS = {"latent": "latent weight", "gradient": "gradient of the loss", "sign": "effective sign"}
_MOST_BARS = 12
_POINTS = 240


@style.bvit()
def plot_trajectories(
    run: Run | None,
    *,
    ax: Axes | None = None,
    site: str | None = None,
    weights: int = 4,
    values: Literal["latent", "gradient"] = "latent",
    window: int | None = None,
) -> Axes:
    """Draw the recorded weights that flipped most, step by step, with a mark at each flip.

    Args:
        run: One run; None draws a sentence.
        ax: Where to draw; None makes a figure.
        site: One weight site; None takes all.
        weights: How many weights to draw.
        values: 'latent' draws the latent weight, 'gradient' its gradient.
        window: Only the last so many steps; None draws all.

    Returns:
        The axes.

    Raises:
        ConfigError: If several runs are given or ``values`` is unknown.
    """
    if values not in ("latent", "gradient"):
        raise ConfigError(unknown_name("values", values, ("latent", "gradient")))
    run = one_run(run)
    tables.check_site([run] if run else [], site)
    ax = style.axes(ax)
    if run is None:
        return style.nothing(ax, _NO_TRAJECTORIES)
    ranked = most_flipping_of(run, site, window).head(weights)
    if ranked.empty:
        return style.nothing(ax, _NO_TRAJECTORIES)
    sites = dict.fromkeys(ranked["site"])
    rows = pd.concat([_last(run.trajectories_at(name), window) for name in sites])
    flipless = {one.site for one in tables.multilevel(run)}
    rows = rows.assign(site=rows["site"].astype(str))
    for colour, which in zip(style.distinct(len(ranked)), ranked.to_dict("records"), strict=True):
        one = rows[(rows["site"] == which["site"]) & (rows["index"] == which["index"])]
        flipped = (one["sign"] != one["sign"].shift()) & one["sign"].shift().notna()
        turns = "sign changes" if which["site"] in flipless else "flips"
        label = f"{style.clip(which['site'], 26)} [{which['index']}], {turns}: {which['flips']}"
        ax.plot(one["step"], one[values], color=colour, linewidth=1.1, label=label)
        ax.plot(
            one.loc[flipped, "step"],
            one.loc[flipped, values],
            color=colour,
            linestyle="none",
            marker="o",
            markersize=3.5,
            markeredgecolor="white",
            markeredgewidth=0.4,
        )
    ax.axhline(0.0, color="#333333", linewidth=0.9)
    unit = "latent weight" if values == "latent" else "gradient of the loss"
    several = flipless & set(ranked["site"])
    most = "Most sign changes" if several else "Most flipping"
    style.titles(ax, title=f"{most} of the recorded weights: {run.label}", x=STEP, y=unit)
    style.legend(ax, title="dot = sign change")
    text = ", ".join(f"{w['site']} [{w['index']}] {w['flips']}" for w in ranked.to_dict("records"))
    turns = "sign changes" if several else "flips"
    style.describe(ax, f"The {unit} of single weights over steps; {turns} of each: {text}.")
    style.note(ax, tables.levels_sentence(run, sites=ranked["site"]))
    return style.note(ax, tables.unverified_sentence(run, kind="weight", sites=ranked["site"]))


def most_flipping_of(run: Run, site: str | None = None, window: int | None = None) -> pd.DataFrame:
    """Rank a run's recorded weights by their sign changes, reading one site after the other.

    Args:
        run: The run.
        site: One site; None takes all.
        window: Of the last so many steps; None takes all.

    Returns:
        As most_flipping().
    """
    names = [site] if site is not None else run.site_table["site"]
    each = [most_flipping(_last(run.trajectories_at(name), window)) for name in names]
    ranked = pd.concat(
        [one for one in each if len(one)] or each[:1] or [most_flipping(pd.DataFrame())]
    )
    return ranked.sort_values("flips", ascending=False, kind="stable", ignore_index=True)


def _last(rows: pd.DataFrame, window: int | None) -> pd.DataFrame:
    if window is None or rows.empty:
        return rows
    return rows[rows["step"] > rows["step"].max() - window]


def most_flipping(trajectories: pd.DataFrame) -> pd.DataFrame:
    """Rank recorded weights by their sign changes.

    Args:
        trajectories: As ``run.trajectories``.

    Returns:
        Columns site, index, flips, most flips first, ties in model order.
    """
    columns = ["site", "index", "flips"]
    if trajectories.empty:
        return pd.DataFrame(columns=columns)
    rows = trajectories.sort_values(["site", "index", "step"], kind="stable")
    keys = [rows["site"], rows["index"]]
    before = rows.groupby(keys, observed=True)["sign"].shift()
    changed = (before.notna() & (before != rows["sign"])).groupby(keys, observed=True).sum()
    ranked = changed.rename("flips").reset_index()
    ranked["site"] = ranked["site"].astype(str)
    return ranked.sort_values("flips", ascending=False, kind="stable", ignore_index=True)[columns]


@style.bvit()
def plot_weight(
    data: Run | pd.DataFrame | None,
    *,
    ax: Axes | None = None,
    site: str | None = None,
    index: int | None = None,
    values: Literal["latent", "gradient", "sign"] = "latent",
    window: tuple[int, int] | None = None,
    colour: str = "#333333",
    label: str = "",
) -> Axes:
    """Draw one followed weight step by step, each flip marked.

    Args:
        data: Run, or rows as from tables.followed; None draws a sentence.
        ax: Where to draw; None makes a figure. Two weights drawn on one axes lie over each other.
        site: Its weight site; None takes the one of the run's most flipping weight. Not used for rows.
        index: The weight, flat in (O, I); None takes the one that flipped most there.
        values: 'latent', 'gradient' or 'sign'.
        window: First and last step, both included; None draws all.
        colour: Of the line.
        label: For a legend; empty takes the place of the weight.

    Returns:
        The axes.

    Raises:
        ConfigError: If several runs are given or ``values`` is unknown.
    """
    if values not in _UNITS:
        raise ConfigError(unknown_name("values", values, _UNITS))
    ax = style.axes(ax)
    where = "" if site is None else str(site)
    if not isinstance(data, pd.DataFrame):
        run = one_run(data)
        tables.check_site([run] if run else [], site)
        if run is not None and site is None:
            ranked = most_flipping_of(run)
            where = str(ranked["site"].iloc[0]) if len(ranked) else ""
        data = None if run is None else single.followed(run, where)
    rows = single.inside(data, window) if data is not None else None
    if rows is not None and index is None and len(rows):
        index = int(rows.groupby("index")["flip"].sum().idxmax())
    rows = None if rows is None else rows[rows["index"] == index]
    if rows is None or rows.empty:
        return style.nothing(ax, _NO_TRAJECTORIES)
    steps, drawn = rows["step"].to_numpy(), rows[values].to_numpy(float)
    flips = rows["flip"].to_numpy(bool)
    name = label or f"{style.clip(where, 26)} [{index}]".strip()
    if values == "sign":
        ax.step(steps, drawn, where="post", color=colour, linewidth=1.0, label=name)
        ax.set_yticks([-1, 1], ["-1", "+1"])
        ax.set_ylim(-1.5, 1.5)
    else:
        ax.axhline(0.0, color="#333333", linewidth=0.9)
        ax.plot(steps, drawn, color=colour, linewidth=1.1, label=name)
        ax.plot(
            steps[flips],
            drawn[flips],
            color=colour,
            linestyle="none",
            marker="o",
            markersize=4,
            markeredgecolor="white",
            markeredgewidth=0.5,
        )
    ax.set_xlim(*(window or (int(steps[0]), max(int(steps[-1]), int(steps[0]) + 1))))
    style.titles(ax, title=name, x=STEP, y=_UNITS[values])
    style.describe(
        ax,
        f"The {_UNITS[values]} of weight {index} {'of ' + where if where else ''} in steps {steps[0]} to "
        f"{steps[-1]}, where its sign changes {int(flips.sum())} times.",
    )
    return style.note(ax, single.sentence_of(rows))


@style.bvit()
def plot_flip_ranking(
    data: Run | pd.DataFrame | None,
    *,
    ax: Axes | None = None,
    site: str | None = None,
    window: tuple[int, int] | None = None,
    colour: str | None = None,
) -> Axes:
    """Draw how often each followed weight of a site flipped in a window of steps, most first.

    Args:
        data: Run, or a ranking as from tables.flip_ranking; None draws a sentence.
        ax: Where to draw; None makes a figure.
        site: The weight site; None takes that of the most flipping weight. Not used for a ranking.
        window: First and last step, both included; None takes all.
        colour: Of the bars; None takes the recipe's.

    Returns:
        The axes.

    Raises:
        ConfigError: If several runs are given.
    """
    ax = style.axes(ax, width=5.2, height=3.2)
    where = "" if site is None else str(site)
    if not isinstance(data, pd.DataFrame):
        run = one_run(data)
        tables.check_site([run] if run else [], site)
        if run is not None and site is None:
            ranked = most_flipping_of(run)
            where = str(ranked["site"].iloc[0]) if len(ranked) else ""
        if run is not None and colour is None:
            colour = style.colours([tables.recipe_of(run)])[tables.recipe_of(run)]
        data = None if run is None else single.flip_ranking(run, where, window)
    if data is None or data.empty:
        return style.nothing(ax, _NO_TRAJECTORIES)
    shown = data.head(_MOST_BARS)
    names = [f"[{o}, {i}]" for o, i in zip(shown["output"], shown["input"], strict=True)]
    bars = ax.barh(np.arange(len(shown)), shown["flips"], color=colour or "#444444", height=0.7)
    ax.bar_label(bars, [str(flips) for flips in shown["flips"]], padding=2, fontsize=8)
    ax.set_yticks(np.arange(len(shown)), names)
    ax.set_ylim(len(shown) - 0.4, -0.6)
    ax.set_xlim(0, 1.12 * max(1, int(shown["flips"].max())))
    ax.grid(visible=False, axis="y")
    span = "the whole run" if window is None else f"steps {window[0]} to {window[1]}"
    turns = single.turns(data)
    style.titles(ax, title=f"Followed weights: {where}".rstrip(": "), x=f"{turns} in {span}")
    ax.set_ylabel("weight [output, input]")
    ax.set_xticks([])  # the bars carry their numbers
    top = shown.iloc[0]
    style.describe(
        ax,
        f"{turns.capitalize()} of {len(data)} followed weights in {span}: most, {int(top['flips'])}, of weight "
        f"[{int(top['output'])}, {int(top['input'])}]; median {data['flips'].median():g}.",
    )
    return style.note(ax, single.sentence_of(data))


@style.bvit()
def plot_flip_ranks(
    data: tables.Runs, *, ax: Axes | None = None, site: str | None = None, null: bool = True
) -> Axes:
    """Draw the flips of every weight of a site in the whole run, ranked, on a logarithmic rank axis.

    Args:
        data: Run or runs that have stopped.
        ax: Where to draw; None makes a figure.
        site: The weight site; None takes the first that can flip.
        null: Also draw what equally restless weights would do (Poisson), with the first run's mean.

    Returns:
        The axes.
    """
    runs = tables.binary_runs(data)
    tables.check_site(runs, site)
    if site is None:
        flipless = {one.site for one in tables.multilevel(runs)}
        sites = [one for run in runs for one in tables.weight_sites(run)]
        site = next((one for one in sites if one not in flipless), next(iter(sites), ""))
    found = [(run, single.ranked_counts(run, site)) for run in runs]
    found = [(run, flips) for run, flips in found if flips.size]
    ax = style.axes(ax, width=5.2, height=3.2)
    levels = tables.levels_sentence(runs, sites=[site])
    if not found:
        return style.nothing(ax, levels or NO_COUNTS)
    colours = style.colours(tables.recipe_of(run) for run, _ in found)
    seen: dict[str, int] = {}
    handles = []
    for run, flips in found:
        recipe = tables.recipe_of(run)
        dashes = ("-", (0, (6, 2)), "-.", ":")[seen.get(recipe, 0) % 4]
        seen[recipe] = seen.get(recipe, 0) + 1
        ranks = _spread_ranks(flips.size)
        ax.plot(
            ranks,
            flips[ranks - 1],
            color=colours[recipe],
            linestyle=dashes,
            drawstyle="steps-mid",
            label=style.clip(run.label, 30),
        )
        handles.append(style.key(style.clip(run.label, 30), colours[recipe], line=dashes))
    if null:
        run, flips = found[0]
        ranks = _spread_ranks(flips.size)
        ax.plot(
            ranks,
            single.poisson_ranks(float(flips.mean()), flips.size, ranks),
            color=style.NULL_COLOUR,
            linestyle=(0, (4, 3)),
            linewidth=1.2,
            label="equally restless",
        )
        handles.append(style.key("equally restless", line=(0, (4, 3)), width=1.2))
    ax.set_xscale("log")
    ax.set_xlim(1, max(2, *(flips.size for _, flips in found)))
    ax.minorticks_off()
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
    ax.set_ylim(bottom=0)
    ax.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    style.titles(ax, title=f"All weights: {site}", x="rank of the weight", y="flips, whole run")
    ax.legend(handles=handles, loc="upper right", fontsize=8)
    style.literal(ax)
    text = "; ".join(
        f"{run.label}: most {flips[0]}, mean {flips.mean():.3g}" for run, flips in found
    )
    style.describe(ax, f"Flips of every weight of {site} in the whole run, by rank. {text}.")
    style.note(ax, levels)
    return style.note(ax, tables.unverified_sentence(runs, kind="weight", sites=[site]))


def _spread_ranks(count: int) -> np.ndarray:
    """Return ranks from 1 to count that lie evenly on a logarithmic axis, each once."""
    return np.unique(np.geomspace(1, count, _POINTS).round().astype(np.int64))
