"""From notebooks, runs and grids of parameters to a list of checked executions with safe, lasting names."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bvit_analysis.errors import ConfigError, RunError, SuiteError, one_by_one, unknown_name
from bvit_analysis.outputs import FRAMES
from bvit_analysis.records import RunWarning, load_run
from bvit_analysis.records.format import check_name
from bvit_analysis.suite.jobs import NotebookJob
from bvit_analysis.suite.parameters import (
    Parameter,
    check_parameter,
    check_parameter_name,
    declared_parameters,
    require_notebooks,
)

MAX_FRAMES = 1000
_LONGEST_NAME = 120  # bytes; a file system allows 255, and other files are named after it
_UNSAFE = re.compile(r"[^A-Za-z0-9._]+")
_PLAIN = re.compile(r"[a-z_][a-z0-9_]*(\.[a-z0-9_]+)*")
_ALSO = re.compile(r"none|true|false|empty|inf|nan|minus.*")
"Texts that may name another value as well."
_SUMMARY = "summary.json"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Notebooks, and what to execute each of them with."""

    notebooks: Sequence[Path]
    "Sources; their stems must differ."
    runs: Sequence[Path] = ()
    "Run folders, given to each notebook that declares ``runs``."
    parameters: Mapping[str, object] = field(default_factory=dict)
    "Name to value; each notebook takes those it declares, and one must declare it."
    grid: Mapping[str, Sequence[object]] = field(default_factory=dict)
    "Name to values: one execution for each combination of those a notebook declares."
    shared: Mapping[str, object] = field(default_factory=dict)
    "Like parameters, but not all need to be declared here."
    shared_grid: Mapping[str, Sequence[object]] = field(default_factory=dict)
    "Like grid, but not all need to be declared here."
    each_run: bool = False
    "One execution a run, in place of one over all runs."
    frames: int = FRAMES
    "Pictures that each explorer draws ahead."
    name: str = ""
    "Goes into the jobs' names, to tell entries with the same notebook apart."


def expand(entry: Entry) -> list[NotebookJob]:
    """Check all that can be checked before a kernel starts, and return what is to be executed.

    Returns:
        The jobs, in the order of notebooks, then of runs, then of the grid's values, last name fastest.

    Raises:
        SuiteError: If a notebook, a name or a value is wrong; the text names the nearest right one.
        RunError: If no run folder can be read. One among others that cannot is left out of an execution over all runs;
            an execution over that one alone is refused. A notebook among others that cannot be read is refused, too.
    """
    require_notebooks()
    if not entry.notebooks:
        raise SuiteError("no notebooks chosen; give at least one .ipynb file")
    if not 1 <= entry.frames <= MAX_FRAMES:
        raise SuiteError(f"frames must be from 1 to {MAX_FRAMES}, got {entry.frames}")
    if entry.name:
        try:
            check_name(entry.name)
        except ConfigError as error:
            raise SuiteError(str(error)) from error
    paths = list(dict.fromkeys(Path(notebook).resolve() for notebook in entry.notebooks))
    for path in paths:
        check_job_name(path.stem)
    twice = [stem for stem, count in Counter(path.stem for path in paths).items() if count > 1]
    if twice:
        raise SuiteError(f"two notebooks are named {twice[0]!r}; rename one, names become folders")
    read, unread = one_by_one(paths, declared_parameters)
    if not read:
        raise SuiteError(unread[0][1])
    schemas = dict(read)
    _check_names(schemas, entry)
    folders = list(dict.fromkeys(str(Path(run).resolve()) for run in entry.runs))
    damaged = dict(one_by_one(folders, _open)[1])
    if entry.each_run and not folders:
        raise SuiteError("one execution a run is asked for and no run folder is given")
    takes_runs = any("runs" in schema for schema in schemas.values())
    if entry.each_run and not takes_runs:
        raise SuiteError(
            "one execution a run is asked for, but none of the notebooks declares 'runs' in its "
            "cell tagged 'parameters'"
        )
    if takes_runs and folders and len(damaged) == len(folders):
        more = f" (and {len(damaged) - 1} more cannot be read)" if len(damaged) > 1 else ""
        raise RunError(f"{damaged[folders[0]]}{more}")
    refused = dict(unread)
    jobs: list[NotebookJob] = []
    for path in paths:
        if path in refused:
            jobs.append(
                NotebookJob(notebook=path, parameters={}, name=path.stem, refused=refused[path])
            )
        else:
            jobs += _jobs_of(path, schemas[path], entry, folders, damaged)
    return jobs


def _open(folder: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RunWarning)  # the report names damaged parts
        load_run(folder)


def expand_all(entries: Mapping[str, Entry]) -> list[NotebookJob]:
    """Expand several entries, whose jobs' names must differ.

    Args:
        entries: What an entry is called in an error, to the entry.

    Raises:
        PlanError: If an entry is wrong, or two of them lead to one folder; it lists all that is wrong.
    """
    problems: list[str] = []
    jobs: list[NotebookJob] = []
    owners: dict[str, str] = {}
    for label, entry in entries.items():
        try:
            found = expand(entry)
        except (SuiteError, RunError) as error:
            problems.append(f"{label}: {error}")
            continue
        for job in found:
            other = owners.setdefault(job.name.casefold(), label)
            if other != label:
                problems.append(
                    f"{label}: the results of {job.name!r} would go into the folder that {other} "
                    "has; give one of the two another 'name'"
                )
                break
        jobs += found
    if problems:
        raise PlanError(problems)
    return jobs


class PlanError(SuiteError):
    """A plan cannot be executed as it is; ``problems`` has one line for each thing that is wrong."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = [" ".join(problem.split()) for problem in problems]
        more = len(self.problems) - 1
        rest = f" (and {more} more; --dry-run prints them all)" if more else ""
        super().__init__(self.problems[0] + rest)


def check_job_name(name: str) -> str:
    """Return a name that can be a folder of results.

    Raises:
        SuiteError: If it cannot.
    """
    if name.startswith(".") or Path(name).name != name or name == _SUMMARY:
        raise SuiteError(f"{name!r} cannot name a folder of results; rename the notebook")
    return name


def _check_names(schemas: Mapping[Path, Mapping[str, Parameter]], entry: Entry) -> None:
    known = sorted({name for schema in schemas.values() for name in schema} - {"runs"})
    for name in (*entry.parameters, *entry.grid, *entry.shared, *entry.shared_grid):
        check_parameter_name(name)
        if name == "runs":
            raise SuiteError(
                "the parameter 'runs' is filled with the chosen run folders; "
                "choose runs instead of setting it"
            )
        if name not in known and (name in entry.parameters or name in entry.grid):
            raise SuiteError(unknown_name("notebook parameter", name, known))
    fixed, varied = {**entry.shared, **entry.parameters}, {**entry.shared_grid, **entry.grid}
    both = sorted(set(fixed) & set(varied))
    if both:
        raise SuiteError(
            f"parameter {both[0]!r} has one value and a grid of values; give it one of the two"
        )


def _jobs_of(
    path: Path,
    schema: Mapping[str, Parameter],
    entry: Entry,
    folders: Sequence[str],
    damaged: Mapping[str, str],
) -> list[NotebookJob]:
    grid = {n: v for n, v in {**entry.shared_grid, **entry.grid}.items() if n in schema}
    fixed = {n: v for n, v in {**entry.shared, **entry.parameters}.items() if n in schema}
    chosen = {n: check_parameter(schema[n], v) for n, v in fixed.items()}
    axes: list[list[tuple[str, str, object]]] = []
    left_out: tuple[str, ...] = ()
    if "runs" in schema and folders:
        if entry.each_run:
            runs = [check_parameter(schema["runs"], [folder]) for folder in folders]
            labels = map(_run_label, folders)
            axes.append([(label, "runs", value) for label, value in zip(labels, runs, strict=True)])
        else:
            whole = [folder for folder in folders if folder not in damaged]
            chosen = {"runs": check_parameter(schema["runs"], whole), **chosen}
            left_out = tuple(damaged[folder] for folder in folders if folder in damaged)
    elif "runs" in schema and not schema["runs"].default:
        raise SuiteError(
            f"notebook {path.stem!r} needs run folders and none is given; "
            "make some with `bvit train` or `bvit ablate`"
        )
    axes += [_axis(schema[name], values) for name, values in grid.items()]
    begin = f"{path.stem}--{entry.name}" if entry.name else path.stem
    names, parameters = [], []
    for point in itertools.product(*axes):
        names.append("--".join([begin, *(label for label, _, _ in point)]))
        parameters.append({**chosen, **{name: value for _, name, value in point}})
    return [
        NotebookJob(
            notebook=path,
            parameters=values,
            name=name,
            frames=entry.frames,
            left_out=left_out,
            refused=_refusal(values, damaged) if entry.each_run else None,
        )
        for name, values in zip(_distinct(names, parameters), parameters, strict=True)
    ]


def _refusal(parameters: Mapping[str, object], damaged: Mapping[str, str]) -> str | None:
    runs = parameters.get("runs")
    own = runs if isinstance(runs, list) else []
    return next((damaged[run] for run in own if run in damaged), None)


def _axis(parameter: Parameter, values: Sequence[object]) -> list[tuple[str, str, object]]:
    if isinstance(values, str | bytes) or not isinstance(values, Sequence) or not values:
        raise SuiteError(
            f"the grid of {parameter.name!r} must be a list of at least one value, got {values!r}"
        )
    typed = [check_parameter(parameter, value) for value in values]
    for number, value in enumerate(typed):
        if any(value == other and type(value) is type(other) for other in typed[:number]):
            raise SuiteError(f"the grid of {parameter.name!r} has {value!r} twice; give it once")
    return [(f"{parameter.name}-{_label(value)}", parameter.name, value) for value in typed]


def _label(value: object) -> str:
    """Return what names a value in a folder's name, always the same and of no other value.

    Example:
        >>> [_label(value) for value in (50, -0.5, "grs", "", None, 1e20)]
        ['50', 'minus0.5', 'grs', 'empty', 'none', '1e20']
        >>> _label("a/b") == _label("a-b"), _label(["a", "b"])[:4]
        (False, 'a-b-')
    """
    text = _slug(value)
    number = isinstance(value, int | float) or value is None
    told = isinstance(value, str) and _PLAIN.fullmatch(value) and not _ALSO.fullmatch(value)
    # What the slug does not tell from another value is told by a hash.
    return text if number or told or value == "" else f"{text}-{_hash(json.dumps(value))}"


def _slug(value: object) -> str:
    """Return letters, digits, '.', '_' and single '-' that remind of a value.

    Example:
        >>> [_slug(value) for value in (50, -0.5, ["baseline", "grs"], "", None, "a/b")]
        ['50', 'minus0.5', 'baseline-grs', 'empty', 'none', 'a-b']
    """
    if isinstance(value, bool | None):
        text = str(value).lower()
    elif isinstance(value, int | float):
        text = str(value).replace("e+", "e")
        text = text.replace("-", "minus", 1) if value < 0 else text
    elif isinstance(value, list):
        text = "-".join(_slug(item) for item in value)
    else:
        text = value if isinstance(value, str) else json.dumps(value)
    return _UNSAFE.sub("-", text).strip("-.") or "empty"


def _run_label(folder: str) -> str:
    """Return what names a run: its folder, and a hash of the whole path, whatever other runs are chosen."""
    return f"{_slug(Path(folder).name)}-{_hash(folder)}"


def _distinct(names: Sequence[str], parameters: Sequence[object]) -> list[str]:
    """Tell names apart that became the same, by a hash of what they stand for, and cut long ones."""
    counts = Counter(name.casefold() for name in names)
    return [
        _short(name if counts[name.casefold()] == 1 else f"{name}--{_hash(json.dumps(values))}")
        for name, values in zip(names, parameters, strict=True)
    ]


def _short(name: str) -> str:
    data = name.encode(errors="surrogateescape")
    if len(data) <= _LONGEST_NAME:
        return name
    begin = data[: _LONGEST_NAME - 9].decode(errors="ignore").rstrip("-. ")
    return f"{begin}-{_hash(name)}"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:8]
