"""What a run folder holds: the schema of each kind of rows, and which names are allowed."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pyarrow as pa

from bvit_analysis.errors import ConfigError
from bvit_analysis.files import DamagedFile
from bvit_analysis.records.columns import COLUMNS

SCHEMA_VERSION = 1
"Of every file in a run folder; a reader refuses any other."

CHECKPOINTS, LOCK = "checkpoints", "lock"
"Names in a run folder of what is for its writer alone."

SUPERSEDED = "superseded-"
"What the name of a folder of rows begins with that a later attempt has set aside."


def _schema(**fields: pa.DataType) -> pa.Schema:
    return pa.schema([pa.field(name, kind) for name, kind in fields.items()])


_STEP = {"step": pa.int64()}
_SITE = {"step": pa.int64(), "site_id": pa.int16()}

SCHEMAS: dict[str, pa.Schema] = {
    "scalars": _schema(**_STEP, **dict.fromkeys(COLUMNS["scalars"], pa.float64())),
    "timings": _schema(**_STEP, **dict.fromkeys(COLUMNS["timings"], pa.float64())),
    "sites": _schema(**_SITE, **dict.fromkeys(COLUMNS["sites"], pa.float32())),
    "histograms": _schema(
        **_SITE, kind=pa.string(), lo=pa.float64(), hi=pa.float64(), counts=pa.list_(pa.int64())
    ),
    "channels": _schema(**_SITE, n=pa.int64(), counts=pa.list_(pa.int64())),
    "trajectories": _schema(
        **_SITE,
        index=pa.int64(),
        latent=pa.float32(),
        gradient=pa.float32(),
        sign=pa.int8(),
        since=pa.int64(),
    ),
}
"Columns of each kind of rows, as far as the catalogue knows them; a run may have more, fewer, in another order."

OPTIONAL = frozenset({"since"})
"Columns of whole numbers that older releases did not record; 0 where they lack."

KEYS: dict[str, tuple[str, ...]] = {
    "scalars": ("step",),
    "timings": ("step",),
    "sites": ("step", "site_id"),
    "histograms": ("step", "site_id", "kind"),
    "channels": ("step", "site_id"),
    "trajectories": ("step", "site_id", "index"),
}
"Columns that identify a row; of two rows with one key the later value counts, and NaN never does."

COUNT_ARRAYS: dict[str, type] = {
    "gross": np.int32,
    "first_sign": np.int8,
    "last_sign": np.int8,
    "late": np.int32,
    "steps": np.int64,
}
STATES = ("running", "interrupted", "failed", "finished")

MAX_SITES = 2**15 - 1
MAX_SITE_NAME = 1000
MAX_STEP = 2**53

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)


def check_name(name: str) -> str:
    """Return the name of a run if it is safe as a file name everywhere, and refuse it otherwise.

    Raises:
        ConfigError: If it is not 1 to 80 letters, digits, '.', '_' or '-', beginning with a letter
            or digit, or is a device name of Windows.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(
            f"name {str(name)[:100]!r} is not allowed; expected 1 to 80 letters, digits, '.', '_' "
            "or '-', beginning with a letter or digit"
        )
    if _DEVICE.fullmatch(name) or name.endswith("."):
        raise ConfigError(f"name {name!r} is not allowed: Windows reserves it; choose another")
    return name


def counts_file(site_id: int, site: str) -> str:
    """Return the file name of a site's counts: its own name, or its number where that is unsafe."""
    try:
        return f"{check_name(site)}.npz"
    except ConfigError:
        return f"_{site_id:05d}.npz"


def _is_unicode(text: str) -> bool:
    """Return whether a text can be written to a file; JSON can hold halves of characters, which no file can."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_sites(sites: Any) -> None:
    """Check that the site table of run.json has the form that a reader relies on.

    Raises:
        DamagedFile: If it has not.
    """
    if not isinstance(sites, list):
        raise DamagedFile("has no list of sites")
    if len(sites) > MAX_SITES:
        raise DamagedFile(f"lists {len(sites)} sites, at most {MAX_SITES} are read")
    for position, row in enumerate(sites):
        shape = row.get("shape") if isinstance(row, dict) else None
        if (
            not isinstance(shape, list)
            or not all(type(size) is int and 0 < size < 2**31 for size in shape)
            or type(row.get("site_id")) is not int
            or not 0 <= row["site_id"] <= MAX_SITES
            or not isinstance(row.get("site"), str)
            or len(row["site"]) > MAX_SITE_NAME
            or not _is_unicode(row["site"])
            or not isinstance(row.get("kind"), str)
            or len(row["kind"]) > MAX_SITE_NAME
            or not _is_unicode(row["kind"])
            or type(row.get("n_weights", 0)) is not int
            or not 0 <= row.get("n_weights", 0) <= MAX_STEP
        ):
            raise DamagedFile(f"has a malformed site, number {position}")
    if len({row["site_id"] for row in sites}) < len(sites):
        raise DamagedFile("lists one site_id twice")
    if len({row["site"] for row in sites}) < len(sites):
        raise DamagedFile("lists one site twice")
