"""Which runs to look at: loading, choosing and describing them in plain sentences."""

from __future__ import annotations

import functools
import hashlib
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import pandas as pd

from bvit_analysis.config import RECIPES, to_dict
from bvit_analysis.errors import ConfigError, RunError, one_by_one, unknown_name
from bvit_analysis.records import Run, RunWarning, find_runs, load_run
from bvit_analysis.records.info import shown
from bvit_analysis.records.measure import GRADIENT_TERM, SHIFT
from bvit_analysis.records.places import RUN_FILE
from bvit_analysis.tables.levels import levels_sentence
from bvit_analysis.tables.metrics import FLOAT, ordered
from bvit_analysis.tables.verification import unverified_sentence

Runs: TypeAlias = Run | Sequence[Run]

NEAR = ("runs", "../runs")
"Where load_runs looks first when it is given no path: from the repository and from notebooks/."

SHIPPED = ("data/runs", "../data/runs")
"Where it looks where nobody has trained yet: the runs that come with the repository."

_MOST_FOLDERS = 3  # named in a sentence
_MOST_CHANGES = 3  # of a recipe, named in its name


def as_runs(data: Runs) -> list[Run]:
    """Return one run or several as a list."""
    return [data] if isinstance(data, Run) else list(data)


def recipe_of(run: Run) -> str:
    """Return the recipe's name: 'float' for a teacher, 'watched' for somebody else's training.

    A preset with other settings is another recipe, and its name says so: 'baseline (shortcuts=false)'.
    """
    config = run.config if isinstance(run.config, dict) else {}
    recipe = config.get("recipe")
    if isinstance(recipe, dict):
        name = shown(recipe.get("name", "custom"))
        return f"{name} ({changes})" if (changes := _changes(name, recipe)) else name
    return FLOAT if run.info.get("kind") == FLOAT else str(run.info.get("kind", "watched"))


@functools.cache
def _preset(name: str) -> dict[str, str]:
    return {key: shown(value) for key, value in to_dict(RECIPES[name]).items()}


def _changes(name: str, recipe: Mapping[str, object]) -> str:
    """Return what a recorded recipe has otherwise than the preset of its name; '' for a name that is no preset."""
    if name not in RECIPES:
        return ""
    # What a record of another release lacks, or has beside, is no change that anybody made.
    changed = {
        key: shown(recipe[key])
        for key, value in _preset(name).items()
        if key in recipe and shown(recipe[key]) != value
    }
    texts = [
        f"{key}={value.lower() if value in ('True', 'False') else value}"
        for key, value in changed.items()
    ]
    if len(texts) > _MOST_CHANGES:
        digest = hashlib.sha256(repr(changed).encode("utf-8", "replace")).hexdigest()[:6]
        texts = [*texts[:_MOST_CHANGES], f"and more: {digest}"]
    return ", ".join(texts)


def credited_parts(recipe: object) -> frozenset[str]:
    """Return the parts of a recorded recipe that the paper's claims are made for: a shift, a gradient term.

    Args:
        recipe: As run.json has it, or None.
    """
    facts = recipe if isinstance(recipe, dict) else {}
    found = {SHIFT: facts.get("shift"), GRADIENT_TERM: facts.get("regularization")}
    return frozenset(part for part, value in found.items() if value not in (None, "", "none"))


def preset_parts(name: str) -> frozenset[str]:
    """Return the parts of a preset that claims are made for; none of a name that is no preset."""
    return credited_parts(to_dict(RECIPES[name])) if name in RECIPES else frozenset()


def binary_runs(runs: Runs) -> list[Run]:
    """Return the runs that binarize, in the order given."""
    return [run for run in as_runs(runs) if recipe_of(run) != FLOAT]


def load_runs(paths: str | Path | Sequence[str | Path] = ()) -> list[Run]:
    """Load the runs in these folders, each a run or a folder of runs; none given: those that lie near.

    Without paths the finished runs below ``runs`` and ``../runs`` are taken, so that a notebook works
    both from the repository and from its own folder. Where no binary training is among them, those
    that come with the repository are taken instead, below ``data/runs`` and ``../data/runs``.

    A run or a path that is bad does not stop the others: it is left out and named in a RunWarning.

    Raises:
        RunError: If nothing that was given can be read.
    """
    given = [paths] if isinstance(paths, (str, Path)) else list(paths)
    if not given:
        return _nearest()
    places, wrong = one_by_one(given, lambda path: _runs_at(Path(path)))
    chosen: list[Run] = []
    for _, folders in places:
        runs, unread = one_by_one(folders, load_run)
        chosen.extend(in_order(run for _, run in runs))
        wrong += unread
    reasons = [why for _, why in wrong]
    if not chosen:
        more = f" (and {len(reasons) - 1} more cannot be read)" if len(reasons) > 1 else ""
        raise RunError(f"{reasons[0]}{more}")
    _say_left_out(reasons)
    return chosen


def _runs_at(given: Path) -> list[Path]:
    found = [given] if (given / RUN_FILE).exists() else _runs_below(given)
    if not found:
        raise RunError(
            f"no run in {str(given)!r}; expected a run folder (with run.json) or a folder of them"
        )
    return found


def _say_left_out(reasons: Sequence[str]) -> None:
    for why in reasons:
        warnings.warn(f"left out a run: {why}", RunWarning, stacklevel=3)


def _nearest() -> list[Run]:
    found = [_finished(places) for places in (NEAR, SHIPPED)]
    # A teacher, or a training that was only watched, answers no notebook's question by itself.
    trained = [runs for runs in found if any(run.info.get("kind") == "binary" for run in runs)]
    return next((runs for runs in (*trained, *found) if runs), [])


def _finished(places: Iterable[str]) -> list[Run]:
    near = {path.resolve(): path for root in places for path in _runs_below(Path(root))}
    runs, unread = one_by_one(near.values(), load_run)
    _say_left_out([why for _, why in unread])
    return in_order(run for _, run in runs if run.state == "finished")


def _runs_below(root: Path) -> list[Path]:
    return list(find_runs(root)) if root.is_dir() else []


def in_order(runs: Iterable[Run]) -> list[Run]:
    """Sort runs by recipe in the fixed order, then by seed and name."""
    listed = list(runs)
    rank = {recipe: position for position, recipe in enumerate(ordered(map(recipe_of, listed)))}
    return sorted(
        listed,
        key=lambda run: (rank[recipe_of(run)], str(run.info.get("seed")).zfill(9), run.run_id),
    )


def check_recipes(asked: Iterable[str], present: Iterable[str], *, kind: str = "recipe") -> None:
    """Refuse a recipe that does not exist, before it is taken for one that these runs happen to lack.

    Args:
        asked: Names to look for.
        present: Names that there are beside the presets.
        kind: What the names are of, for the text.

    Raises:
        ConfigError: If a name is neither a preset nor present.
    """
    known = ordered([*RECIPES, *present])
    for name in [asked] if isinstance(asked, str) else asked:
        if name not in known:
            raise ConfigError(unknown_name(kind, name, known))


def check_site(runs: Runs, site: str | None) -> str | None:
    """Refuse a site that none of these runs has, before it is taken for one of which nothing is recorded.

    Args:
        runs: Runs that are looked at.
        site: Name of a site; None or '' stands for all.

    Returns:
        The site, None for all.

    Raises:
        ConfigError: If some run has sites and none has this one.
    """
    known = dict.fromkeys(str(one) for run in as_runs(runs) for one in run.site_table["site"])
    if site and known and site not in known:
        raise ConfigError(unknown_name("site", site, known))
    return site or None


def close_ups(runs: Runs, recipes: Sequence[str] = ()) -> list[Run]:
    """Return a few binary runs to look at closely: the first of each recipe named, else the first of all.

    Args:
        runs: Runs to choose from.
        recipes: Recipes to show side by side, in this order.

    Returns:
        The runs; empty only where none binarizes.

    Raises:
        ConfigError: If a name is neither a preset's nor that of one of the runs.
    """
    listed = in_order(binary_runs(runs))
    check_recipes(recipes, (FLOAT, *map(recipe_of, listed)))
    first: dict[str, Run] = {}
    for run in listed:
        first.setdefault(recipe_of(run), run)
    return [first[recipe] for recipe in recipes if recipe in first] or listed[:1]


def describe_runs(runs: Runs) -> str:
    """Say in plain sentences which runs these are and what that leaves out."""
    listed = as_runs(runs)
    if not listed:
        return (
            "No finished run was found under runs/ or data/runs/, so the figures below stay empty. "
            "Make some with `bvit reproduce --scale smoke`, or name folders in `runs`."
        )
    binary = binary_runs(listed)
    counts = pd.Series([recipe_of(run) for run in listed]).value_counts()
    text = (
        f"{len(listed)} run(s): " + ", ".join(f"{n} x {name}" for name, n in counts.items()) + "."
    )
    if not binary:
        text += " Only float runs: nothing is binarized in them, so the figures below stay empty."
    unfinished = [run for run in listed if run.state != "finished"]
    if unfinished:
        states = ", ".join(f"{run.run_id} is {run.state} at step {run.step}" for run in unfinished)
        text += f" Not finished, shown as far as they are recorded: {states}."
    for sentence in (levels_sentence(binary), unverified_sentence(binary)):
        text += f" {sentence}" if sentence else ""
    # A recipe or a run may carry any name; this stays one line.
    return f"{' '.join(text.split())} Read from {_places(listed)}."


def _places(runs: Sequence[Run]) -> str:
    folders = list(dict.fromkeys(run.path.parent for run in runs))
    # Quoted, because a folder may have any name, a new line included.
    named = [repr(str(folder)) for folder in folders[:_MOST_FOLDERS]]
    left = len(folders) - _MOST_FOLDERS
    more = f" and {left} more folders" if left > 0 else ""
    return ", ".join(named) + more
