from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from benchmarks.known_answers import PUSHES, make
from bvit_analysis.records import load_run
from bvit_analysis.tables import excess_table

pytestmark = pytest.mark.slow
SEEDS = 5
MEASURES = ["oscillating_flips", "flip_back_10", "tail_share", "late_flip_rate"]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pd.DataFrame]:
    folder = tmp_path_factory.mktemp("known")
    tables = {}
    for kind in PUSHES:
        runs = [load_run(make(kind, folder, seed)) for seed in range(SEEDS)]
        table = excess_table(runs, measures=MEASURES)
        assert set(table["null"]) == {"re-dealt"}
        assert set(table["runs"]) == {SEEDS}
        tables[kind] = table.set_index("measure")
    return tables


def test_noise_has_no_excess(found: dict[str, pd.DataFrame]) -> None:
    noise = found["noise"]
    assert (noise["observed"] > 0).all()
    assert ((noise["low"] < 0) & (noise["high"] > 0)).all(), noise.to_string()


def test_settling_weights_lie_below_chance(found: dict[str, pd.DataFrame]) -> None:
    settling = found["settling"]
    assert settling.loc["oscillating_flips", "high"] < 0
    assert settling.loc["oscillating_flips", "observed"] < (
        0.5 * settling.loc["oscillating_flips", "chance"]
    )
    assert (
        settling.loc[["oscillating_flips", "tail_share", "late_flip_rate"], "excess"] <= 0
    ).all()


def test_oscillating_weights_lie_far_above_chance(found: dict[str, pd.DataFrame]) -> None:
    oscillating = found["oscillating"]
    assert (oscillating["low"] > 0).all()
    for name in ("oscillating_flips", "tail_share", "late_flip_rate"):
        assert oscillating.loc[name, "observed"] > 2 * oscillating.loc[name, "chance"], name


def test_a_run_is_small_enough_to_be_shipped(tmp_path: Path) -> None:
    run_dir = make("oscillating", tmp_path, 0)
    assert sum(path.stat().st_size for path in run_dir.rglob("*") if path.is_file()) < 300_000
    assert load_run(run_dir).warnings == []
