"""A small folder may not ask for gigabytes; what is recorded may be large."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from bvit_analysis.files import DamagedFile
from bvit_analysis.records import RunWarning, load_run
from bvit_analysis.records.parts import encode_part
from bvit_analysis.records.unpacked import FREE_BYTES, MOST_RATIO, Unpacked
from tests.support.synthetic_run import make_run

MIB = 2**20


def test_so_much_is_unpacked_of_anything() -> None:
    unpacked = Unpacked()
    unpacked.take(1, FREE_BYTES)
    with pytest.raises(DamagedFile, match="of 1 bytes would unpack to about 1048576"):
        unpacked.take(1, MIB)


def test_large_records_may_take_what_they_need() -> None:
    unpacked = Unpacked()
    for _ in range(100):
        unpacked.take(10 * MIB, 10 * MOST_RATIO * MIB)
    with pytest.raises(DamagedFile, match="so small"):
        unpacked.take(MIB, MOST_RATIO * MIB + 1)


def test_what_was_refused_does_not_count() -> None:
    unpacked = Unpacked()
    for _ in range(3):
        with pytest.raises(DamagedFile):
            unpacked.take(1, 2**40)
    unpacked.take(1, FREE_BYTES)


def test_many_small_parts_count_together(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r", steps=2, blocks=1)
    before = load_run(run).trajectories
    rows = 150_000  # 8.4 MB in 7 columns
    zeros = {
        "step": np.zeros(rows, "i8"),
        "site_id": np.zeros(rows, "i2"),
        "index": np.zeros(rows, "i8"),
    }
    floats = dict.fromkeys(("latent", "gradient"), np.zeros(rows, "f4"))
    table = pa.table({**zeros, **floats, "sign": np.ones(rows, "i1")})
    data = encode_part("trajectories", table, "r")
    for number in range(100, 110):
        (run / "trajectories" / f"part-{number:06d}.parquet").write_bytes(data)
    with pytest.warns(RunWarning, match="would unpack to about"):
        opened = load_run(run)
    assert 1 <= len(opened.warnings) < 10
    found = opened.trajectories  # the rows of one key are one row
    assert len(found) <= len(before) + 1
