"""Tidy frames of what runs recorded: rows by site, scalars, and per-weight flip counts.

Weight measures are averaged over sites in proportion to their number of weights, so that the figure is
one of weights; activation measures are averaged over sites, each of which already is a mean over
channels.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from bvit_analysis.errors import ConfigError, RunError
from bvit_analysis.records import Run, RunWarning
from bvit_analysis.tables.groups import group_names
from bvit_analysis.tables.levels import multilevel, remember_levels
from bvit_analysis.tables.metrics import measure_of, ordered, own_measures, remember
from bvit_analysis.tables.seeds import at_one_length, mark_diverged
from bvit_analysis.tables.selection import Runs, as_runs, binary_runs
from bvit_analysis.tables.verification import remember_unverified

LATE = 0.1
"Late means the last tenth of the recorded steps."
LAST_HALF = 0.5
"Flip-back is taken over the last half: late flips are few, and a share of few is noise."

RUN_COLUMNS = ["run", "run_id", "label", "recipe", "seed"]


def place(site: str) -> tuple[int, str]:
    """Split a site's name into its block and the rest, with block -1 where there is no number.

    Example:
        >>> place("blocks.3.attn.qkv")
        (3, 'attn.qkv')
    """
    match = re.match(r"^(?:.*?\.)?(\d{1,4})\.(.+)$", site)
    return (int(match[1]), match[2]) if match else (-1, site)


def identity(position: int, run: Run, group: str) -> dict[str, Any]:
    # the position tells runs apart whose folders have one name under two roots
    return {
        "run": position,
        "run_id": run.run_id,
        "label": run.label,
        "recipe": group,
        "seed": run.info.get("seed"),
    }


def site_frame(runs: Runs, metrics: Sequence[str], *, kind: str) -> pd.DataFrame:
    """Return the recorded rows of some measures, of all runs, one row a run, step and site.

    Args:
        runs: Runs to read.
        metrics: Columns of ``run.sites``; rows where all of them are NaN are left out.
        kind: 'weight', 'activation' or 'attention'.

    Returns:
        Columns run (position in the list), run_id, label, recipe, seed, step, site, order (place in the model), block, layer,
        n_weights, and the metrics; one that a run lacks is NaN in its rows. ``attrs`` has what the runs say of their
        own measures, and their sites that are unverified or have several levels.

    Raises:
        ConfigError: If a measure is neither in the catalogue nor one of the runs' own.
    """
    listed = binary_runs(runs)
    for name in metrics if listed else ():
        if measure_of(name, listed).kind not in ("weight", "activation"):
            raise ConfigError(f"{name!r} is no measure of sites; take one of run.sites")
    own = [one for name, one in own_measures(listed).items() if name in metrics]
    parts = []
    names = group_names(listed)
    for position, run in enumerate(listed):
        sites = run.sites
        held = [name for name in metrics if name in sites.columns]
        absent = [name for name in metrics if name not in sites.columns]
        rows = sites.loc[sites["kind"] == kind, ["step", "site", *held]].copy()
        for name in absent:
            rows[name] = np.nan
        rows = rows.dropna(subset=list(metrics), how="all").copy()
        table = run.site_table.set_index("site")
        rows["order"] = rows["site"].map(table["site_id"])
        rows["n_weights"] = rows["site"].map(table["n_weights"]).astype(float)
        places = {site: place(str(site)) for site in rows["site"].unique()}
        rows["block"] = rows["site"].map({site: where[0] for site, where in places.items()})
        rows["layer"] = rows["site"].map({site: where[1] for site, where in places.items()})
        parts.append(rows.assign(**identity(position, run, names[position])))
    columns = [*RUN_COLUMNS, "step", "site", "order", "block", "layer", "n_weights", *metrics]
    if not parts:
        return remember(pd.DataFrame(columns=columns), own)
    frame = remember(pd.concat(parts, ignore_index=True)[columns], own)
    frame = mark_diverged(frame, listed)
    return remember_levels(remember_unverified(frame, listed), listed)


def mean_over_sites(frame: pd.DataFrame, name: str, *, by: Sequence[str] = ()) -> pd.DataFrame:
    """Average a measure over the sites of each run and step.

    Weight sites count in proportion to their weights, all other sites equally.

    Args:
        frame: As from site_frame.
        name: The measure.
        by: Further columns to keep apart, for example ``["layer"]``.

    Returns:
        Columns run (position in the list), run_id, label, recipe, seed, step, those in ``by``, and the measure.
    """
    keys = [*RUN_COLUMNS, "step", *by]
    rows = frame.dropna(subset=[name])
    weight = rows["n_weights"].where(rows["n_weights"] > 0, 1.0)
    sums = (
        rows[keys]
        .assign(_weight=weight, _sum=weight * rows[name].astype(float))
        .groupby(keys, dropna=False, sort=True)
        .sum()
        .reset_index()
    )
    sums[name] = sums["_sum"] / sums["_weight"]
    means = sums[[*keys, name]]
    means.attrs = dict(frame.attrs)
    return means


def late_rows(frame: pd.DataFrame, *, share: float = LATE) -> pd.DataFrame:
    """Return the rows of the last tenth (or another share) of each run's recorded steps."""
    if frame.empty:
        return frame
    last = frame.groupby("run")["step"].transform("max")
    return frame[frame["step"] > last * (1.0 - share)]


def late_by_site(frame: pd.DataFrame, name: str, *, share: float = LATE) -> pd.DataFrame:
    """Return the late mean of a measure, one row a run and site.

    Args:
        frame: As from site_frame.
        name: The measure.
        share: The part of the recorded steps that counts as late.
    """
    keys = [*RUN_COLUMNS, "site", "order", "block", "layer", "n_weights"]
    rows = late_rows(frame.dropna(subset=[name]), share=share)
    means: pd.DataFrame = rows.groupby(keys, dropna=False, sort=False)[name].mean().reset_index()
    return means.sort_values(["run", "order"], ignore_index=True)


def site_summary(runs: Runs, metrics: Sequence[str], *, kind: str = "weight") -> pd.DataFrame:
    """Return late means by kind of layer and recipe, over blocks and seeds, as one wide table.

    Args:
        runs: Runs to read.
        metrics: Columns of ``run.sites``.
        kind: 'weight', 'activation' or 'attention'.

    Returns:
        One row a layer (such as attn.qkv), one column a measure and recipe, and under 'runs' how many runs are in the means.
        Runs that diverged, or are shorter than others of their recipe, are left out and named in a RunWarning.
    """
    frame, left_out = at_one_length(site_frame(runs, metrics, kind=kind))
    for why in left_out:
        warnings.warn(f"left out of the means: {why}", RunWarning, stacklevel=2)
    parts = {}
    counts: dict[str, pd.Series] = {}
    for name in metrics:
        late = late_by_site(frame, name)
        by_layer = late.groupby(["layer", "recipe"], sort=False)
        means = by_layer[name].mean().unstack("recipe")
        if not means.empty:
            parts[name] = means[ordered(means.columns)]
            seen = by_layer["run"].nunique().unstack("recipe")
            counts |= {recipe: seen[recipe] for recipe in seen if recipe not in counts}
    if parts:
        parts["runs"] = pd.DataFrame(counts)[ordered(counts)].fillna(0).astype(int)
    return pd.concat(parts, axis=1, names=["measure", "recipe"]) if parts else pd.DataFrame()


def scalar_frame(runs: Runs) -> pd.DataFrame:
    """Return the scalars of all runs, float ones included, one row a run and step."""
    listed = enumerate(zip(as_runs(runs), group_names(runs), strict=True))
    parts = [run.scalars.assign(**identity(place, run, name)) for place, (run, name) in listed]
    parts = [part for part in parts if not part.empty]
    if not parts:
        return pd.DataFrame(columns=[*RUN_COLUMNS, "step", "loss", "accuracy"])
    return mark_diverged(pd.concat(parts, ignore_index=True), as_runs(runs))


def weight_sites(run: Run) -> list[str]:
    """Return the names of a run's weight sites in model order."""
    table = run.site_table
    return [str(site) for site in table.loc[table["kind"] == "weight", "site"]]


def flipping_sites(run: Run) -> list[str]:
    """Return the names of a run's weight sites that have flips: those of two levels, in model order."""
    flipless = {one.site for one in multilevel(run)}
    return [site for site in weight_sites(run) if site not in flipless]


def flip_counts(run: Run, *, site: str | None = None) -> dict[str, dict[str, np.ndarray]]:
    """Return the per-weight flip counts of a run's weight sites, of those that are stored.

    Args:
        run: The run; counts are written when it stops.
        site: One site; None takes all.

    Returns:
        Site name -> arrays as ``Run.counts`` gives them; empty while the run goes on, without those of more than two
        levels, which have no flips. Sites that are missing among others are named in a RunWarning.
    """
    return dict(_counts_by_site(run, flipping_sites(run) if site is None else [site]))


def flip_totals(run: Run) -> tuple[int, int, int] | None:
    """Return gross flips, net flips and number of weights of a whole run, None where no counts are stored.

    They are stored when a run stops, so a run that goes on or was killed has none.
    """
    gross = net = weights = 0
    # One at a time: together they may fill the memory.
    for _, counts in _counts_by_site(run, flipping_sites(run)):
        gross += int(counts["gross"].sum(dtype=np.int64))
        net += int((counts["first_sign"] != counts["last_sign"]).sum())
        weights += counts["gross"].size
    return (gross, net, weights) if weights else None


def _counts_by_site(run: Run, asked: Sequence[str]) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Yield the counts of each site that has some, and say at the end which of them have none."""
    faults: dict[str, str] = {}
    for name in asked:
        try:
            counts = run.counts(name)
        except RunError as error:
            faults[name] = str(error)
        else:
            yield name, counts
    # None at all is a run that has not stopped; some without others is a hole that totals would hide.
    if faults and len(faults) < len(asked):
        first, why = next(iter(faults.items()))
        warnings.warn(
            f"flip counts of {len(faults)} of {len(asked)} weight sites of run {run.run_id} are left out,"
            f" {first} first: {why}",
            RunWarning,
            stacklevel=4,
        )
