"""Which runs may be averaged: those that agree in all but the seed; and what else differs between runs that are compared.

A group is a recipe under settings. Runs of one recipe that differ in a setting are two groups with two names, such as
'grs [smoke]' and 'grs [laptop]', and each is compared with the baseline of its own settings. A recipe that
differs from the preset whose name it has says so in its name (selection.recipe_of).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bvit_analysis.config import RunConfig, to_dict
from bvit_analysis.records import Measure, Run
from bvit_analysis.records.info import shown
from bvit_analysis.tables.metrics import FLOAT
from bvit_analysis.tables.selection import (
    Runs,
    as_runs,
    binary_runs,
    credited_parts,
    recipe_of,
)

SCALE = "scale"
_MOST_KEYS = 4  # settings named in a group's name; of more, a digest stands for the rest
_NOT_COMPARED = ("recipe", "seed", SCALE)
# These cannot change a bit of a run: see training/identity.py.
_NO_SETTING = ("data.workers", "training.checkpoint_every", "teacher.checkpoint_every")
_MISSING = "not recorded"
_ENVIRONMENT = ("versions", "git_commit", "hardware", "data_notes")


def flat(data: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested settings as one level, names joined by dots."""
    if not isinstance(data, dict):
        return {prefix: data}
    rows: dict[str, Any] = {}
    for name, value in data.items():
        rows |= flat(value, f"{prefix}.{name}" if prefix else str(name))
    return rows


def split_name(group: str) -> tuple[str, str]:
    """Return recipe and settings of a group's name.

    Example:
        >>> split_name("grs [laptop]"), split_name("grs")
        (('grs', 'laptop'), ('grs', ''))
    """
    recipe, bracket, rest = group.rpartition(" [")
    return (recipe, rest[:-1]) if bracket and rest.endswith("]") else (group, "")


def in_settings(recipe: str, settings: str) -> str:
    """Return the name of a recipe's group under settings; the inverse of split_name."""
    return f"{recipe} [{settings}]" if settings else recipe


def group_names(runs: Runs) -> list[str]:
    """Return the group of each run: its recipe, with the settings by which these runs differ.

    Args:
        runs: Runs that are looked at together; float runs are the group 'float'.

    Returns:
        One name a run. Runs of one name agree in all that is recorded but the seed and the environment (versions,
        hardware, commit), which comparability() names.
    """
    listed = as_runs(runs)
    binary = [position for position, run in enumerate(listed) if recipe_of(run) != FLOAT]
    # square brackets hold settings
    names = [recipe_of(run).replace("[", "(").replace("]", ")") for run in listed]
    for recipe in {names[position] for position in binary}:
        own = [position for position in binary if names[position] == recipe]
        for position, label in zip(own, _labels([_recipe(listed[p]) for p in own]), strict=True):
            names[position] = f"{recipe} ({label})" if label else recipe
    labels = _labels([_settings(listed[position]) for position in binary])
    for position, label in zip(binary, labels, strict=True):
        names[position] = in_settings(names[position], label)
    return names


def _recipe(run: Run) -> dict[str, str]:
    config = run.config if isinstance(run.config, dict) else {}
    return {key: shown(value) for key, value in flat(config.get("recipe")).items()}


def _settings(run: Run) -> dict[str, str]:
    """Return what runs must have alike to be averaged; what a record of an older release lacks counts as its default."""
    config = run.config if isinstance(run.config, dict) else {}
    found: dict[str, Any] = {}
    if config:
        plain = to_dict(RunConfig())
        for section in ("data", "model", "training", "teacher", "watch"):
            own = config.get(section, plain[section])
            if isinstance(own, dict):
                found[section] = "given"
                default = plain[section] or plain["training"]
                found |= {
                    f"{section}.{key}": value for key, value in flat({**default, **own}).items()
                }
            else:
                found[section] = "none" if own is None else own
        known = (*plain, *_NOT_COMPARED)
        found |= flat({key: value for key, value in config.items() if key not in known})
        found[SCALE] = config.get(SCALE, "")
    found |= {key: value for key, value in _content(run).items() if value is not None}
    if not config and run.state == "finished":
        found["steps recorded"] = run.step
    if "data fingerprint" in found:  # the content is known, wherever it lies
        found.pop("data.root", None)
    return {key: shown(value) for key, value in found.items() if key not in _NO_SETTING}


def _content(run: Run) -> dict[str, Any]:
    """Return what a run was made of beside its configuration; None where it is not recorded."""
    info = run.info
    teacher: Any = info.get("teacher")
    if isinstance(teacher, dict):
        name = teacher.get("teacher_sha256") or teacher.get("teacher")
        teacher = shown(name)[:12] if name else "none"
    classes, sites = info.get("class_names"), info.get("sites")
    return {
        "data fingerprint": info.get("data_fingerprint"),
        "teacher's weights": teacher,
        "classes": _counted(classes, classes),
        "sites": _counted(
            sites,
            [(one.get("site"), one.get("kind"), one.get("shape")) for one in sites or ()],
        ),
        "preprocessing": _digest(info["preprocessing"]) if info.get("preprocessing") else None,
    }


def _counted(listed: Any, content: Any) -> str | None:
    return f"{len(listed)} ({_digest(content)})" if isinstance(listed, list) else None


def _digest(content: Any) -> str:
    return hashlib.sha256(repr(content).encode("utf-8", "replace")).hexdigest()[:6]


def _labels(facts: Sequence[Mapping[str, str]]) -> list[str]:
    """Return by what each of several differs from the others, in as few words as tell them apart; '' where all agree."""
    columns: dict[str, list[str]] = {}
    for key in dict.fromkeys(key for one in facts for key in one):
        recorded = {one[key] for one in facts if key in one}
        if len(recorded) > 1:
            columns[key] = [one.get(key, _MISSING) for one in facts]
    scales = columns.pop(SCALE, None)
    if not columns:  # nothing, or two names of scales for the same settings
        return [""] * len(facts)
    whole = [tuple(values) for values in zip(*columns.values(), strict=True)]
    if scales and len(set(zip(whole, scales, strict=True))) == len(set(whole)):
        columns = {SCALE: scales} | columns
    chosen: list[str] = []
    rows: list[tuple[str, ...]] = [()] * len(facts)
    for key, values in columns.items():
        if len(set(rows)) == len(set(zip(rows, whole, strict=True))):
            break
        longer = [(*row, value) for row, value in zip(rows, values, strict=True)]
        if len(set(longer)) > len(set(rows)):
            chosen, rows = [*chosen, key], longer
    texts = []
    for row, all_values in zip(rows, whole, strict=True):
        parts = [
            value if key == SCALE else f"{key}={value}"
            for key, value in zip(chosen, row, strict=True)
        ]
        if len(parts) > _MOST_KEYS:
            parts = [*parts[: _MOST_KEYS - 1], f"and more: {_digest(all_values)}"]
        texts.append(", ".join(parts).replace("[", "(").replace("]", ")"))
    return texts


def recipe_parts(runs: Runs) -> dict[str, frozenset[str]]:
    """Return the parts that claims are made for by group: those that all its runs have."""
    listed = binary_runs(runs)
    found: dict[str, frozenset[str]] = {}
    for run, name in zip(listed, group_names(listed), strict=True):
        config = run.config if isinstance(run.config, dict) else {}
        parts = credited_parts(config.get("recipe"))
        found[name] = found.get(name, parts) & parts
    return found


def comparability(runs: Runs) -> list[str]:
    """List in plain sentences what differs between binary runs beside recipe and seed, and what is not recorded.

    Args:
        runs: Runs to compare; float runs are left out, for nothing is compared with them.

    Returns:
        One sentence a difference in data, classes, teacher, model, training, watching, sites, versions, commit or hardware,
        and one a fact of these that a run does not record; empty where all are recorded and equal.
    """
    listed = binary_runs(runs)
    names = group_names(listed)
    everything = [_everything(run) for run in listed]
    notes = []
    keys = dict.fromkeys(key for one in everything for key in one)
    for key in keys:
        values = Counter(shown(one[key]) for one in everything if one.get(key) is not None)
        if len(values) > 1:
            told = ", ".join(f"{value} ({count} run(s))" for value, count in values.items())
            notes.append(f"runs differ in {shown(key)}: {told}")
    if len(listed) > 1:
        notes += _unrecorded(everything)
    meanings: dict[str, set[Measure]] = {}
    for run in listed:
        for name, one in run.own_measures.items():
            meanings.setdefault(name, set()).add(one)
    for name, several in meanings.items():
        if len(several) > 1:
            notes.append(f"runs declare {len(several)} different measures named {name}")
    variants: dict[str, dict[str, None]] = {}
    for run, group in zip(listed, names, strict=True):
        config = run.config if isinstance(run.config, dict) else {}
        recorded = config.get("recipe")
        plain = shown(recorded.get("name", "custom")) if isinstance(recorded, dict) else ""
        variants.setdefault(plain or recipe_of(run), {})[split_name(group)[0]] = None
    for recipe, groups in variants.items():
        if len(groups) > 1:
            notes.append(
                f"runs named {recipe} have {len(groups)} different recipes: {', '.join(groups)}"
            )
    return notes


def _everything(run: Run) -> dict[str, Any]:
    config = run.config if isinstance(run.config, dict) else {}
    settings = flat({k: v for k, v in config.items() if k not in _NOT_COMPARED})
    facts = {key: "none" if value is None else value for key, value in settings.items()}
    if isinstance(config.get("teacher"), dict):
        facts["teacher"] = "given"
    facts |= _content(run)
    for key in _ENVIRONMENT:
        value = run.info.get(key)
        if key == "data_notes":
            listed = value if isinstance(value, list) else [value]
            facts["notes on the data"] = "; ".join(map(shown, listed)) if value else None
        elif isinstance(value, dict):
            facts |= flat(value, key)
        else:
            facts[key.replace("git_", "")] = value
    facts["steps recorded"] = run.step
    return facts


def _unrecorded(everything: Iterable[Mapping[str, Any]]) -> list[str]:
    """Say which facts that weigh on a comparison some or all runs lack: what is not known cannot be called equal."""
    rows = list(everything)
    notes = []
    needed = ("data fingerprint", "teacher's weights", "classes", "sites", "commit")
    for key in needed:
        lacking = sum(one.get(key) is None for one in rows)
        if lacking:
            notes.append(f"{key} is not recorded in {lacking} of {len(rows)} runs")
    for key in ("versions", "hardware"):
        lacking = sum(not any(name.startswith(f"{key}.") for name in one) for one in rows)
        if lacking:
            notes.append(f"{key} are not recorded in {lacking} of {len(rows)} runs")
    return notes
