"""Means over seeds are of common steps; runs that diverged are named and not in them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bvit_analysis import plots, tables
from bvit_analysis.plots.series import last_values
from bvit_analysis.records import Run, RunWarning, RunWriter, load_run
from bvit_analysis.tables.seeds import counted, diverged_at, diverged_runs, in_common


def _run(
    path: Path,
    losses: Mapping[int, float],
    *,
    recipe: str = "baseline",
    seed: int = 0,
    error: str = "",
) -> Run:
    config = {"recipe": {"name": recipe}, "seed": seed}
    info = {"kind": "binary", "config": config, "seed": seed}
    with RunWriter(path, info=info) as writer:
        writer.append("scalars", {"step": list(losses), "loss": list(losses.values())})
        if error:
            writer.write_status("failed", max(losses), error=error)
    return load_run(path)


def _runs(tmp_path: Path, *series: Mapping[int, float]) -> list[Run]:
    return [_run(tmp_path / f"r{n}", losses, seed=n) for n, losses in enumerate(series)]


def _line(run_losses: list[Run]) -> dict[int, float]:
    ax = plots.plot_loss(run_losses, window=1)
    x, y = ax.get_lines()[0].get_data()
    return dict(zip(map(int, x), map(float, y), strict=True))


def _legend(runs: list[Run]) -> list[str]:
    legend = plots.plot_loss(runs, window=1).get_legend()
    return [text.get_text() for text in legend.get_texts()]


def test_equal_seeds_are_all_in_the_mean(tmp_path: Path) -> None:
    runs = _runs(tmp_path, {10: 4.0, 20: 2.0}, {10: 2.0, 20: 1.0})
    assert _line(runs) == {10: 3.0, 20: 1.5}
    assert _legend(runs) == ["baseline (n=2)"]


@pytest.mark.parametrize("seed", range(5))
def test_the_mean_is_of_common_steps_as_brute_force_has_it(tmp_path: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    series = [
        {int(step): float(random.normal()) for step in random.choice(20, 14, replace=False)}
        for _ in range(3)
    ]
    series = [dict(sorted(one.items())) for one in series]
    wanted = {}
    for step in range(20):
        if all(step in one for one in series):
            wanted[step] = sum(one[step] for one in series) / 3
    found = _line(_runs(tmp_path, *series))
    assert found == pytest.approx(wanted)
    every = len(set(itertools.chain(*series)))
    text = f"n=3, {len(wanted)} of {every} steps in common"
    assert in_common(tables.scalar_frame(_runs(tmp_path / "again", *series)), "loss")[1] == {
        "baseline": text
    }


def test_a_shorter_seed_ends_the_mean_and_the_words_say_so(tmp_path: Path) -> None:
    runs = _runs(tmp_path, {10: 4.0, 20: 2.0, 30: 2.0}, {10: 2.0})
    assert _line(runs) == {10: 3.0}
    assert _legend(runs) == ["baseline (n=2, 1 of 3 steps in common)"]


def test_seeds_without_a_common_step_have_no_mean(tmp_path: Path) -> None:
    runs = _runs(tmp_path, {10: 4.0, 30: 2.0}, {15: 2.0})
    ax = plots.plot_loss(runs, window=1)
    # Each run is drawn by itself, faintly.
    assert [list(line.get_xdata()) for line in ax.get_lines()] == [[10, 30], [15]]
    assert {line.get_alpha() for line in ax.get_lines()} == {0.4}
    assert _legend(runs) == ["baseline (n=0, 0 of 3 steps in common)"]


def test_a_diverged_run_is_named_and_not_in_the_mean(tmp_path: Path) -> None:
    nan = float("nan")
    runs = _runs(
        tmp_path,
        {10: 4.0, 20: 2.0, 30: 1.0},
        {10: 9.0, 20: nan, 30: nan},
        {10: 2.0, 20: 2.0, 30: 3.0},
    )
    assert [diverged_at(run) for run in runs] == [None, 10, None]
    assert _line(runs) == {10: 3.0, 20: 2.0, 30: 2.0}
    assert _legend(runs) == ["baseline (n=2)", "baseline, seed 1: diverged at step 10"]
    frame = tables.scalar_frame(runs)
    assert diverged_runs(frame) == {1: 10}
    words = last_values(frame.dropna(subset=["loss"]), "loss")
    assert words == "baseline 2, left out baseline, seed 1, which diverged at step 10"


def test_a_run_that_failed_on_numbers_has_diverged_another_failure_has_not(tmp_path: Path) -> None:
    losses = {10: 4.0, 20: 2.0}
    failed = "TrainingError: the loss is not finite at step 21"
    assert diverged_at(_run(tmp_path / "a", losses, error=failed)) == 20
    assert diverged_at(_run(tmp_path / "b", losses, error="TrainingError: loss is nan")) == 20
    assert diverged_at(_run(tmp_path / "c", losses, error="RunError: No space left")) is None
    assert diverged_at(_run(tmp_path / "d", losses, error="RunError: in /nano/info")) is None
    assert diverged_at(_run(tmp_path / "e", losses)) is None


def test_a_loss_that_is_given_now_and_then_is_no_divergence(tmp_path: Path) -> None:
    nan = float("nan")
    assert diverged_at(_run(tmp_path / "a", {1: 4.0, 2: nan, 3: 2.0, 4: nan, 5: nan})) is None
    assert diverged_at(_run(tmp_path / "b", {1: nan, 2: nan})) is None
    assert diverged_at(_run(tmp_path / "c", {1: 4.0, 2: nan})) is None
    run = _run(tmp_path / "d", {1: 4.0, 2: float("inf"), 3: float("inf")})
    with pytest.warns(RunWarning, match="'loss' outside the finite numbers"):
        assert diverged_at(run) == 1


def test_all_seeds_diverged(tmp_path: Path) -> None:
    nan = float("nan")
    runs = _runs(tmp_path, {10: 4.0, 20: nan, 30: nan})
    assert _legend(runs) == [
        "baseline (n=0, none without divergence)",
        "baseline, seed 0: diverged at step 10",
    ]


def test_counts_differ_from_place_to_place() -> None:
    frame = pd.DataFrame({"run": [0, 1, 0], "site": ["a", "a", "b"]})
    assert counted(frame, "site") == "n=1 to 2"
    assert counted(frame[frame["site"] == "a"], "site") == "n=2"
    assert counted(frame.head(0), "site") == "n=0"
