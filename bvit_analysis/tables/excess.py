"""Observed flips, those of chance, and the excess: what a run's weights did beyond noise in the same optimizer.

Chance is simulated from what the run recorded (measures/chance.py), kept beside the run and simulated once. A run
without what it needs has no chance line, in one sentence; nothing is put in its place.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import pandas as pd

from bvit_analysis.errors import BvitError, ConfigError, RunError, unknown_name
from bvit_analysis.files import DamagedFile, read_json, write_json_atomic
from bvit_analysis.measures.chance import LEAST_SERIES, simulate
from bvit_analysis.measures.shares import share
from bvit_analysis.records import FLIP_BACK_STEPS, Run
from bvit_analysis.records.columns import NEAR_ZERO
from bvit_analysis.tables.chance import t_interval
from bvit_analysis.tables.chance_inputs import (
    NoChanceError,
    began_with,
    frequency_threshold,
    gradients_of,
    late_after,
    moved_by,
    pull_of,
)
from bvit_analysis.tables.frames import flip_counts, weight_sites
from bvit_analysis.tables.metrics import ordered
from bvit_analysis.tables.selection import Runs, binary_runs, recipe_of

NULLS = ("re-dealt", "white")
"Where simulated gradients come from; the first that a run allows is its chance line."

TAIL = 12
"Flips from which on a weight belongs to the tail."

_LAST = (
    "gross_flips",
    "net_flips",
    "oscillating_flips",
    "flip_flop_ratio",
    "frequent_share",
    "concentration",
    "bimodality_coefficient",
    "kurtosis",
    "otsu_ratio",
    *(f"mass_near_zero_{name}" for name in NEAR_ZERO),
)
_BACK = tuple(f"flip_back_{k}" for k in FLIP_BACK_STEPS)
EXCESS_MEASURES = (*_LAST, *_BACK, "tail_share", "late_flip_rate")
"What is compared with chance; tail_share is P(a weight flips 12 times or more), late_flip_rate per weight and step."

_FOLDER, _VERSION = "tables", 1
_SOURCES = ("scalars", "sites", "histograms", "trajectories", "starts")
_remembered: dict[str, tuple[pd.DataFrame, pd.DataFrame, tuple[str, ...]]] = {}
_MOST_REMEMBERED = 64


@final
@dataclass(frozen=True)
class Chance:
    """The chance line of a run."""

    null: str
    "One of NULLS."
    term: bool
    "Whether the recipe's gradient term acts on the simulated weights."
    rows: pd.DataFrame
    "step, site, n_weights and measures at the steps at which the run recorded them, NaN where it did not."
    figures: pd.DataFrame
    "One row a site: site, n_weights, EXCESS_MEASURES."
    notes: tuple[str, ...]
    "What to know of it, a sentence each."


def chance_of(
    run: Run, *, null: str | None = None, term: bool = False, keep: bool = True
) -> Chance:
    """Return what weights whose gradient knows nothing of their sign would do in a run's optimizer.

    Args:
        run: A run that has stopped.
        null: 're-dealt' (recorded gradient series, each with a random sign given to another weight) or 'white' (iid
            normal); None takes the first that the record allows.
        term: Whether the recipe's gradient term acts on the simulated weights.
        keep: Whether to keep the result in the run's folder; where that cannot be written, it is said in the notes.

    Returns:
        The chance line; the same at each look.

    Raises:
        NoChanceError: If there is none; the text says why in one sentence.
        ConfigError: If the null is unknown.
    """
    if null is None:
        try:
            return chance_of(run, null=NULLS[0], term=term, keep=keep)
        except NoChanceError as error:
            found = chance_of(run, null=NULLS[1], term=term, keep=keep)
            why = str(error).removeprefix("no chance line: ")
            notes = (*found.notes, f"white noise, since {why}")
            return Chance(found.null, found.term, found.rows, found.figures, notes)
    if null not in NULLS:
        raise ConfigError(unknown_name("null", null, NULLS))
    if run.state == "running":
        raise NoChanceError("the run is still going on")
    if term and pull_of(run) is None:
        raise NoChanceError("the recipe has no gradient term that can be simulated")
    digest = _digest(run, null, term)
    path = run.path / _FOLDER / f"chance-{null}{'-term' if term else ''}.json"
    made = _remembered.get(digest) or _kept(path, digest, run)
    known = made is not None and digest not in _remembered
    if made is None:
        made = _simulated(run, null, term)
    while digest not in _remembered and len(_remembered) >= _MOST_REMEMBERED:
        _remembered.pop(next(iter(_remembered)))
    _remembered[digest] = made
    rows, figures, notes = made
    if keep and not known and _kept(path, digest, run) is None:
        fault = _keep(path, digest, run, made)
        notes = notes if fault is None else (*notes, fault)
    return Chance(null, term, rows.copy(), figures.copy(), notes)


def observed_of(run: Run) -> pd.DataFrame:
    """Return what the weights of a run did, by the measures that chance is compared in.

    Args:
        run: The run.

    Returns:
        One row a weight site with flips on record: site, n_weights, EXCESS_MEASURES; NaN where one is not recorded.
    """
    counts = flip_counts(run)
    sizes = run.site_table.set_index("site")["n_weights"]
    rows = run.sites[run.sites["kind"] == "weight"]
    found = []
    for site in weight_sites(run):
        own = rows[rows["site"] == site]
        if own.empty or own["flip_rate"].isna().all():
            continue
        stored = counts.get(site)
        tail, late = math.nan, math.nan
        if stored is not None:
            steps = int(stored["steps"])
            known = bool((stored["late"] >= 0).all())
            after = late_after(run, steps) if known else steps
            tail, late = _tail(stored["gross"]), _late(stored["late"], steps - after)
        found.append(_figures(site, int(sizes[site]), own, tail, late))
    return pd.DataFrame(found, columns=["site", "n_weights", *EXCESS_MEASURES])


def over_sites(figures: pd.DataFrame) -> dict[str, float]:
    """Return figures of all sites together: of weights, but flip-back of flips and the flip-flop ratio of sums.

    Args:
        figures: As observed_of() or Chance.figures has them.
    """
    weights = figures["n_weights"].astype(float)
    flips = weights * figures["gross_flips"]
    together: dict[str, float] = {}
    for name in EXCESS_MEASURES:
        values = figures[name]
        size = (flips if name in _BACK or name == "concentration" else weights).where(
            values.notna()
        )
        total = float(size.sum())
        together[name] = float((size * values).sum()) / total if total > 0 else math.nan
    net = max(1.0, float((weights * figures["net_flips"]).sum()))
    together["flip_flop_ratio"] = float(flips.sum()) / net if len(figures) else math.nan
    return together


def excess_by_site(
    run: Run, *, null: str | None = None, term: bool = False, keep: bool = True
) -> pd.DataFrame:
    """Return observed, chance and excess of each site of a run, and of all together.

    Args:
        run: The run.
        null: As for chance_of.
        term: As for chance_of.
        keep: As for chance_of.

    Returns:
        Columns site ('all' for all together), measure, observed, chance, excess = observed - chance, null, term.

    Raises:
        NoChanceError: If there is no chance line.
    """
    line = chance_of(run, null=null, term=term, keep=keep)
    seen = observed_of(run)
    seen = seen[seen["site"].isin(line.figures["site"])]
    tables = []
    for site in (*seen["site"], "all"):
        if site == "all":
            one, other = over_sites(seen), over_sites(line.figures)
        else:
            one = seen.set_index("site").loc[site].to_dict()
            other = line.figures.set_index("site").loc[site].to_dict()
        tables += [
            {
                "site": site,
                "measure": name,
                "observed": one[name],
                "chance": other[name],
                "excess": one[name] - other[name],
                "null": line.null,
                "term": term,
            }
            for name in EXCESS_MEASURES
        ]
    return pd.DataFrame(tables)


def excess_table(
    runs: Runs,
    *,
    null: str | None = None,
    measures: Sequence[str] = EXCESS_MEASURES,
    level: float = 0.95,
    keep: bool = True,
) -> pd.DataFrame:
    """Return observed, chance and excess of each recipe, with the interval of the excess over its runs.

    A recipe with a gradient term has rows with the term acting on the simulated weights and without; the difference
    is what the term does to any weights, learning or not.

    Args:
        runs: Runs to read.
        null: As for chance_of; None takes for each recipe the first that all its runs allow.
        measures: Some of EXCESS_MEASURES.
        level: Coverage of Student's interval over runs; it is NaN below three runs.
        keep: As for chance_of.

    Returns:
        Columns recipe, measure, null, term, runs (with a chance line), observed, chance, excess (means over these runs),
        low, high, note. A recipe without a chance line has one row a measure with NaN for chance, and the reason as its note.

    Raises:
        ConfigError: If a measure or the null is unknown.
    """
    for name in measures:
        if name not in EXCESS_MEASURES:
            raise ConfigError(unknown_name("measure that chance has", name, EXCESS_MEASURES))
    if null is not None and null not in NULLS:
        raise ConfigError(unknown_name("null", null, NULLS))
    groups: dict[str, list[Run]] = {}
    for run in binary_runs(runs):
        groups.setdefault(recipe_of(run), []).append(run)
    rows: list[dict[str, Any]] = []
    for recipe in ordered(groups):
        listed = groups[recipe]
        terms = (False, True) if any(pull_of(run) is not None for run in listed) else (False,)
        for term in terms:
            rows += _of_recipe(recipe, listed, null, term, measures, level, keep)
    return pd.DataFrame(rows, columns=[*_TABLE])


_OUTCOME = ("observed", "chance", "excess", "low", "high")
_TABLE = ("recipe", "measure", "null", "term", "runs", *_OUTCOME, "note")


def _of_recipe(
    recipe: str,
    runs: Sequence[Run],
    null: str | None,
    term: bool,
    measures: Sequence[str],
    level: float,
    keep: bool,
) -> list[dict[str, Any]]:
    lines: list[tuple[dict[str, float], dict[str, float]]] = []
    notes: dict[str, None] = {}
    used = null
    for one in NULLS if null is None else (null,):
        lines, used = [], one
        missing = 0
        for run in runs:
            try:
                line = chance_of(run, null=one, term=term, keep=keep)
            except NoChanceError as error:
                missing += 1
                notes.setdefault(f"{run.run_id}: {error}" if len(runs) > 1 else str(error))
                continue
            seen = observed_of(run)
            seen = seen[seen["site"].isin(line.figures["site"])]
            lines.append((over_sites(seen), over_sites(line.figures)))
            notes |= dict.fromkeys(line.notes)
        if not missing:
            break  # all its runs allow this null; where some do not, the recipe has the next
    rows = []
    for name in measures:
        pairs = [(one[name], other[name]) for one, other in lines]
        excess = [a - b for a, b in pairs if math.isfinite(a - b)]
        low, high = t_interval(excess, level=level)
        if not pairs:
            pairs = [(over_sites(observed_of(run))[name], math.nan) for run in runs]
        row = (
            recipe,
            name,
            used if lines else None,
            term,
            len(lines),
            float(np.mean([a for a, _ in pairs])),
            float(np.mean([b for _, b in pairs])),
            float(np.mean(excess)) if excess else math.nan,
            low,
            high,
            "; ".join(notes),
        )
        rows.append(dict(zip(_TABLE, row, strict=True)))
    return rows


def _simulated(
    run: Run, null: str, term: bool
) -> tuple[pd.DataFrame, pd.DataFrame, tuple[str, ...]]:
    moved = moved_by(run)
    steps = len(moved.rates)
    after = late_after(run, steps)
    sizes = run.site_table.set_index("site")["n_weights"]
    recorded = run.sites[run.sites["kind"] == "weight"]
    notes = dict.fromkeys(moved.notes)
    parts, found, small = [], [], []
    for site in weight_sites(run):
        own = recorded[recorded["site"] == site]
        if own.empty or own["flip_rate"].isna().all():
            continue
        if int(sizes[site]) < LEAST_SERIES:
            small.append(site)
            continue
        began = began_with(run, site)
        notes |= dict.fromkeys(began.notes)
        shape = (len(began.latent), began.latent.shape[1])
        gradients, _ = gradients_of(run, site, null, moved, shape)
        one = simulate(
            began.latent,
            moved.rates * _factor(moved.settings(site)),
            moved.update(site),
            gradients,
            back=FLIP_BACK_STEPS,
            near=NEAR_ZERO,
            threshold=frequency_threshold(run),
            late_after=after,
            flip_steps=own.loc[own["flip_rate"].notna(), "step"].tolist(),
            distribution_steps=own.loc[own["weight_scale"].notna(), "step"].tolist(),
            centred=began.centred,
            pull=pull_of(run) if term else None,
        )
        rows = pd.DataFrame(one.rows)
        tail, late = _tail(one.gross), _late(one.late, steps - after)
        found.append(_figures(site, int(sizes[site]), rows, tail, late))
        rows.insert(1, "site", site)
        rows.insert(2, "n_weights", int(sizes[site]))
        parts.append(rows)
    if not found:
        raise NoChanceError("no weight site has flips on record")
    if small:
        notes[f"{len(small)} site(s) of fewer than {LEAST_SERIES} weights are left out"] = None
    figures = pd.DataFrame(found, columns=["site", "n_weights", *EXCESS_MEASURES])
    return _rounded(pd.concat(parts, ignore_index=True)), _rounded(figures), tuple(notes)


def _rounded(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a frame with seven digits of each number: more are below what a simulation resolves, and fill the disk."""
    numbers = frame.select_dtypes("float").columns
    frame[numbers] = frame[numbers].map(lambda value: float(f"{value:.7g}"))
    return frame


def _factor(settings: Mapping[str, Any]) -> float:
    factor = settings.get("lr_factor", 1.0)
    if isinstance(factor, (int, float)) and 0 <= factor < math.inf:
        return float(factor)
    raise NoChanceError("the record of the optimizer has a learning rate that is no number")


def _figures(site: str, size: int, rows: pd.DataFrame, tail: float, late: float) -> dict[str, Any]:
    """Return the figures of a site from its rows, recorded or simulated."""
    figures: dict[str, Any] = {"site": site, "n_weights": size}
    for name in _LAST:
        values = rows[name].dropna() if name in rows else pd.Series(dtype=float)
        figures[name] = float(values.iloc[-1]) if len(values) else math.nan
    windows = rows.dropna(subset=["flip_rate"])
    length = np.diff(windows["step"].to_numpy(), prepend=0)
    flips = windows["flip_rate"].to_numpy(float) * length
    for name in _BACK:
        back = windows[name].to_numpy(float) if name in windows else np.full(len(flips), np.nan)
        known = ~np.isnan(back)
        figures[name] = share(float((flips * back)[known].sum()), float(flips[known].sum()))
    return figures | {"tail_share": tail, "late_flip_rate": late}


def _tail(gross: np.ndarray) -> float:
    return share(int((gross >= TAIL).sum()), gross.size)


def _late(late: np.ndarray, steps: int) -> float:
    return share(int(late.sum()), late.size * steps) if steps > 0 else math.nan


def _digest(run: Run, null: str, term: bool) -> str:
    """Return what a chance line depends on as a digest: the files that it is made from, and how."""
    total = run.status.get("total_steps")
    digest = hashlib.sha256(f"{_VERSION} {null} {term} {run.step} {str(total)[:40]}".encode())
    for path in [run.path / "run.json", *_files(run.path)]:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise NoChanceError(f"{path.name} cannot be read ({error.strerror})") from error
        digest.update(f"{path.parent.name}/{path.name} {len(data)}\n".encode())
        digest.update(hashlib.sha256(data).digest())
    return digest.hexdigest()


def _files(folder: Path) -> list[Path]:
    found = []
    for kind in _SOURCES:
        place = folder / kind
        if place.is_dir() and not place.is_symlink():
            found += [one for one in sorted(place.iterdir()) if one.is_file()]
    return found


Made = tuple[pd.DataFrame, pd.DataFrame, tuple[str, ...]]


def _keep(path: Path, digest: str, run: Run, made: Made) -> str | None:
    """Keep a result beside its run; return a sentence where that cannot be."""
    rows, figures, notes = made
    record = {
        "run_id": run.run_id,
        "digest": digest,
        "rows": _plain(rows),
        "figures": _plain(figures),
        "notes": list(notes),
    }
    try:
        path.parent.mkdir(exist_ok=True)
        write_json_atomic(path, record)
    except (OSError, BvitError):
        return "computed in memory, since the run's folder cannot be written"
    return None


def _plain(frame: pd.DataFrame) -> dict[str, list[Any]]:
    return {
        name: [
            None if isinstance(value, float) and math.isnan(value) else value for value in column
        ]
        for name, column in ((str(name), frame[name].tolist()) for name in frame.columns)
    }


def _kept(path: Path, digest: str, run: Run) -> Made | None:
    """Return a result that was kept, None where there is none of this digest."""
    try:
        if path.parent.is_symlink():
            return None
        record = read_json(path)
        if record.get("digest") != digest or record.get("run_id") != run.run_id:
            return None
        rows, figures = _frame(record["rows"]), _frame(record["figures"])
        if list(figures.columns) != ["site", "n_weights", *EXCESS_MEASURES]:
            return None
        return rows, figures, tuple(str(note)[:300] for note in record["notes"])
    except (OSError, DamagedFile, RunError, KeyError, TypeError, ValueError):
        return None  # it is made again


def _frame(columns: Mapping[str, Sequence[Any]]) -> pd.DataFrame:
    frame = pd.DataFrame(dict(columns))
    for name in frame.columns:
        if name != "site":
            kind = np.int64 if name in ("step", "n_weights") else np.float64
            frame[name] = frame[name].astype(kind)
    return frame
