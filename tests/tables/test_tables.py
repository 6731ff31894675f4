"""Tables against hand-computed cases, against scipy, and against the run folders they are read from."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from bvit_analysis import tables
from bvit_analysis.errors import ConfigError, RunError
from bvit_analysis.records import Run, load_run
from bvit_analysis.tables import chance
from tests.support.synthetic_run import make_run


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    for recipe in ("baseline", "binaryvit"):
        for seed in range(3):
            make_run(root / f"{recipe}-s{seed}", recipe=recipe, seed=seed, steps=40)
    make_run(root / "teacher", kind="float", steps=40)
    return root


@pytest.fixture(scope="module")
def runs(root: Path) -> list[Run]:
    return tables.load_runs([root])


def invented(values: dict[str, list[float]], *, state: str = "finished") -> pd.DataFrame:
    rows = [
        {"run_id": f"{recipe}-s{seed}", "label": recipe, "recipe": recipe, "seed": seed}
        | {"state": state, "test_accuracy": value, "teacher_test_accuracy": math.nan}
        for recipe, series in values.items()
        for seed, value in enumerate(series)
    ]
    return pd.DataFrame(rows)


# Chance ------------------------------------------------------------------------------------------


def student_density(t: np.ndarray, dof: int) -> np.ndarray:
    factor = math.gamma((dof + 1) / 2) / (math.sqrt(dof * math.pi) * math.gamma(dof / 2))
    return factor * (1 + t**2 / dof) ** (-(dof + 1) / 2)


@pytest.mark.parametrize("level", [0.5, 0.8, 0.95, 0.99])
@pytest.mark.parametrize("count", [3, 4, 6, 10, 31, 102])
def test_interval_covers_its_level_of_the_density_of_students_law(count: int, level: float) -> None:
    values = np.random.default_rng(count).normal(0.7, 0.02, count)
    low, high = chance.t_interval(list(values), level=level)
    assert (low + high) / 2 == pytest.approx(values.mean(), rel=1e-12)
    end = (high - low) / 2 / (values.std(ddof=1) / math.sqrt(count))
    t = np.linspace(-end, end, 40_001)
    assert np.trapezoid(student_density(t, count - 1), t) == pytest.approx(level, abs=1e-7)


def test_interval_equals_scipy_and_is_absent_below_three() -> None:
    values = [0.71, 0.74, 0.72, 0.78]
    mean, error = np.mean(values), stats.sem(values)
    expected = stats.t.interval(0.9, 3, loc=mean, scale=error)
    assert chance.t_interval(values, level=0.9) == pytest.approx(expected)
    assert all(math.isnan(end) for end in chance.t_interval([0.7, 0.8]))


@pytest.mark.parametrize("level", [0.0, 1.0, 95, -0.5, math.nan])
def test_a_level_that_is_none_is_refused(level: float) -> None:
    with pytest.raises(ConfigError, match="between 0 and 1, such as 0.95; got"):
        chance.t_interval([0.7, 0.8, 0.9], level=level)


def test_gaussian_nulls_equal_a_sample() -> None:
    w = np.random.default_rng(0).standard_normal(400_000)
    u = w / np.abs(w).mean()
    nulls = chance.GAUSSIAN_NULLS
    assert (np.abs(u) < 0.1).mean() == pytest.approx(nulls["mass_near_zero_010"], rel=0.03)
    assert np.abs(u).mean() ** 2 / (u**2).mean() == pytest.approx(nulls["otsu_ratio"], rel=0.01)
    sign = np.where(w >= 0, 1.0, -1.0)
    error = 1 - np.corrcoef(w, sign)[0, 1] ** 2
    assert error == pytest.approx(nulls["binarization_error"], rel=0.01)


# Ablation ----------------------------------------------------------------------------------------


def test_ablation_by_hand() -> None:
    table = tables.ablation_table(
        invented({"baseline": [0.70, 0.72, 0.74], "grs": [0.73, 0.74, 0.79]})
    )
    row = table[table["recipe"] == "grs"].iloc[0]
    differences = np.array([0.03, 0.02, 0.05])
    half = 4.302652729911275 * differences.std(ddof=1) / math.sqrt(3)
    assert table["recipe"].tolist() == ["baseline", "grs"]
    assert row["n"] == row["common_seeds"] == 3
    assert row["mean"] == pytest.approx(2.26 / 3)
    assert row["difference"] == pytest.approx(0.1 / 3)
    assert row["difference_low"] == pytest.approx(differences.mean() - half)
    assert row["difference_high"] == pytest.approx(differences.mean() + half)
    t = differences.mean() / (differences.std(ddof=1) / math.sqrt(3))
    assert row["p"] == row["p_family"] == pytest.approx(2 * stats.t.sf(t, 2))
    assert row["p_smallest"] == 0.0
    assert row["verdict"] == "suggests: same direction, inconclusive"


def test_pairs_are_formed_over_common_seeds_only() -> None:
    table = invented({"baseline": [0.70, 0.72, 0.74], "asm": [0.71, 0.73, 0.75]})
    table = table[~((table["recipe"] == "asm") & (table["seed"] == 1))]
    row = tables.ablation_table(table).iloc[1]
    assert (row["n"], row["common_seeds"]) == (2, 2)
    assert row["difference"] == pytest.approx(0.01)
    assert math.isnan(row["low"])
    assert math.isnan(row["difference_low"])
    assert row["verdict"] == "points only (2 common seed(s), 3 are needed)"


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ([0.02, 0.021, 0.022], "suggests: same direction, interval excludes zero"),
        ([-0.02, -0.021, -0.022], "suggests: opposite direction"),
        (
            [0.001, -0.001, 0.0005],
            "suggests: no difference larger than 0.005 detected at this scale",
        ),
        ([0.05, -0.01, 0.01], "suggests: same direction, inconclusive"),
        ([-0.05, 0.01, -0.01], "suggests: opposite direction, inconclusive"),
        ([0.02, 0.021, 0.022] * 2, "same direction, interval excludes zero"),
        ([0.02, 0.03, 0.04, 0.05, -0.004, -0.005], "same direction, inconclusive"),
    ],
)
def test_verdicts(differences: list[float], verdict: str) -> None:
    base = [0.70 + 0.001 * seed for seed in range(len(differences))]
    grs = [b + d for b, d in zip(base, differences, strict=True)]
    row = tables.ablation_table(invented({"baseline": base, "grs": grs})).iloc[1]
    assert row["verdict"] == verdict


def test_no_claim_where_the_paper_makes_none() -> None:
    table = invented({"baseline": [0.7] * 3, "asm": [0.8] * 3, "mine": [0.9] * 3})
    table["late_flip_rate"] = 0.01
    flips = tables.ablation_table(table, "late_flip_rate")
    assert flips["verdict"].tolist() == ["", "no claim", "no claim"]


@pytest.mark.slow
def test_teacher_is_shown_last_and_never_compared(runs: list[Run]) -> None:
    table = tables.ablation_table(runs)
    assert table["recipe"].tolist() == ["baseline", "binaryvit", "float"]
    teacher = table.iloc[-1]
    assert teacher["n"] == 1
    assert teacher["verdict"] == ""
    assert math.isnan(teacher["difference"])


@pytest.mark.slow
def test_teacher_row_comes_from_results_where_no_float_run_is_given(runs: list[Run]) -> None:
    table = tables.ablation_table(tables.binary_runs(runs))
    assert table["recipe"].tolist()[-1] == "float"
    assert table["mean"].iloc[-1] == pytest.approx(0.88)


def test_repeated_seeds_and_unfinished_runs_are_said() -> None:
    table = pd.concat(
        [
            invented({"baseline": [0.7, 0.7], "grs": [0.8, 0.8]}),
            invented({"grs": [0.9]}),
            invented({"grs": [0.1]}, state="running"),
        ]
    )
    row = tables.ablation_table(table).iloc[1]
    assert row["values"] == pytest.approx([0.85, 0.8])
    assert "1 run(s) not finished" in row["notes"]
    assert "several runs of seed 0" in row["notes"]


def test_runs_without_a_seed_count_and_pair_with_none() -> None:
    table = invented({"baseline": [0.7, 0.7, 0.7], "watched": [0.5, 0.6, 0.7]})
    table["seed"] = table["seed"].astype(object)
    table.loc[table["recipe"] == "watched", "seed"] = None
    row = tables.ablation_table(table).iloc[1]
    assert (row["n"], row["common_seeds"]) == (3, 0)
    assert row["mean"] == pytest.approx(0.6)


def test_unknown_metric_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'test_accuracy'"):
        tables.ablation_table(invented({"baseline": [0.7]}), "test_acuracy")


def test_comparability_names_what_differs(root: Path, tmp_path: Path) -> None:
    other = make_run(tmp_path / "other", recipe="grs", seed=0, steps=30)
    file = other / "run.json"
    file.write_text(file.read_text().replace('"2.6.0"', '"2.5.0"'))
    runs = [load_run(root / "baseline-s0"), load_run(other), load_run(root / "teacher")]
    notes = tables.comparability(runs)
    assert "runs differ in versions.torch: 2.6.0 (1 run(s)), 2.5.0 (1 run(s))" in notes
    assert "runs differ in steps recorded: 40 (1 run(s)), 30 (1 run(s))" in notes
    assert tables.ablation_table(runs).attrs["notes"] == notes
    assert tables.comparability(runs[:1]) == []


@pytest.mark.slow
def test_finding_and_verdicts_and_scale(runs: list[Run]) -> None:
    text = tables.finding(runs, "sign_entropy_bits")
    assert text.startswith("sign entropy (bits per channel), mean over seeds:")
    assert "binaryvit" in text
    assert "paired difference to baseline +" in text
    assert "not recorded" in tables.finding([], "test_accuracy")
    verdicts = tables.verdict_table(runs, ["test_accuracy", "late_flip_rate"])
    assert verdicts["metric"].tolist() == ["test_accuracy", "late_flip_rate"]
    assert tables.verdict_table([]).empty
    scale = tables.scale_table(runs)
    assert scale.loc["seeds a recipe", "here"] == "3"
    assert scale.loc["optimizer steps", "paper"] == "unknown"
    assert (tables.scale_table([])["here"] == "no run").all()


# Runs to frames ----------------------------------------------------------------------------------


def test_run_table_against_the_run(runs: list[Run]) -> None:
    table = tables.run_table(runs)
    assert len(table) == 7
    assert table["recipe"].tolist() == ["baseline"] * 3 + ["binaryvit"] * 3 + ["float"]
    run, row = runs[0], table.iloc[0]
    gross = net = weights = 0
    for site in run.site_table.loc[run.site_table["kind"] == "weight", "site"]:
        counts = run.counts(site)
        gross += counts["gross"].sum()
        net += (counts["first_sign"] != counts["last_sign"]).sum()
        weights += counts["gross"].size
    assert row["oscillating_flips_per_weight"] == pytest.approx((gross - net) / weights)
    assert row["flip_flop_ratio"] == pytest.approx(gross / net)
    late = run.sites[(run.sites["kind"] == "weight") & (run.sites["step"] > 36)]
    size = late["site"].map(run.site_table.set_index("site")["n_weights"])
    expected = np.average(late["flip_rate"].astype(float), weights=size.astype(float))
    assert row["late_flip_rate"] == pytest.approx(expected)
    p = row["test_accuracy"]
    assert row["test_half_width"] == pytest.approx(1.96 * math.sqrt(p * (1 - p) / 500))
    assert table.iloc[-1][["late_flip_rate", "sign_entropy_bits"]].isna().all()


def test_mean_over_sites_weighs_by_number_of_weights() -> None:
    frame = pd.DataFrame(
        {
            "run": 0,
            "run_id": "a",
            "label": "a",
            "recipe": "grs",
            "seed": 0,
            "step": [1, 1, 2],
            "n_weights": [1.0, 3.0, 3.0],
            "x": [0.0, 1.0, math.nan],
        }
    )
    means = tables.mean_over_sites(frame, "x")
    assert means["step"].tolist() == [1]
    assert means["x"].tolist() == [0.75]


def test_runs_of_one_name_under_two_roots_stay_apart(tmp_path: Path) -> None:
    paths = [make_run(tmp_path / root / "same", steps=20) for root in ("a", "b")]
    frame = tables.site_frame([load_run(p) for p in paths], ["flip_rate"], kind="weight")
    means = tables.mean_over_sites(frame, "flip_rate")
    assert means.groupby("run").size().tolist() == [10, 10]


def test_load_runs_takes_folders_of_runs_runs_and_what_lies_near(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(tables.load_runs([root])) == 7
    one = tables.load_runs([root / "binaryvit-s1", root / "baseline-s0"])
    assert [run.run_id for run in one] == ["binaryvit-s1", "baseline-s0"]
    with pytest.raises(RunError, match="no run in"):
        tables.load_runs([tmp_path / "none"])
    make_run(tmp_path / "runs" / "done", steps=20)
    make_run(tmp_path / "runs" / "going", steps=20, state="interrupted")
    (tmp_path / "notebooks").mkdir()
    for place in (tmp_path, tmp_path / "notebooks"):
        monkeypatch.chdir(place)
        assert [run.run_id for run in tables.load_runs()] == ["done"]


def test_own_runs_come_before_shipped_ones_and_a_lone_teacher_hides_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "notebooks").mkdir()
    make_run(tmp_path / "data" / "runs" / "shipped", steps=20)
    make_run(tmp_path / "data" / "runs" / "teacher-shipped", kind="float", steps=20)

    def found() -> list[list[str]]:
        ids = []
        for place in (tmp_path, tmp_path / "notebooks"):
            monkeypatch.chdir(place)
            ids.append([run.run_id for run in tables.load_runs()])
        assert ids[0] == ids[1]
        return ids[0]

    assert found() == ["shipped", "teacher-shipped"]
    assert "'../data/runs'" in tables.describe_runs(
        tables.load_runs()
    )  # the last place is notebooks/
    make_run(tmp_path / "runs" / "teacher-own", kind="float", steps=20)
    make_run(tmp_path / "runs" / "seen", kind="watched", steps=20)
    make_run(tmp_path / "runs" / "going", steps=20, state="interrupted")
    assert found() == ["shipped", "teacher-shipped"]
    own = make_run(tmp_path / "runs" / "mine" / "own", steps=20)
    assert found() == ["own", "teacher-own", "seen"]
    assert tables.load_runs([own])[0].run_id == "own"
    shutil.rmtree(tmp_path / "data")
    shutil.rmtree(own)
    assert found() == ["teacher-own", "seen"]


@pytest.mark.slow
def test_sentences_about_what_is_left_out(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "bvit reproduce" in tables.describe_runs(tables.load_runs())
    teacher = load_run(root / "teacher")
    assert "Only float runs" in tables.describe_runs(teacher)
    broken = load_run(make_run(tmp_path / "going", steps=20, state="interrupted"))
    assert "going is interrupted at step 20" in tables.describe_runs([broken])
    assert tables.close_ups([teacher]) == []
    listed = [load_run(make_run(tmp_path / f"a\n{i}" / "x", steps=20)) for i in range(4)]
    text = tables.describe_runs(listed)
    assert "\n" not in text
    assert text.endswith("and 1 more folders.")


def test_close_ups_and_place(runs: list[Run]) -> None:
    assert [r.run_id for r in tables.close_ups(runs, ["binaryvit", "asm"])] == ["binaryvit-s0"]
    assert [r.run_id for r in tables.close_ups(runs, ["asm"])] == ["baseline-s0"]
    with pytest.raises(ConfigError, match="unknown recipe 'gsr'.*did you mean 'grs'"):
        tables.close_ups(runs, ["gsr"])
    assert tables.place("head") == (-1, "head")
    assert tables.place("stages.2.blocks.11.mlp") == (2, "blocks.11.mlp")


def test_site_summary_has_layers_as_rows(runs: list[Run]) -> None:
    summary = tables.site_summary(runs, ["weight_scale", "otsu_ratio"])
    assert summary.index.tolist() == ["attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"]
    assert summary.columns.tolist() == [
        (name, recipe)
        for name in ("weight_scale", "otsu_ratio", "runs")
        for recipe in ("baseline", "binaryvit")
    ]
    assert (summary["runs"] == 3).all(axis=None)
    assert tables.site_summary([], ["weight_scale"]).empty
