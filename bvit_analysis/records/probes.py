"""Probes of a finished run: what its model loses where chosen weights are used with the other sign."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from bvit_analysis.errors import ConfigError
from bvit_analysis.files import DamagedFile, read_json, write_json_atomic
from bvit_analysis.records.format import SCHEMA_VERSION

PROBES = "probes"
SIGNS_FILE = "signs.json"
_MOST_ROWS = 10_000
_COLUMNS = ("group", "draw", "turned", "loss", "accuracy")


@dataclass(frozen=True, kw_only=True)
class SignProbe:
    """Settings and outcome of turning the signs of groups of weights."""

    share: float
    "Share of each site's weights that were turned."
    images: int
    "Validation images that loss and accuracy are of."
    step: int
    "Of the checkpoint."
    loss: float
    "With no sign turned, nats."
    accuracy: float
    "With no sign turned, share of images."
    rows: list[dict[str, Any]]
    "Each draw of a group: group, draw, turned (number of weights), loss (nats), accuracy."


def write_sign_probe(run_dir: Path, probe: SignProbe, run_id: str) -> Path:
    """Store a probe in a run folder, replacing an earlier one, and return its file.

    Raises:
        RunError: If it cannot be stored.
    """
    path = run_dir / PROBES / SIGNS_FILE
    path.parent.mkdir(exist_ok=True)
    write_json_atomic(path, {"schema_version": SCHEMA_VERSION, "run_id": run_id, **asdict(probe)})
    return path


def read_sign_probe(run_dir: Path, run_id: str) -> SignProbe | None:
    """Return the probe that is stored in a run folder, None if there is none.

    Raises:
        DamagedFile: If it is damaged, of another run, or holds what cannot be.
    """
    folder = run_dir / PROBES
    if folder.is_symlink():
        raise DamagedFile("is in a linked folder")
    try:
        found = read_json(folder / SIGNS_FILE)
    except FileNotFoundError:
        return None
    if found.pop("schema_version", None) != SCHEMA_VERSION or found.pop("run_id", None) != run_id:
        raise DamagedFile("is of another run or schema version")
    try:
        probe = SignProbe(**found)
    except TypeError as error:
        raise DamagedFile("has other fields than a probe") from error
    numbers = [(probe.loss, None), (probe.accuracy, 1.0), (probe.share, 1.0)]
    if not isinstance(probe.rows, list) or len(probe.rows) > _MOST_ROWS:
        raise DamagedFile(f"has no list of at most {_MOST_ROWS} rows")
    for row in probe.rows:
        if not isinstance(row, dict) or set(row) != set(_COLUMNS) or not _is_text(row["group"]):
            raise DamagedFile("has a malformed row")
        numbers += [(row["loss"], None), (row["accuracy"], 1.0), (row["turned"], None)]
    whole = (probe.images, probe.step, *(row["draw"] for row in probe.rows))
    sound = all(_is_number(value, most) for value, most in numbers)
    if not sound or not all(type(number) is int and number >= 0 for number in whole):
        raise DamagedFile("holds a figure that cannot be")
    return probe


def probe_rows(probe: SignProbe) -> pd.DataFrame:
    """Return the rows of a probe with their difference to the model as it is.

    Returns:
        Columns group, draw, turned, loss (nats), accuracy, loss_change (nats), accuracy_change (share of images).
    """
    frame = pd.DataFrame(probe.rows, columns=list(_COLUMNS))
    return frame.assign(
        loss_change=frame["loss"] - probe.loss, accuracy_change=frame["accuracy"] - probe.accuracy
    )


def check_share(share: float, draws: int, groups: Sequence[str], known: Sequence[str]) -> None:
    """See that a probe can be made.

    Raises:
        ConfigError: If not; the text says which setting.
    """
    if not (isinstance(share, (int, float)) and 0 < share <= 0.5):
        raise ConfigError(
            f"share must be above 0 and at most 0.5 of each site's weights, got {share!r}"
        )
    if draws < 1:
        raise ConfigError(f"draws must be at least 1, got {draws}")
    unknown = [name for name in groups if name not in known]
    if unknown or not groups:
        raise ConfigError(f"groups must be some of {', '.join(known)}, got {list(groups)!r}")


def _is_text(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 80


def _is_number(value: object, most: float | None) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return False
    return value >= 0 and (most is None or value <= most)
