"""Stored probes: a round trip, and what is damaged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from bvit_analysis.records import RunWarning, load_run
from bvit_analysis.records.probes import (
    PROBES,
    SIGNS_FILE,
    SignProbe,
    probe_rows,
    read_sign_probe,
    write_sign_probe,
)

SHIPPED = Path(__file__).resolve().parents[2] / "data" / "runs" / "grs-seed0"


def probe_of(loss: float = 0.5) -> SignProbe:
    rows = [
        {"group": group, "draw": 0, "turned": 9, "loss": loss + cost, "accuracy": 0.75 - cost}
        for group, cost in (("restless", 0.02), ("random", 0.04))
    ]
    return SignProbe(share=0.05, images=100, step=600, loss=loss, accuracy=0.75, rows=rows)


def test_a_round_trip(tmp_path: Path) -> None:
    write_sign_probe(tmp_path, probe_of(), "mine")
    assert read_sign_probe(tmp_path, "mine") == probe_of()
    assert read_sign_probe(tmp_path / "elsewhere", "mine") is None
    rows = probe_rows(probe_of())
    assert rows["loss_change"].tolist() == pytest.approx([0.02, 0.04])
    assert rows["accuracy_change"].tolist() == pytest.approx([-0.02, -0.04])


@pytest.mark.parametrize(
    "change",
    [
        {"run_id": "other"},
        {"schema_version": 99},
        {"loss": float("nan")},
        {"accuracy": 1.5},
        {"images": "many"},
        {"rows": "none"},
        {"rows": [{"group": "restless"}]},
        {"rows": [{"group": "x" * 99, "draw": 0, "turned": 1, "loss": 1.0, "accuracy": 0.5}]},
        {"rows": [{"group": "far", "draw": -1, "turned": 1, "loss": 1.0, "accuracy": 0.5}]},
        {"more": 1},
    ],
    ids=lambda change: next(iter(change)),
)
def test_damage_is_named_and_counts_as_nothing(tmp_path: Path, change: dict) -> None:
    folder = tmp_path / "grs-seed0"
    shutil.copytree(SHIPPED, folder)
    path = write_sign_probe(folder, probe_of(), load_run(folder).run_id)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    run = load_run(folder)
    with pytest.warns(RunWarning, match=rf"{PROBES}/{SIGNS_FILE}"):
        assert run.sign_probe is None
