"""run.json as a reader takes it: what a run needs is checked, what cannot be is passed over and said."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bvit_analysis.errors import ConfigError, RunError
from bvit_analysis.files import DamagedFile, read_json
from bvit_analysis.records.format import MAX_SITES, SCHEMA_VERSION, check_name, check_sites
from bvit_analysis.records.places import RUN_FILE, find_runs

MAX_SEED = 2**63
MAX_SHOWN = 200
"Characters of a text of a run, such as its recipe's name, that are shown."
_MAX_KIND = 80
_MAX_CELL = 1000


def read_info(path: Path) -> dict[str, Any]:
    """Read and check run.json.

    Raises:
        RunError: If it is missing, damaged or of another schema version.
    """
    run_json = path / RUN_FILE
    remedy = "record one with `bvit train` or bvit_analysis.Watch, or pass the folder of one"
    try:
        info = read_json(run_json)
    except FileNotFoundError:
        near = find_runs(path, depth=1)[:3] if path.is_dir() else []
        if near:
            remedy = "pass one of the runs in it: " + ", ".join(str(run) for run in near)
        raise RunError(f"no run at {path}: expected a folder with a run.json; {remedy}") from None
    except DamagedFile as error:
        raise RunError(
            f"cannot read run {path}: run.json {error}; restore the file from a copy, or {remedy}"
        ) from error
    except OSError as error:
        raise RunError(f"cannot look for a run at {path}: {error.strerror}; {remedy}") from error
    except ValueError as error:  # a path with a zero byte
        raise RunError(f"{str(path)!r} is no path ({error}); {remedy}") from error
    version = info.get("schema_version")
    if version != SCHEMA_VERSION or isinstance(version, bool):
        newer = isinstance(version, int) and version > SCHEMA_VERSION
        cure = "update bvit_analysis" if newer else "record the run again with this version"
        raise RunError(
            f"run {path} has schema version {shown(version)[:40]!r}, this bvit_analysis reads "
            f"version {SCHEMA_VERSION}; {cure}"
        )
    try:
        check_sites(info.get("sites", []))
        check_name(info.get("run_id", ""))
        if not isinstance(info.get("config"), (dict, type(None))):
            raise DamagedFile("has a config that is not an object")
    except (DamagedFile, ConfigError) as error:
        raise RunError(
            f"cannot read run {path}: run.json {error}; restore the file from a copy, or {remedy}"
        ) from error
    return info


def believable(info: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return what run.json says, without what cannot be, and a sentence for each thing passed over.

    Args:
        info: From read_info().
    """
    found, faults = dict(info), []
    seed = found.get("seed")
    whole = isinstance(seed, int) and not isinstance(seed, bool) and abs(seed) < MAX_SEED
    if seed is not None and not whole:
        faults.append(f"seed {shown(seed)[:40]!r} is no whole number below 2**63, passed over")
        found["seed"] = None
    kind = found.get("kind", "watched")
    if not isinstance(kind, str) or len(kind) > _MAX_KIND or kind != shown(kind):
        faults.append(f"kind {shown(kind)[:40]!r} is no short text, read as 'watched'")
        found["kind"] = "watched"
    for name in ("versions", "hardware"):
        if not isinstance(found.get(name, {}), (dict, type(None))):
            faults.append(f"{name} is not an object, passed over")
            found[name] = {}
    found["costs"], said = _ledger(found.get("costs"))
    return found, faults + said


def _ledger(rows: object) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the rows of a cost ledger whose cells are short texts and numbers."""
    if rows is None:
        return [], []
    if not isinstance(rows, list) or len(rows) > MAX_SITES:
        return [], [f"costs is not a list of at most {MAX_SITES} objects, passed over"]
    sound = [
        row for row in rows if isinstance(row, dict) and all(map(_is_cell, (*row, *row.values())))
    ]
    wrong = len(rows) - len(sound)
    return sound, [f"{wrong} row(s) of costs that cannot be are left out"] if wrong else []


def _is_cell(value: object) -> bool:
    if isinstance(value, str):
        return len(value) <= _MAX_CELL
    if isinstance(value, (int, float)):
        return abs(value) < MAX_SEED and not math.isnan(value)
    return value is None


def shown(value: object) -> str:
    """Return a text of a run as it is shown: of bounded length, and without characters that no file can hold.

    A longer one is cut and ends in a hash of the whole, so that two names stay two.

    Example:
        >>> shown("grs"), shown(7)
        ('grs', '7')
    """
    try:
        text = value if isinstance(value, str) else str(value)
    except ValueError:  # a whole number of thousands of digits
        text = f"a {type(value).__name__} that is too long"
    data = text.encode("utf-8", "backslashreplace")
    text = data.decode()
    if len(text) <= MAX_SHOWN:
        return text
    return f"{text[: MAX_SHOWN - 12]}... {hashlib.sha256(data).hexdigest()[:8]}"
