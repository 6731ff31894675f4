"""The chance line of a run: simulated from what the run recorded, once, and kept beside it.

A run without what it needs has no chance line, in one sentence; nothing is put in its place.
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
from bvit_analysis.records import FLIP_BACK_STEPS, Run
from bvit_analysis.records.columns import NEAR_ZERO
from bvit_analysis.tables.chance_inputs import (
    NoChanceError,
    began_with,
    frequency_threshold,
    gradients_of,
    late_after,
    moved_by,
    pull_of,
)
from bvit_analysis.tables.flip_figures import EXCESS_MEASURES, figures_of, late_rate, tail_share
from bvit_analysis.tables.frames import weight_sites

NULLS = ("re-dealt", "white")
"Where simulated gradients come from; the first that a run allows is its chance line."

_FOLDER, _VERSION = "tables", 1
_SOURCES = ("scalars", "sites", "histograms", "trajectories", "starts")
_MOST_REMEMBERED = 64

Made = tuple[pd.DataFrame, pd.DataFrame, tuple[str, ...]]
_remembered: dict[str, Made] = {}


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
        tail, late = tail_share(one.gross), late_rate(one.late, steps - after)
        found.append(figures_of(site, int(sizes[site]), rows, tail, late))
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
