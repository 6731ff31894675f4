"""What a run folder holds: its state, its records, and the configuration field by field."""

from __future__ import annotations

import pandas as pd

from bvit_analysis.errors import RunError
from bvit_analysis.records import MEASURES, Run
from bvit_analysis.records.info import shown
from bvit_analysis.tables.frames import flipping_sites
from bvit_analysis.tables.groups import flat
from bvit_analysis.tables.levels import NOT_QUANTIZED, multilevel
from bvit_analysis.tables.selection import Runs, as_runs, recipe_of
from bvit_analysis.tables.site_names import named
from bvit_analysis.tables.verification import unverified

_KINDS = ("weight", "activation", "attention")
_TABLES = ("scalars", "sites", "histograms", "channels", "trajectories")


def inventory(runs: Runs) -> pd.DataFrame:
    """Return what each run is, how far it came and what it recorded, one column a run.

    Args:
        runs: Runs of any kind and state.

    Returns:
        Index: folder, kind, recipe, seed, state, steps, error, test accuracy, sites of each kind, rows of each table,
        what else was recorded; measures of its own, unverified sites and sites of several levels where a run has any;
        parts left out. Columns: labels of the runs. Everything is text.
    """
    listed = as_runs(runs)
    facts = [_facts(run) for run in listed]
    names = dict.fromkeys(name for one in facts for name in one)
    rows = {name: [one.get(name, "none") for one in facts] for name in names}
    return pd.DataFrame.from_dict(rows, orient="index", columns=_names(listed))


def config_table(runs: Runs) -> pd.DataFrame:
    """Return the configuration each run was started with, one row a field and one column a run.

    Args:
        runs: Runs of any kind; one that was only watched has none and is left out.

    Returns:
        Index: dotted field such as 'recipe.shift'; columns: labels of the runs; values as text, '' where a run
        lacks the field.
    """
    listed = [run for run in as_runs(runs) if isinstance(run.config, dict)]
    fields: dict[str, dict[int, str]] = {}
    for position, run in enumerate(listed):
        for name, value in flat(run.config).items():
            fields.setdefault(shown(name), {})[position] = shown(value)
    rows = {name: [found.get(i, "") for i in range(len(listed))] for name, found in fields.items()}
    return pd.DataFrame.from_dict(rows, orient="index", columns=_names(listed))


def damage(runs: Runs) -> list[str]:
    """Return what was left out of the runs because it is damaged, one line each; reads all tables."""
    lines = []
    for run in as_runs(runs):
        _facts(run)
        lines += [f"{run.run_id}: {' '.join(text.split())}" for text in run.warnings]
    return lines


def _facts(run: Run) -> dict[str, str]:
    accuracy = (run.result or {}).get("test_accuracy")
    kinds = run.site_table["kind"].value_counts()
    total = run.status.get("total_steps")
    facts = {
        "folder": shown(run.path.name),
        "kind": str(run.info.get("kind", "unknown")),
        "recipe": recipe_of(run),
        "seed": str(run.info.get("seed")),
        "state": run.state,
        "steps": f"{run.step} of {shown(total)}" if total else str(run.step),
        "error": " ".join(shown(run.status.get("error") or "none").split()),
        "test accuracy": f"{accuracy:.4f}" if isinstance(accuracy, float) else "not recorded",
    }
    facts |= {f"{kind} sites": str(kinds.get(kind, 0)) for kind in _KINDS}
    facts |= {f"rows of {name}": f"{run.number_of_rows(name):,}" for name in _TABLES}
    held = {
        "flip counts": _has_counts(run),
        "attention of images": run.attention is not None,
        "cost ledger": len(run.costs) > 0,
    }
    facts |= {name: "yes" if there else "no" for name, there in held.items()}
    own = [name for name in run.measures if name not in MEASURES]
    facts |= {"measures of its own": ", ".join(own)} if own else {}
    doubted = [one.site for one in unverified(run)]
    facts |= {"unverified sites": named(doubted)} if doubted else {}
    levels: dict[str, list[str]] = {}
    for one in multilevel(run):
        many = f"more than {NOT_QUANTIZED - 1}" if one.levels == NOT_QUANTIZED else one.levels
        levels.setdefault(f"{many or 'unknown'} levels", []).append(one.site)
    if levels:
        facts["sites of several levels"] = "; ".join(
            f"{many}: {named(sites)}" for many, sites in levels.items()
        )
    return facts | {"parts left out": str(len(run.warnings))}


def _has_counts(run: Run) -> bool:
    first = next(iter(flipping_sites(run)), None)
    try:
        return first is not None and bool(run.counts(first))
    except RunError:
        return False


def _names(runs: list[Run]) -> list[str]:
    # Labels may be equal under two roots; a column must not hide another.
    labels = [run.label for run in runs]
    return [
        label
        if labels.count(label) == 1
        else f"{label} ({shown(run.path.parent.name)}/{run.run_id})"
        for label, run in zip(labels, runs, strict=True)
    ]
