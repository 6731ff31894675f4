"""Tables of probes, against numpy and scipy."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from bvit_analysis.records import load_run
from bvit_analysis.records.probes import SignProbe, write_sign_probe
from bvit_analysis.tables.probes import probe_finding, probe_frame, probe_table

SHIPPED = Path(__file__).resolve().parents[2] / "data" / "runs"
COSTS = {0: (0.02, 0.05, 0.07), 1: (0.03, 0.06, 0.06), 2: (0.01, 0.03, 0.05)}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory):
    root = tmp_path_factory.mktemp("probes")
    found = []
    for seed, (restless, *random) in COSTS.items():
        folder = root / f"grs-seed{seed}"
        shutil.copytree(SHIPPED / "grs-seed0", folder)
        rows = [
            {"group": "restless", "draw": 0, "turned": 5, "loss": 0.5 + restless, "accuracy": 0.7}
        ]
        rows += [
            {"group": "random", "draw": k, "turned": 5, "loss": 0.5 + cost, "accuracy": 0.6}
            for k, cost in enumerate(random)
        ]
        probe = SignProbe(share=0.05, images=9, step=600, loss=0.5, accuracy=0.75, rows=rows)
        write_sign_probe(folder, probe, load_run(folder).run_id)
        found.append(load_run(folder))
    return found


def test_a_runs_draws_are_averaged_and_intervals_are_over_runs(runs) -> None:
    table = probe_table(runs).set_index("group")
    restless = np.array([one[0] for one in COSTS.values()])
    random = np.array([np.mean(one[1:]) for one in COSTS.values()])
    for name, values in (("restless", restless), ("random", random)):
        low, high = scipy.stats.t.interval(
            0.95, 2, loc=values.mean(), scale=scipy.stats.sem(values)
        )
        found = table.loc[name, ["loss_change", "low", "high"]].to_numpy(float)
        np.testing.assert_allclose(found, [values.mean(), low, high])
    relative = restless - random
    assert table.loc["restless", "relative_to_random"] == pytest.approx(relative.mean())
    assert table.loc["random", "relative_to_random"] == pytest.approx(0.0)
    assert table["n"].tolist() == [3, 3]
    assert len(probe_frame(runs)) == 9


def test_what_it_says(runs) -> None:
    assert probe_finding(runs) == (
        "grs: turning the 5% most restless weights costs +0.020 nats, 0.033 less than as many at random"
        " (+0.053; n=3, interval excludes zero)"
    )
    assert probe_finding(runs[:1]).endswith("n=1, no interval)")
    none = load_run(SHIPPED / "grs-seed1")
    assert probe_table([none]).empty
    assert probe_finding([none]) == "No sign probe is stored; make one with `bvit probe RUN`."
