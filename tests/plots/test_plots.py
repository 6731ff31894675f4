"""What holds for every figure: it takes ax=, returns it, describes itself, and survives what it cannot draw."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from bvit_analysis import plots, tables
from bvit_analysis.errors import ConfigError
from bvit_analysis.plots import style
from bvit_analysis.records import Run, load_run
from tests.support.synthetic_run import make_run

MANY: dict[str, Callable[..., Any]] = {
    name: getattr(plots, name)
    for name in (
        "plot_flip_rate",
        "plot_flip_distribution",
        "plot_flip_back",
        "plot_bimodality",
        "plot_near_zero",
        "plot_sign_entropy",
        "plot_channel_entropy",
        "plot_binarization_error",
        "plot_twin_agreement",
        "plot_near_constant",
        "plot_accuracy",
        "plot_loss",
        "plot_compared",
        "plot_run_scatter",
        "plot_flip_ranks",
        "plot_differences",
        "plot_evidence",
        "plot_latent_density",
        "plot_latent_ridges",
        "plot_bimodality_nulls",
        "plot_channels",
    )
}
ONE: dict[str, Callable[..., Any]] = {
    name: getattr(plots, name)
    for name in (
        "plot_flip_atlas",
        "plot_flip_ranking",
        "plot_trajectories",
        "plot_weight",
        "plot_latent_histogram",
    )
}
LEDGERS = (
    "plot_size_by_part",
    "plot_operations_by_part",
    "plot_ratios",
    "plot_reconciliation",
)
"They draw a ledger, not runs: tests/plots/test_costs.py."
BENCHMARKS = ("plot_savings", "plot_speedups", "plot_time_by_part")
"They draw a benchmark: tests/plots/test_packed.py."


def test_every_plot_is_covered_here() -> None:
    names = {name for name in plots.__all__ if name.startswith("plot_")}
    assert names == {*MANY, *ONE, *LEDGERS, *BENCHMARKS, "plot_ablation", "plot_attention"}


@pytest.mark.slow
@pytest.mark.parametrize("name", MANY)
def test_draws_runs_on_a_new_or_given_axes(name: str, runs: list[Run]) -> None:
    fresh = MANY[name](runs)
    assert isinstance(fresh, Axes)
    assert isinstance(fresh.figure, style.Picture)
    given = Figure(layout="constrained").subplots()
    assert MANY[name](runs, ax=given) is given
    for ax in (fresh, given):
        assert ax.axison
        assert ax.get_xlabel()
        assert ax.get_title(loc="left")
        assert style.alt_text(ax)
        assert style.to_png(ax)


@pytest.mark.slow
@pytest.mark.parametrize("name", ONE)
def test_draws_one_run_on_a_new_or_given_axes(name: str, runs: list[Run]) -> None:
    given = Figure(layout="constrained").subplots()
    assert ONE[name](runs[0], ax=given) is given
    fresh = ONE[name](runs[0])
    assert isinstance(fresh.figure, style.Picture)
    assert style.alt_text(fresh)
    with pytest.raises(ConfigError, match=r"choose one, for example runs\[0\]"):
        ONE[name](runs)
    assert not ONE[name](None).axison


@pytest.mark.parametrize("name", MANY)
@pytest.mark.parametrize("which", ["none", "float"])
def test_says_so_where_there_is_nothing_to_draw(name: str, which: str, runs: list[Run]) -> None:
    ax = MANY[name]([] if which == "none" else [runs[-1]])
    if which == "float" and name in ("plot_accuracy", "plot_loss", "plot_compared"):
        assert ax.axison
        return
    assert not ax.axison
    assert ax.texts[0].get_text().replace("\n", " ") == style.alt_text(ax)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*MANY, *ONE])
def test_strings_of_a_stranger_are_drawn_literally(name: str, hostile: Run) -> None:
    ax = (MANY | ONE)[name](hostile)
    assert style.to_png(ax)  # a "$x_{" that were parsed would raise here
    assert not any(text.get_parse_math() for text in ax.findobj(Text) if "$" in text.get_text())


@pytest.mark.slow
@pytest.mark.parametrize("state", ["running", "interrupted"])
def test_runs_that_did_not_finish_are_drawn_as_far_as_they_go(state: str, tmp_path: Path) -> None:
    run = load_run(make_run(tmp_path / "r", steps=20, blocks=1, state=state))
    assert plots.plot_flip_rate(run).axison
    assert plots.plot_flip_distribution(run).axison == (state == "interrupted")
    assert not plots.plot_evidence(run).axison
    for draw in (MANY | ONE).values():
        assert style.alt_text(draw(run))
    assert style.to_png(plots.plot_ablation([run]))


@pytest.mark.slow
def test_a_run_of_one_step_is_drawn(tmp_path: Path) -> None:
    run = load_run(make_run(tmp_path / "r", steps=1, blocks=1))
    for draw in (MANY | ONE).values():
        assert style.to_png(draw(run))


def test_a_table_draws_what_its_runs_draw(runs: list[Run]) -> None:
    frame = tables.site_frame(runs, ["flip_rate"], kind="weight")
    by_table, by_runs = plots.plot_flip_rate(frame), plots.plot_flip_rate(runs)
    for a, b in zip(by_table.get_lines(), by_runs.get_lines(), strict=True):
        assert a.get_xydata().tolist() == b.get_xydata().tolist()
    with pytest.raises(ConfigError, match="unknown column needed here 'flip_rate'"):
        plots.plot_flip_rate(frame.drop(columns="flip_rate"))


def test_unknown_choices_name_the_known(runs: list[Run]) -> None:
    for call in (
        lambda: plots.plot_flip_rate(runs, by="recpe"),
        lambda: plots.plot_flip_distribution(runs, null="poison"),
        lambda: plots.plot_trajectories(runs[0], values="latnet"),
        lambda: plots.plot_latent_histogram(runs[0], kind="heatmap"),
        lambda: plots.plot_bimodality(runs, metric="otsu"),
        lambda: plots.plot_near_zero(runs, delta=0.21),
        lambda: plots.plot_sign_entropy(runs, over="step"),
        lambda: plots.plot_sign_entropy(runs, kind="atention"),
    ):
        with pytest.raises(ConfigError, match="did you mean"):
            call()
