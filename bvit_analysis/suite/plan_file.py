"""A batch as one file: TOML or JSON with ``defaults`` and a list of ``jobs``, paths relative to it.

[defaults]
runs = ["data/runs"]

[[jobs]]
notebooks = ["notebooks/03_weight_oscillation.ipynb"]
each_run = true
grid = { window = [50, 200] }
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bvit_analysis.errors import RunError, SuiteError, unknown_name
from bvit_analysis.outputs import FRAMES
from bvit_analysis.records import find_runs
from bvit_analysis.suite.jobs import NotebookJob
from bvit_analysis.suite.parameters import declared_parameters, require_notebooks
from bvit_analysis.suite.planning import Entry, PlanError, expand_all

_SHARED = ("notebooks", "runs", "parameters", "grid", "each_run", "frames")
_KEYS = ("name", *_SHARED)
_WILD = "*?["


def plan_from_file(path: Path, *, frames: int | None = None) -> list[NotebookJob]:
    """Read a plan and check all of it before a kernel starts.

    Args:
        path: A ``.toml`` or ``.json`` file. ``[defaults]`` and each of ``[[jobs]]`` have notebooks and
            runs (paths, folders or patterns, relative to the file), parameters, grid, each_run and frames;
            a job may also have a name, which goes into the names of its folders.
        frames: Pictures that each explorer draws ahead, whatever the plan says; None leaves it to the plan.

    Returns:
        One job an execution, in the plan's order.

    Raises:
        PlanError: If anything is wrong: it names the file, the entry and the nearest right name.
    """
    path = Path(path)
    require_notebooks()
    data = _read(path)
    _check_keys(f"{path}", "key", data, ("defaults", "jobs"))
    defaults, listed = data.get("defaults", {}), data.get("jobs", [])
    if not isinstance(defaults, dict):
        raise PlanError([f"{path}: 'defaults' must be a table, got {defaults!r}"])
    if not isinstance(listed, list) or not listed:
        raise PlanError([f"{path}: 'jobs' must be a list of at least one entry, got {listed!r}"])
    problems: list[str] = []
    entries: dict[str, Entry] = {}
    base = path.resolve().parent
    try:
        _check_table(f"{path}, defaults", defaults, _SHARED)
    except SuiteError as error:
        raise PlanError([str(error)]) from error
    for number, given in enumerate(listed, start=1):
        label = f"{path}, job {number}"
        try:
            if not isinstance(given, dict):
                raise SuiteError(f"{label}: expected a table, got {given!r}")
            if isinstance(given.get("name"), str):
                label += f" {given['name']!r}"
            _check_table(label, given, _KEYS)
            entries[label] = _entry(label, given, defaults, base, frames)
        except (SuiteError, RunError) as error:
            problems.append(str(error))
    try:
        jobs = expand_all(entries)
    except PlanError as error:
        problems += error.problems
    if not problems:
        problems = _undeclared(f"{path}, defaults", defaults, entries)
    if problems:
        raise PlanError(problems)
    return jobs


def find_notebooks(texts: Sequence[str], base: Path) -> list[Path]:
    """Return the notebooks that files, folders and patterns stand for, each once, in that order.

    Raises:
        SuiteError: If one stands for none; the text names the nearest right one.
    """
    found: list[Path] = []
    for text in texts:
        path = _place(text, base)
        if path.is_dir():
            inner = path / "notebooks" if (path / "notebooks").is_dir() else path
            matches = [p for p in inner.glob("*.ipynb") if not p.name.startswith(".")]
        elif path.is_file():
            matches = [path]
        else:
            matches = [p for p in _matching(path) if p.suffix == ".ipynb" and p.is_file()]
        if not matches:
            raise SuiteError(f"no notebooks at {text!r}{_nearest(path, '.ipynb')}")
        found += sorted(matches)
    return list(dict.fromkeys(found))


def find_run_folders(texts: Sequence[str], base: Path) -> list[Path]:
    """Return the run folders that paths, folders of runs and patterns stand for, each once, in that order.

    Raises:
        SuiteError: If one stands for none; the text names the nearest right one.
    """
    found: list[Path] = []
    for text in texts:
        path = _place(text, base)
        places = [path] if path.is_dir() else sorted(p for p in _matching(path) if p.is_dir())
        runs = [
            run
            for place in places
            for run in ([place] if (place / "run.json").exists() else find_runs(place))
        ]
        if not runs:
            raise SuiteError(
                f"no run folder at {text!r}; make runs with `bvit train` or `bvit ablate`, or pass "
                f"their folder{_nearest(path, '')}"
            )
        found += runs
    return list(dict.fromkeys(found))


def _place(text: str, base: Path) -> Path:
    try:
        path = base / Path(text).expanduser()
        path.exists()
    except (
        RuntimeError,
        ValueError,
        OSError,
    ) as error:  # an unknown user, a zero byte, too long a name
        why = getattr(error, "strerror", None) or str(error)
        raise SuiteError(
            f"{text[:200]!r} is no path here: {why}; give the path of a folder"
        ) from error
    return path


def _matching(path: Path) -> list[Path]:
    parts = path.parts
    wild = next((n for n, part in enumerate(parts) if any(c in part for c in _WILD)), None)
    if wild is None:
        return []
    start = Path(*parts[:wild])
    return list(start.glob(str(Path(*parts[wild:])))) if start.is_dir() else []


def _nearest(path: Path, suffix: str) -> str:
    if not path.parent.is_dir():
        return f"; there is no folder {str(path.parent)!r}"
    names = [p.name for p in path.parent.iterdir() if p.name.endswith(suffix) or p.is_dir()]
    near = difflib.get_close_matches(path.name, names, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def _read(path: Path) -> dict[str, Any]:
    if path.suffix not in (".toml", ".json"):
        raise PlanError([f"{path}: a plan is a .toml or a .json file"])
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors begin a file with a mark
        data = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except OSError as error:
        raise PlanError([f"no plan can be read at {path}: {error.strerror}"]) from error
    except (ValueError, RecursionError) as error:
        reason = f"it is not valid {path.suffix[1:].upper()}: {error}"
        raise PlanError([f"{path}: {reason}"]) from error
    if not isinstance(data, dict):
        raise PlanError([f"{path}: expected an object with 'jobs', got a {type(data).__name__}"])
    return data


def _check_keys(where: str, kind: str, data: Mapping[str, object], known: Sequence[str]) -> None:
    for key in data:
        if key not in known:
            raise PlanError([f"{where}: {unknown_name(kind, key, known)}"])


def _check_table(where: str, data: Mapping[str, Any], known: Sequence[str]) -> None:
    _check_keys(where, "key", data, known)
    for key, value in data.items():
        if key in ("notebooks", "runs"):
            good = isinstance(value, str) or (
                isinstance(value, list) and all(isinstance(item, str) for item in value)
            )
            expected = "a path or a list of paths"
        elif key in ("parameters", "grid"):
            good, expected = isinstance(value, dict), "a table of names and values"
        elif key == "each_run":
            good, expected = isinstance(value, bool), "true or false"
        elif key == "frames":
            good = isinstance(value, int) and not isinstance(value, bool)
            expected = "a whole number"
        else:
            good, expected = isinstance(value, str), "a string"
        if not good:
            raise SuiteError(f"{where}: {key!r} must be {expected}, got {value!r}")


def _entry(
    where: str, given: dict[str, Any], defaults: dict[str, Any], base: Path, frames: int | None
) -> Entry:
    merged = {**defaults, **given}
    if "notebooks" not in merged:
        raise SuiteError(f"{where}: it has no 'notebooks'; give paths or patterns")
    try:
        notebooks = find_notebooks(_texts(merged["notebooks"]), base)
        runs = find_run_folders(_texts(merged.get("runs", [])), base)
    except (SuiteError, RunError) as error:
        raise SuiteError(f"{where}: {error}") from error
    own = {**given.get("parameters", {}), **given.get("grid", {})}
    return Entry(
        notebooks=notebooks,
        runs=runs,
        parameters=given.get("parameters", {}),
        grid=given.get("grid", {}),
        shared={n: v for n, v in defaults.get("parameters", {}).items() if n not in own},
        shared_grid={n: v for n, v in defaults.get("grid", {}).items() if n not in own},
        each_run=merged.get("each_run", False),
        frames=merged.get("frames", FRAMES) if frames is None else frames,
        name=given.get("name", ""),
    )


def _texts(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def _undeclared(where: str, defaults: Mapping[str, Any], entries: Mapping[str, Entry]) -> list[str]:
    """Name the defaults that no notebook of the plan declares."""
    notebooks = {path for entry in entries.values() for path in entry.notebooks}
    known = sorted({n for path in notebooks for n in declared_parameters(path)} - {"runs"})
    names = [*defaults.get("parameters", {}), *defaults.get("grid", {})]
    return [
        f"{where}: {unknown_name('notebook parameter', name, known)}"
        for name in names
        if name not in known
    ]
