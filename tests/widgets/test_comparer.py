"""Runs compared: curves, points and table follow the chosen runs, and the CSV is safe to open."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgba

from bvit_analysis import tables
from bvit_analysis.plots import style
from bvit_analysis.records import load_run
from bvit_analysis.widgets.comparer import MEASURES, RunComparer
from tests.support.synthetic_run import make_run

GREY = to_rgba("#C9C9C9")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("comparer")
    for recipe in ("baseline", "grs", "asm"):
        for seed in (0, 1):
            make_run(root / f"{recipe}-seed{seed}", recipe=recipe, seed=seed, steps=40, blocks=1)
    make_run(root / "teacher", kind="float", steps=40)
    return root


@pytest.fixture
def comparer(folder: Path) -> RunComparer:
    return RunComparer(folder)


def curves(comparer: RunComparer, panel: str) -> dict:
    return {line.get_gid(): line for line in comparer.figure(panel).axes[0].lines}


def coloured(lines: dict) -> set[str]:
    return {run for run, line in lines.items() if to_rgba(line.get_color()) != GREY}


@pytest.mark.slow
def test_opens_with_all_binary_runs_coloured_by_recipe(comparer: RunComparer) -> None:
    assert len(comparer.value("runs")) == 6
    lines = curves(comparer, "accuracy")
    assert set(lines) - coloured(lines) == {"teacher"}
    colours = style.colours(["baseline", "grs", "asm"])
    assert to_rgba(lines["grs-seed1"].get_color()) == to_rgba(colours["grs"])
    assert "baseline (n=2)" in comparer.say()
    assert "Fewer than three seeds" in comparer.say()


@pytest.mark.slow
def test_curves_are_the_recorded_measures(comparer: RunComparer) -> None:
    comparer.set(smooth=1)
    run = comparer.names["asm-seed1"]
    accuracy = run.scalars.dropna(subset=["accuracy"])
    line = curves(comparer, "accuracy")["asm-seed1"]
    assert line.get_xdata().tolist() == accuracy["step"].tolist()
    np.testing.assert_allclose(line.get_ydata(), accuracy["accuracy"])
    for panel, kind in (("flips", "weight"), ("bimodality", "weight"), ("entropy", "activation")):
        name = MEASURES[panel]
        rows = run.sites[run.sites["kind"] == kind].dropna(subset=[name])
        sizes = rows["site"].map(run.site_table.set_index("site")["n_weights"]).astype(float)
        weights = sizes.where(sizes > 0, 1.0)
        sums = (rows[name].astype(float) * weights).groupby(rows["step"]).sum()
        line = curves(comparer, panel)["asm-seed1"]
        np.testing.assert_allclose(
            line.get_ydata(), sums / weights.groupby(rows["step"]).sum(), rtol=1e-6
        )


@pytest.mark.slow
def test_the_slider_smooths_the_flips_only(comparer: RunComparer) -> None:
    comparer.set(smooth=1)
    raw = pd.Series(curves(comparer, "flips")["grs-seed0"].get_ydata())
    before = {name: panel.shown for name, panel in comparer.panels.items()}
    image = comparer.panels["flips"].image.value
    comparer.controls["smooth"].value = 7
    after = {name: panel.shown for name, panel in comparer.panels.items()}
    assert {name for name in after if after[name] != before[name]} == {"flips"}
    assert comparer.panels["flips"].image.value != image
    np.testing.assert_allclose(
        curves(comparer, "flips")["grs-seed0"].get_ydata(), raw.rolling(7, min_periods=1).mean()
    )


@pytest.mark.slow
def test_chosen_runs_stand_out_everywhere(comparer: RunComparer) -> None:
    chosen = ("baseline-seed0", "grs-seed0")
    images = {name: panel.image.value for name, panel in comparer.panels.items()}
    comparer.controls["runs"].value = chosen
    for panel in MEASURES:
        lines = curves(comparer, panel)
        assert coloured(lines) == set(chosen)
        front = min(lines[run].get_zorder() for run in chosen)
        assert all(line.get_zorder() < front for run, line in lines.items() if run not in chosen)
        assert comparer.panels[panel].image.value != images[panel]
    points = comparer.figure("scatter").axes[0].lines
    table = comparer.table.set_index("run")
    drawn = {
        (float(point.get_xdata()[0]), float(point.get_ydata()[0]))
        for point in points
        if to_rgba(point.get_color()) != GREY
    }
    assert drawn == {
        (table.loc[run, "late_flip_rate"], table.loc[run, "test_accuracy"]) for run in chosen
    }
    assert len(points) == 6
    assert list(comparer.chosen_rows()["run"]) == list(chosen)
    assert comparer.listing.value.count("<tr>") == 3


@pytest.mark.slow
def test_evidence_and_colour_change_the_points(comparer: RunComparer) -> None:
    comparer.set(evidence="bimodality_coefficient")
    ax = comparer.figure("scatter").axes[0]
    drawn = sorted(float(point.get_xdata()[0]) for point in ax.lines)
    binary = comparer.table[comparer.table["recipe"] != "float"]
    assert drawn == sorted(binary["bimodality_coefficient"])
    assert ax.get_xlabel() == tables.METRICS["bimodality_coefficient"].label
    assert style.alt_text(ax).endswith(
        f"correlation {np.corrcoef(binary['bimodality_coefficient'], binary['test_accuracy'])[0, 1]:+.2f}."
    )
    for hue, count, text in (("recipe", 3, "grs (n=2)"), ("seed", 2, "seed 1 (n=3)")):
        comparer.set(colour=hue)
        legend = comparer.figure("scatter").axes[0].get_legend().get_texts()
        assert len(legend) == count
        assert text in [entry.get_text() for entry in legend]
        lines = curves(comparer, "flips").values()
        assert len({to_rgba(line.get_color()) for line in lines}) == count
    comparer.set(colour="run")
    lines = curves(comparer, "flips")
    assert len({to_rgba(line.get_color()) for line in lines.values()}) == 6


@pytest.mark.slow
def test_csv_is_the_table_of_the_chosen_runs(comparer: RunComparer, tmp_path: Path) -> None:
    comparer.set(runs=("asm-seed1", "baseline-seed0"))
    rows = list(csv.DictReader(io.StringIO(comparer.to_csv())))
    assert [row["run_id"] for row in rows] == ["baseline-seed0", "asm-seed1"]
    result = json.loads((comparer.names["asm-seed1"].path / "result.json").read_text())
    assert float(rows[1]["test_accuracy"]) == result["test_accuracy"]
    path = comparer.save_csv(tmp_path / "runs.csv")
    assert path.read_text() == comparer.to_csv()
    link = re.search(r'href="data:text/csv;charset=utf-8;base64,([^"]+)"', comparer.listing.value)
    assert link is not None
    assert base64.b64decode(link[1]).decode() == comparer.to_csv()
    assert 'download="runs.csv"' in comparer.listing.value


def test_csv_begins_no_cell_like_a_formula() -> None:
    cells = ["=1+1", "+1", "-1", "@a", "\t=1", "\r=1", " =1", "a=1", ""]
    table = pd.DataFrame({"name": cells, "x": [-1.5] * len(cells)})
    read = list(csv.reader(io.StringIO(tables.csv_text(table), newline="")))
    assert [row[0] for row in read[1:]] == [*("'" + cell for cell in cells[:7]), "a=1", ""]
    assert {row[1] for row in read[1:]} == {"-1.5"}, "numbers stay numbers"
    assert tables.csv_text(table.iloc[:0]) == '"name","x"\n'


@pytest.mark.slow
def test_names_of_a_stranger_are_text(tmp_path: Path) -> None:
    path = make_run(tmp_path / "x", steps=20, blocks=1)
    info = json.loads((path / "run.json").read_text())
    info["config"]["recipe"]["name"] = "=cmd|$x_{ <script>alert(1)</script>\n{y}"
    info["config"]["scale"] = "<img src=x onerror=alert(1)>"
    (path / "run.json").write_text(json.dumps(info))
    comparer = RunComparer(path)
    for text in (comparer.listing.value, comparer.finding.value):
        assert "<script" not in text
        assert "<img" not in text
    assert "&lt;script&gt;" in comparer.listing.value
    assert all("\n" not in label for label, _ in comparer.controls["runs"].options)
    (row,) = csv.DictReader(io.StringIO(comparer.to_csv(), newline=""))
    assert row["recipe"].startswith("'=cmd")
    for name in comparer.panels:
        assert comparer.picture(name).png.startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.parametrize("count", [0, 1, 20])
def test_any_number_of_runs(count: int, folder: Path, tmp_path: Path) -> None:
    runs = [load_run(folder / "grs-seed0")] * count
    comparer = RunComparer(runs)
    assert len(comparer.names) == count
    data, metadata = comparer._repr_mimebundle_()
    assert data["image/png"]
    assert metadata["image/png"]["alt"]
    assert comparer.to_csv().count("\n") == count + 1
    comparer.set(colour="run")
    if count:
        legend = comparer.figure("scatter").axes[0].get_legend()
        assert len(legend.get_texts()) <= 15
        comparer.set(runs=())
    assert comparer.say() == "No run that binarizes is chosen."
    assert comparer.listing.value == "<p>No run is chosen.</p>"
    assert len(comparer.frames(4)["findings"]) >= 1


@pytest.mark.slow
def test_runs_without_figures_are_shown_as_far_as_they_go(tmp_path: Path) -> None:
    running = make_run(tmp_path / "running", steps=10, blocks=1, state="running")
    for part in [*(running / "sites").glob("part-*"), *(running / "scalars").glob("part-*")]:
        part.unlink()
    comparer = RunComparer([running])
    for name in comparer.panels:
        assert not comparer.figure(name).axes[0].axison
    assert comparer.listing.value.count("<tr>") == 2
    teacher = RunComparer(make_run(tmp_path / "teacher", kind="float", steps=20))
    assert set(curves(teacher, "accuracy")) == {"teacher"}
    assert teacher.say() == "No run that binarizes is chosen."


@pytest.mark.slow
def test_frames_have_named_sets_of_runs(comparer: RunComparer) -> None:
    comparer.set(evidence="twin_agreement")
    frames = comparer.frames(12)
    assert [control["name"] for control in frames["controls"]] == ["runs", "evidence"]
    options = frames["controls"][0]["options"]
    assert options[frames["controls"][0]["start"]] == "chosen runs"
    assert set(options) <= {
        *("chosen runs", "only baseline", "only grs", "only asm", "only seed 0", "only seed 1")
    }
    assert comparer.value("evidence") == "twin_agreement"
