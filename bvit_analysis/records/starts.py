"""Latent weights of a site before the first step: whole rows, chosen at random, which chance starts from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
from numpy.typing import NDArray

from bvit_analysis.files import DamagedFile, write_bytes_atomic
from bvit_analysis.records.arrays import ArrayArchive, check_owner, encode_arrays
from bvit_analysis.records.format import counts_file

STARTS = "starts"
"Name of the folder in a run folder."

ARGUMENTS = ("latent", "centred", "other")
"What a sign is taken of: the latent weight, that less its row's mean, or anything else."

_MAX_BYTES, _MAX_VALUES = 2**28, 2**26


@final
@dataclass(frozen=True)
class StartLatents:
    """Some rows of a site's latent weights, as they were before the first step."""

    rows: NDArray[np.int64]
    "(R,) which output channels, rising."
    latent: NDArray[np.float32]
    "(R, I), weight units."
    argument: str
    "One of ARGUMENTS."


def write_start(
    run_dir: Path, site_id: int, site: str, start: StartLatents, run_id: str | None
) -> None:
    """Store the start of a site, replacing an earlier one.

    Raises:
        RunError: If it cannot be stored.
    """
    arrays: dict[str, np.ndarray] = {
        "rows": np.ascontiguousarray(start.rows, np.int64),
        "latent": np.ascontiguousarray(start.latent, np.float32),
        "argument": np.array(ARGUMENTS.index(start.argument), np.int64),
    }
    (run_dir / STARTS).mkdir(exist_ok=True)
    path = run_dir / STARTS / counts_file(site_id, site)
    write_bytes_atomic(path, encode_arrays(arrays, run_id))


def read_start(run_dir: Path, site_id: int, site: str, run_id: str | None) -> StartLatents:
    """Read the start of a site.

    Raises:
        DamagedFile: If the file cannot be trusted.
        FileNotFoundError: If there is none.
    """
    folder = run_dir / STARTS
    if folder.is_symlink():
        raise DamagedFile("is in a linked folder")
    with ArrayArchive(folder / counts_file(site_id, site), _MAX_BYTES) as archive:
        check_owner(archive, run_id)
        shape = archive.shape("latent")
        if len(shape) != 2 or not 0 < math.prod(shape) <= _MAX_VALUES:
            raise DamagedFile(f"has start latents of shape {shape}")
        rows = archive.read("rows", np.dtype(np.int64), shape[:1])
        latent = archive.read("latent", np.dtype(np.float32), shape)
        which = int(archive.read("argument", np.dtype(np.int64), ()))
    if not np.isfinite(latent).all() or not 0 <= which < len(ARGUMENTS):
        raise DamagedFile("has start latents that cannot be")
    return StartLatents(rows, latent, ARGUMENTS[which])
