"""Only runs that agree in all but the seed are averaged; what else differs is said, and so is what is not recorded."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bvit_analysis import plots, tables
from bvit_analysis.errors import ConfigError
from bvit_analysis.records import Run, RunWarning, load_run
from bvit_analysis.tables.groups import in_settings, split_name
from tests.support.synthetic_run import make_run

Change = Callable[[dict[str, Any]], None]


def made(
    path: Path, change: Change = lambda _: None, *, accuracy: float | None = None, **options: Any
) -> Run:
    """Make a small synthetic run, with run.json and its test accuracy changed by hand."""
    folder = make_run(path, **{"steps": 4, "blocks": 1, **options})
    info = json.loads((folder / "run.json").read_text())
    info |= {"data_fingerprint": "d1", "class_names": ["a", "b"], "git_commit": "c1"}
    info["teacher"] = {"teacher": "teacher-1", "teacher_sha256": "s1"}
    change(info)
    (folder / "run.json").write_text(json.dumps(info))
    if accuracy is not None:
        result = json.loads((folder / "result.json").read_text())
        (folder / "result.json").write_text(json.dumps(result | {"test_accuracy": accuracy}))
    return load_run(folder)


def smoke(info: dict[str, Any]) -> None:
    info["config"]["scale"] = "smoke"
    info["config"]["training"]["steps"] = 40


def laptop(info: dict[str, Any]) -> None:
    info["config"]["scale"] = "laptop"
    info["config"]["training"]["steps"] = 600


def setting(path: str, value: object) -> Change:
    def change(info: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        for name in parents:
            info = info[name]
        info[last] = value

    return change


@pytest.mark.slow
def test_two_scales_are_two_groups_each_with_its_own_baseline(tmp_path: Path) -> None:
    runs = []
    for scale, low in ((smoke, 0.5), (laptop, 0.8)):
        for recipe, more in (("baseline", 0.0), ("grs", 0.01)):
            for seed in range(3):
                value = low + more + 0.001 * seed
                path = tmp_path / scale.__name__ / f"{recipe}-{seed}"
                runs.append(made(path, scale, accuracy=value, recipe=recipe, seed=seed))
    table = tables.ablation_table(runs).set_index("recipe")
    named = ["baseline [laptop]", "baseline [smoke]", "grs [laptop]", "grs [smoke]", "float"]
    assert table.index.tolist() == named
    assert table.loc["baseline [laptop]", "mean"] == pytest.approx(0.801)
    assert table.loc["grs [laptop]", "difference"] == pytest.approx(0.01)
    assert table.loc["grs [smoke]", "difference"] == pytest.approx(0.01)
    assert (table["notes"] == "").all()
    one = tables.ablation_table(runs, baseline="baseline [smoke]").set_index("recipe")
    assert one.loc["grs [smoke]", "difference"] == pytest.approx(0.01)
    assert one.loc["grs [laptop]", "verdict"].startswith("not compared: no run of baseline [smoke]")
    frame = tables.site_frame(runs, ["flip_rate"], kind="weight")
    assert set(frame["recipe"]) == set(named[:-1])
    assert set(tables.scalar_frame(runs)["recipe"]) == set(named[:-1])
    assert tables.comparability(runs)[0].startswith("runs differ in training.steps: 40 (6 run(s))")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "value", "name"),
    [
        ("config.training.steps", 7, "baseline [training.steps=7]"),
        ("config.data.train_limit", 500, "baseline [data.train_limit=500]"),
        ("config.model.depth", 12, "baseline [model.depth=12]"),
        ("config.watch.flips_every", 3, "baseline [watch.flips_every=3]"),
        ("config.teacher", {"steps": 9}, "baseline [teacher=given]"),
        ("data_fingerprint", "d2", "baseline [data fingerprint=d2]"),
        ("teacher", {"teacher": "t2", "teacher_sha256": "s2"}, "baseline [teacher's weights=s2]"),
        ("teacher", {}, "baseline [teacher's weights=none]"),
        ("config.recipe.shortcuts", False, "baseline (shortcuts=false)"),
        ("config.recipe.attention", "mean", "baseline (attention=mean)"),
        ("config.recipe.latent_weight_decay", 0.1, "baseline (latent_weight_decay=0.1)"),
    ],
)
def test_what_is_averaged_agrees_in_every_setting(
    tmp_path: Path, path: str, value: object, name: str
) -> None:
    runs = [made(tmp_path / "a"), made(tmp_path / "b", setting(path, value), seed=1)]
    names = tables.group_names(runs)
    assert names[1] == name
    assert names[0] != names[1]
    table = tables.ablation_table(runs)
    assert table.loc[table["recipe"] != tables.FLOAT, "n"].tolist() == [1, 1]
    assert tables.comparability(runs)


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        setting("config.data.workers", 8),
        setting("config.data.root", "/elsewhere"),
        setting("config.training.checkpoint_every", 7),
        setting("config.scale", "another word"),
        setting("versions.torch", "2.7.0"),
        setting("hardware.cpu", "another"),
        setting("git_commit", "c2"),
        lambda info: info["config"]["watch"].clear(),  # an older release, which had the defaults
    ],
)
def test_what_cannot_change_a_run_makes_no_group(tmp_path: Path, change: Change) -> None:
    runs = [made(tmp_path / "a"), made(tmp_path / "b", change, seed=1)]
    assert tables.group_names(runs) == ["baseline", "baseline"]


@pytest.mark.slow
def test_classes_and_sites_are_settings_and_unrecorded_facts_part_nobody(tmp_path: Path) -> None:
    one = made(tmp_path / "a")
    other = made(tmp_path / "b", setting("class_names", ["a", "c"]), seed=1)
    assert len(set(tables.group_names([one, other]))) == 2
    fewer = made(tmp_path / "c", seed=1, blocks=2)
    assert "sites=24" in tables.group_names([one, fewer])[1]
    unknown = made(tmp_path / "d", lambda info: info.pop("data_fingerprint"), seed=2)
    assert tables.group_names([one, unknown]) == ["baseline", "baseline"]
    notes = tables.comparability([one, unknown])
    assert "data fingerprint is not recorded in 1 of 2 runs" in notes


@pytest.mark.slow
def test_recipes_of_ones_own_are_told_apart_by_what_differs(tmp_path: Path) -> None:
    def own(strength: float) -> Change:
        def change(info: dict[str, Any]) -> None:
            info["config"]["recipe"] |= {"name": "mine", "regularization_strength": strength}

        return change

    runs = [made(tmp_path / f"{s}", own(s), recipe="grs", seed=1) for s in (0.1, 0.3)]
    names = tables.group_names(runs)
    assert names == [f"mine (regularization_strength={s})" for s in (0.1, 0.3)]
    table = tables.run_table([*runs, made(tmp_path / "b")])
    assert table.attrs["parts"]["mine (regularization_strength=0.1)"] == ["gradient term"]
    (note,) = tables.comparability(runs)
    assert note.startswith("runs named mine have 2 different recipes: mine (regularization")


@pytest.mark.slow
def test_odd_records_are_grouped_like_others(tmp_path: Path) -> None:
    def odd(info: dict[str, Any]) -> None:
        info["config"]["recipe"]["name"] = "mine [b]"
        info["config"]["data"] = None
        info |= {"data_notes": 7, "teacher": [1], "class_names": "abc"}

    runs = [made(tmp_path / "a"), made(tmp_path / "b", odd)]
    names = tables.group_names(runs)
    assert names[1].startswith("mine (b) [data=none")
    assert tables.ablation_table(runs)["n"].tolist()[:2] == [1, 1]
    assert tables.comparability(runs)


def test_names_come_apart_again() -> None:
    for recipe, settings in (("grs", "laptop"), ("grs", ""), ("a (b=c)", "x, y=z")):
        assert split_name(in_settings(recipe, settings)) == (recipe, settings)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("data_fingerprint", "d2", "data fingerprint: d1 (1 run(s)), d2 (1 run(s))"),
        ("git_commit", "c2", "commit: c1 (1 run(s)), c2 (1 run(s))"),
        ("class_names", ["x"], "classes: 2 ("),
        ("teacher", {"teacher": "t2"}, "teacher's weights: s1 (1 run(s)), t2 (1 run(s))"),
        ("versions.numpy", "9", "versions.numpy"),
        ("versions.torch", "9", "versions.torch: 2.6.0 (1 run(s)), 9 (1 run(s))"),
        ("hardware.cores", 64, "hardware.cores"),
        ("hardware.cpu", "x", "hardware.cpu"),
        ("data_notes", ["3 files left out"], "notes on the data"),
    ],
)
def test_comparability_reads_all_that_is_recorded(
    tmp_path: Path, path: str, value: object, words: str
) -> None:
    def change(info: dict[str, Any]) -> None:
        info["data_notes"] = ["none"]
        info["versions"]["numpy"], info["hardware"]["cores"] = "2", 2
        setting(path, value)(info)

    def plain(info: dict[str, Any]) -> None:
        info["data_notes"] = ["none"]
        info["versions"]["numpy"], info["hardware"]["cores"] = "2", 2

    notes = tables.comparability(
        [made(tmp_path / "a", plain), made(tmp_path / "b", change, seed=1)]
    )
    assert len(notes) == 1
    assert words in notes[0]
    same = [made(tmp_path / "c", plain), made(tmp_path / "d", plain, seed=1)]
    assert tables.comparability(same) == []


# Who counts --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_one_teacher_is_one_however_many_students_name_it(tmp_path: Path) -> None:
    runs = [made(tmp_path / f"r{seed}", seed=seed) for seed in range(4)]
    row = tables.ablation_table(runs).set_index("recipe").loc[tables.FLOAT]
    assert (row["n"], row["mean"]) == (1, 0.88)
    assert math.isnan(row["low"])
    assert math.isnan(row["high"])
    own = made(tmp_path / "teacher-1", kind="float", accuracy=0.88)
    again = tables.ablation_table([*runs, own]).set_index("recipe").loc[tables.FLOAT]
    assert (again["n"], again["mean"]) == (1, 0.88)
    other = made(tmp_path / "teacher-2", kind="float", accuracy=0.80)
    two = tables.ablation_table([*runs, own, other]).set_index("recipe").loc[tables.FLOAT]
    assert (two["n"], two["mean"]) == (2, pytest.approx(0.84))
    assert math.isnan(two["low"])


@pytest.mark.slow
def test_diverged_and_shorter_runs_are_named_and_not_in_the_mean(tmp_path: Path) -> None:
    runs = [made(tmp_path / f"s{seed}", seed=seed, accuracy=0.7) for seed in range(3)]
    gone = made(tmp_path / "gone", seed=3, accuracy=0.1)
    nan = float("nan")
    scalars = gone.scalars
    gone.scalars = scalars.assign(loss=scalars["loss"].where(scalars["step"] < 2, nan))  # type: ignore[misc]
    short = made(tmp_path / "short", seed=4, accuracy=0.2, steps=2)
    table = tables.run_table([*runs, gone, short])
    assert table["diverged"].tolist()[3] == 1
    assert table["diverged"].isna().sum() == 4
    row = tables.ablation_table(table).iloc[0]
    assert (row["n"], row["mean"]) == (3, pytest.approx(0.7))
    assert "1 run(s) diverged, left out: gone at step 1" in row["notes"]
    assert "1 run(s) of fewer steps than 4, left out: short with 2" in row["notes"]
    assert "gone at step 1" in tables.finding(table, "test_accuracy")
    with pytest.warns(RunWarning) as caught:
        summary = tables.site_summary([*runs, gone, short], ["flip_rate"])
    said = [str(one.message) for one in caught]
    assert said == [
        "left out of the means: baseline, seed 3, which diverged at step 1",
        "left out of the means: baseline, seed 4, recorded to step 2, others to 4",
    ]
    assert (summary[("runs", "baseline")] == 3).all()
    expected = tables.site_summary(runs, ["flip_rate"])
    pd.testing.assert_frame_equal(summary, expected)


# Names -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "near"), [("basline", "baseline"), ("gsr", "grs"), ("as", "asm")]
)
def test_a_baseline_that_is_none_is_refused_with_the_nearest(given: str, near: str) -> None:
    rows = [
        {"run_id": f"{recipe}{seed}", "label": recipe, "recipe": recipe, "seed": seed}
        | {"state": "finished", "test_accuracy": 0.7, "teacher_test_accuracy": math.nan}
        for recipe in ("baseline", "grs")
        for seed in range(3)
    ]
    table = pd.DataFrame(rows)
    calls: tuple[Callable[[], object], ...] = (
        lambda: tables.ablation_table(table, baseline=given),
        lambda: tables.verdict_table(table, ["test_accuracy"], baseline=given),
        lambda: tables.finding(table, "test_accuracy", baseline=given),
        lambda: tables.pairing_finding(table, baseline=given),
        lambda: plots.plot_differences(table, baseline=given),
    )
    for call in calls:
        with pytest.raises(ConfigError, match=f"unknown baseline '{given}'.*did you mean '{near}'"):
            call()
    row = tables.ablation_table(table, baseline="asm").iloc[0]
    assert row["verdict"] == "not compared: no run of asm under the same settings"


def test_close_ups_refuse_a_name_before_anything_is_drawn(tmp_path: Path) -> None:
    run = made(tmp_path / "a")
    with pytest.raises(ConfigError, match="unknown recipe 'gsr'.*did you mean 'grs'"):
        tables.close_ups([run], ["baseline", "gsr"])
    with pytest.raises(ConfigError, match="did you mean 'baseline'"):
        tables.close_ups([], ["basline"])
    assert tables.close_ups([run], ["grs"]) == [run]


@pytest.mark.slow
def test_a_site_that_no_run_has_is_refused_before_anything_is_drawn(tmp_path: Path) -> None:
    run = made(tmp_path / "a")
    calls: tuple[Callable[[], object], ...] = (
        lambda: tables.check_site([run], "blocks.0.mlp.fc3"),
        lambda: plots.plot_flip_distribution([run], site="blocks.0.mlp.fc3"),
        lambda: plots.plot_trajectories(run, site="blocks.0.mlp.fc3"),
        lambda: plots.plot_flip_ranks([run], site="blocks.0.mlp.fc3"),
        lambda: plots.plot_weight(run, site="blocks.0.mlp.fc3"),
        lambda: plots.plot_latent_histogram(run, site="blocks.0.mlp.fc3"),
        lambda: plots.plot_latent_density([run], site="blocks.0.mlp.fc3"),
        lambda: plots.plot_bimodality_nulls([run], site="blocks.0.mlp.fc3"),
        lambda: plots.plot_channel_entropy([run], site="blocks.0.mlp.fc3"),
    )
    for call in calls:
        with pytest.raises(
            ConfigError, match=r"unknown site 'blocks.0.mlp.fc3'.*did you mean 'blocks.0.mlp.fc[12]"
        ):
            call()
    assert tables.check_site([run], "") is None
    assert tables.check_site([], "anything") == "anything"
