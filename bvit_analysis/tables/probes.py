"""What turned signs cost: the probes of runs, by recipe and group of weights."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from bvit_analysis.records.probes import probe_rows
from bvit_analysis.tables.chance import t_interval
from bvit_analysis.tables.selection import Runs, as_runs, recipe_of

ANY = "random"
"The group that the others are held against."


def probe_frame(runs: Runs) -> pd.DataFrame:
    """Return every draw of the runs' stored sign probes.

    Args:
        runs: Runs of any kind; those without a probe have no rows.

    Returns:
        Columns run, recipe, share, group, draw, turned, loss (nats), accuracy, loss_change (nats), accuracy_change
        (share of images), path (of the run), relative_to_random (loss_change less the mean of the same run's random
        draws, nats).
    """
    frames = []
    for run in as_runs(runs):
        probe = run.sign_probe
        if probe is None:
            continue
        rows = probe_rows(probe)
        random = rows.loc[rows["group"] == ANY, "loss_change"]
        base = float(random.mean()) if len(random) else math.nan
        rows.insert(0, "share", probe.share)
        rows.insert(0, "recipe", recipe_of(run))
        rows.insert(0, "run", run.label)
        rows["path"] = str(run.path)  # two runs may have one label
        frames.append(rows.assign(relative_to_random=rows["loss_change"] - base))
    columns = ["run", "recipe", "share", "group", "draw", "turned", "loss", "accuracy"]
    empty = pd.DataFrame(
        columns=[*columns, "loss_change", "accuracy_change", "path", "relative_to_random"]
    )
    return pd.concat(frames, ignore_index=True) if frames else empty


def probe_table(runs: Runs, *, level: float = 0.95) -> pd.DataFrame:
    """Return what each group costs, over runs of one recipe; a run's draws are averaged first.

    Args:
        runs: Runs with stored probes.
        level: Coverage of the intervals, 0..1.

    Returns:
        Columns recipe, share, group, n (runs), loss_change, low, high (Student's interval over runs, NaN below three),
        relative_to_random with relative_low and relative_high, accuracy_change; in the order of the probe's groups.
    """
    frame = probe_frame(runs)
    keys = ["recipe", "share", "group"]
    values = ["loss_change", "relative_to_random", "accuracy_change"]
    each = frame.groupby([*keys, "path"], sort=False)[values].mean().reset_index()
    rows = []
    for key, group in each.groupby(keys, sort=False):
        row = dict(zip(keys, key, strict=True)) | {"n": len(group)}
        for name, low, high in (
            ("loss_change", "low", "high"),
            ("relative_to_random", "relative_low", "relative_high"),
        ):
            found = group[name].to_numpy(float)
            row[name] = float(found.mean())
            enough = len(found) >= 3 and np.isfinite(found).all()
            row[low], row[high] = (
                t_interval(found.tolist(), level=level) if enough else (math.nan, math.nan)
            )
        row["accuracy_change"] = float(group["accuracy_change"].mean())
        rows.append(row)
    return pd.DataFrame(
        rows,
        columns=[
            *keys,
            "n",
            "loss_change",
            "low",
            "high",
            "relative_to_random",
            "relative_low",
            "relative_high",
            "accuracy_change",
        ],
    )


def probe_finding(runs: Runs) -> str:
    """Return in words what the probes say of restless weights, one sentence a recipe; says so where there is none."""
    table = probe_table(runs)
    said = []
    for recipe, rows in table.groupby("recipe", sort=False):
        costs = rows.set_index("group")["loss_change"]
        if not {"restless", ANY} <= set(costs.index):
            continue
        one = rows[rows["group"] == "restless"].iloc[0]
        cheaper = "less" if one["relative_to_random"] < 0 else "more"
        sure = one["relative_low"] * one["relative_high"] > 0
        how = (
            "interval excludes zero"
            if sure
            else "no interval"
            if math.isnan(one["relative_low"])
            else "interval includes zero"
        )
        said.append(
            f"{recipe}: turning the {one['share']:.0%} most restless weights costs {costs['restless']:+.3f} nats,"
            f" {abs(one['relative_to_random']):.3f} {cheaper} than as many at random ({costs[ANY]:+.3f}; n={one['n']}, {how})"
        )
    return "\n".join(said) or "No sign probe is stored; make one with `bvit probe RUN`."
