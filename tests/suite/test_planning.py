"""Plans of many executions: names that last, errors that name the place, and estimates from what was."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from bvit_analysis.cli import main
from bvit_analysis.errors import SuiteError
from bvit_analysis.suite import NotebookJob, ParameterText, estimate, plan, plan_from_file
from bvit_analysis.suite.estimation import ASSUMED_BYTES, ASSUMED_S, makespan
from bvit_analysis.suite.jobs import identity
from bvit_analysis.suite.planning import PlanError, _label
from tests.support.notebooks import write_notebook
from tests.support.synthetic_run import make_run

WEIGHTS = "runs: list[str] = []\nwindow: int = 5\nsite: str = ''\n"
COSTS = "model: str = 'deit'\nwindow: int = 1\n"


def of_run(run: Path) -> str:
    """What names a run in a job's name, retyped: its folder and eight digits of the path's hash."""
    return f"{run.name}-{hashlib.sha256(str(run.resolve()).encode()).hexdigest()[:8]}"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with two notebooks and three runs."""
    root = tmp_path_factory.mktemp("plans")
    write_notebook(root / "notebooks" / "03_weights.ipynb", "1 + 1", parameters=WEIGHTS)
    write_notebook(root / "notebooks" / "07_costs.ipynb", "1 + 1", parameters=COSTS)
    for name in ("laptop/grs-seed0", "laptop/asm-seed0", "smoke/asm-seed0"):
        make_run(root / "runs" / name, recipe=Path(name).name[:3], steps=2)
    return root


def runs_of(job: NotebookJob) -> list[str]:
    return ["/".join(Path(run).parts[-2:]) for run in job.parameters.get("runs", [])]


# Flags --------------------------------------------------------------------------------------------


def test_a_grid_over_runs_and_parameters_is_their_product(root: Path) -> None:
    weights, costs = sorted((root / "notebooks").iterdir())
    runs = [root / "runs" / "laptop" / name for name in ("grs-seed0", "asm-seed0")]
    grid = {"window": [ParameterText("50"), 7], "site": ["", "blocks.0/attn"]}
    jobs = plan([weights, costs], runs, {}, grid=grid, each_run=True, frames=3)
    assert [job.name for job in jobs] == [
        f"03_weights--{of_run(run)}--window-{window}--site-{site}"
        for run in runs
        for window in (50, 7)
        for site in ("empty", "blocks.0-attn-5d7525c7")
    ] + ["07_costs--window-50", "07_costs--window-7"]
    assert jobs[1].parameters == {
        "runs": [str(runs[0])],
        "window": 50,
        "site": "blocks.0/attn",
    }
    assert jobs[8].parameters == {"window": 50}  # it declares neither site nor runs
    assert {job.frames for job in jobs} == {3}
    again = plan([weights, costs], runs, {}, grid=grid, each_run=True, frames=3)
    assert again == jobs


def test_names_stay_apart_short_and_safe(root: Path) -> None:
    weights = root / "notebooks" / "03_weights.ipynb"
    same = [root / "runs" / scale / "asm-seed0" for scale in ("laptop", "smoke")]
    jobs = plan([weights], same, {}, each_run=True)
    assert [job.name for job in jobs] == [
        f"03_weights--{of_run(same[0])}",
        f"03_weights--{of_run(same[1])}",
    ]
    hostile = ["a b", "a/b", "A B", "../../x", "<script>{x}\n", "\u00fc" * 300, "a" * 300, "-"]
    jobs = plan([weights], same, {}, grid={"site": hostile})
    names = [job.name for job in jobs]
    assert len({name.casefold() for name in names}) == len(hostile)
    for name in names:
        assert name.startswith("03_weights--site-")
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
        assert len(name) <= 120
    # A value keeps its name however the others change, and no other value may take it.
    for value, name in zip(hostile, names, strict=True):
        (alone,) = plan([weights], same, {}, grid={"site": [value]})
        assert alone.name == name
    # So does a run, whatever other runs are chosen.
    for run in same:
        (alone,) = plan([weights], [run], {}, each_run=True)
        assert alone.name == f"03_weights--{of_run(run)}"


@pytest.mark.parametrize(
    ("one", "other"), [("minus0.5", -0.5), ("none", None), ("1e20", 1e20), (1e20, 1e-20), ("", [])]
)
def test_values_that_look_alike_have_names_of_their_own(one: object, other: object) -> None:
    assert _label(one) != _label(other)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"grid": {"windwo": [1]}}, "unknown notebook parameter 'windwo'.*did you mean 'window'"),
        ({"grid": {"window": ["x"]}}, "'window' must be of type int, got 'x'"),
        ({"grid": {"window": []}}, "list of at least one value"),
        ({"grid": {"window": [1, ParameterText("1")]}}, "has 1 twice"),
        ({"grid": {"runs": [["x"]]}}, "choose runs instead"),
        ({"grid": {"window": [1]}, "parameters": {"window": 2}}, "one value and a grid"),
        ({"frames": 0}, "frames must be from 1"),
        ({"each_run": True, "runs": []}, "no run folder is given"),
    ],
)
def test_flags_are_refused_with_the_nearest_right_name(
    root: Path, values: dict[str, object], message: str
) -> None:
    base = {"runs": [root / "runs" / "smoke" / "asm-seed0"], "parameters": {}}
    with pytest.raises(SuiteError, match=message):
        plan([root / "notebooks" / "03_weights.ipynb"], **{**base, **values})
    if "each_run" not in values:
        return
    with pytest.raises(SuiteError, match="none of the notebooks declares 'runs'"):
        plan([root / "notebooks" / "07_costs.ipynb"], base["runs"], {}, each_run=True)


# A file -------------------------------------------------------------------------------------------

PLAN = """
[defaults]
runs = ["../runs/laptop/*"]
parameters = { window = 9, model = "vit" }
frames = 5

[[jobs]]
notebooks = ["../notebooks/*.ipynb"]

[[jobs]]
name = "long"
notebooks = "../notebooks/03_weights.ipynb"
runs = ["../runs/smoke"]
each_run = true
grid = { window = [50, 200] }
"""


def write_plan(root: Path, text: str, name: str = "plan.toml") -> Path:
    path = root / "plans" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def test_a_plan_file_with_paths_relative_to_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    jobs = plan_from_file(write_plan(root, PLAN))
    assert [job.name for job in jobs] == [
        "03_weights",
        "07_costs",
        f"03_weights--long--{of_run(root / 'runs/smoke/asm-seed0')}--window-50",
        f"03_weights--long--{of_run(root / 'runs/smoke/asm-seed0')}--window-200",
    ]
    assert [runs_of(job) for job in jobs] == [
        ["laptop/asm-seed0", "laptop/grs-seed0"],
        [],
        ["smoke/asm-seed0"],
        ["smoke/asm-seed0"],
    ]
    # A default goes to those that declare it, and gives way to an entry's own value or grid.
    assert [job.parameters.get("window") for job in jobs] == [9, 9, 50, 200]
    assert [job.parameters.get("model") for job in jobs] == [None, "vit", None, None]
    assert {job.frames for job in jobs} == {5}
    assert {job.frames for job in plan_from_file(root / "plans" / "plan.toml", frames=2)} == {2}


def test_json_is_the_same_plan(root: Path) -> None:
    import tomllib

    toml = write_plan(root, PLAN)
    other = write_plan(root, json.dumps(tomllib.loads(PLAN)), "plan.json")
    assert plan_from_file(other) == plan_from_file(toml)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("window = 9", "windwo = 9", ["defaults: unknown notebook", "did you mean 'window'"]),
        ("window = 9", "window = 'x'", ["job 1: parameter 'window' must be of type int"]),
        ("window = 9", "runs = 'x'", ["job 1: the parameter 'runs'"]),
        ("[50, 200]", "[50, 2.5]", ["job 2 'long': parameter 'window' must be of type int"]),
        ("{ window = [50", "{ widow = [50", ["job 2 'long'", "did you mean 'window'"]),
        ("[50, 200]", "50", ["job 2 'long': the grid of 'window' must be a list"]),
        ("each_run", "each_rnu", ["job 2 'long': unknown key", "did you mean 'each_run'"]),
        ("each_run = true", "each_run = 1", ["job 2 'long': 'each_run' must be true or false"]),
        ("frames = 5", "frame = 5", ["defaults: unknown key", "did you mean 'frames'"]),
        ("frames = 5", "frames = true", ["defaults: 'frames' must be a whole number"]),
        ("frames = 5", "frames = 0", ["job 1: frames must be from 1"]),
        ("[defaults]", "[default]", ["unknown key 'default'", "did you mean 'defaults'"]),
        ("[[jobs]]\n", "[[job]]\n", ["unknown key 'job'", "did you mean 'jobs'"]),
        ("03_weights", "03_wieghts", ["job 2 'long'", "did you mean '03_weights.ipynb'"]),
        ("../runs/smoke", "../runs/smok", ["job 2 'long'", "did you mean 'smoke'"]),
        ("../runs/smoke", "../rums/smoke", ["job 2 'long'", "there is no folder"]),
        ('"long"', '"../x"', ["job 2 '../x'", "is not allowed"]),
        ('"long"', "3", ["job 2: 'name' must be a string"]),
        ("= true", "= ture", ["it is not valid TOML"]),
        ('name = "long"', "", ["job 2: ", "'03_weights--asm-seed0-", "--window-50'"]),
    ],
)
def test_an_error_names_file_entry_and_nearest_name(
    root: Path, old: str, new: str, words: list[str]
) -> None:
    assert old in PLAN
    text = PLAN.replace(old, new)
    if not new:  # the same notebook over the same runs and grid, twice
        text += PLAN[PLAN.index("[[jobs]]\nname") :].replace(old, new)
        words = ["job 3: the results of '03_weights--asm-seed0-", "give one of the two"]
    path = write_plan(root, text)
    with pytest.raises(PlanError) as caught:
        plan_from_file(path)
    problems = "\n".join(caught.value.problems)
    assert all(problem.startswith(str(path)) for problem in caught.value.problems)
    for word in words:
        assert word in problems
    assert "\n" not in str(caught.value)


def test_all_that_is_wrong_is_found_at_once(root: Path) -> None:
    text = PLAN.replace("[50, 200]", "['x']") + "[[jobs]]\nnotebooks = '../notebooks/08*'\n"
    with pytest.raises(PlanError, match="and 1 more; --dry-run prints them all") as caught:
        plan_from_file(write_plan(root, text))
    assert [problem.split(":")[0].split(", ")[1] for problem in caught.value.problems] == [
        "job 3",
        "job 2 'long'",
    ]


def test_what_is_not_a_plan_is_refused(root: Path) -> None:
    for name, text, words in (
        ("plan.yaml", "jobs: []", "a plan is a .toml or a .json file"),
        ("plan.json", "[1]", "expected an object with 'jobs'"),
        ("plan.json", '{"jobs": []}', "at least one entry"),
        ("plan.json", '{"jobs": [3]}', "job 1: expected a table, got 3"),
        ("plan.json", '{"defaults": 3, "jobs": [{}]}', "'defaults' must be a table"),
        ("plan.json", '{"jobs": [{}]}', "job 1: it has no 'notebooks'"),
        ("plan.json", '{"jobs": [{"notebooks": [1]}]}', "'notebooks' must be a path or a list"),
    ):
        with pytest.raises(PlanError, match=words):
            plan_from_file(write_plan(root, text, name))
    with pytest.raises(PlanError, match="no plan can be read"):
        plan_from_file(root / "plans" / "none.toml")


# Estimates ----------------------------------------------------------------------------------------


def remember(job: NotebookJob, out: Path, *, seconds: float, size: int, **changes: object) -> None:
    """Write the status of an execution that never was."""
    folder = out / job.name
    folder.mkdir(parents=True)
    (folder / "notebook.ipynb").write_text("{}")
    status = {
        "schema_version": 1,
        "notebook": str(job.notebook),
        "state": "succeeded",
        "error": None,
        "cell": None,
        "parameters": {},
        "started": "",
        "seconds": seconds,
        "bytes": size,
        "identity": identity(job),
        "versions": {},
    }
    (folder / "status.json").write_text(json.dumps({**status, **changes}))


def test_estimates_come_from_earlier_executions(root: Path, tmp_path: Path) -> None:
    weights, costs = sorted((root / "notebooks").iterdir())
    runs = [root / "runs" / "smoke" / "asm-seed0"]
    jobs = plan([weights, costs], runs, {}, grid={"window": [1, 2, 3]})
    remember(jobs[0], tmp_path, seconds=10.0, size=1000)
    remember(jobs[1], tmp_path, seconds=30.0, size=3000, identity="other")
    found = estimate(jobs, tmp_path, jobs_at_once=2)
    told = [(one.kept, one.seconds, one.bytes, one.source) for one in found.jobs]
    assumed = (False, ASSUMED_S, ASSUMED_BYTES, "assumed")
    assert told == [
        (True, 10.0, 1000, "same job"),
        (False, 30.0, 3000, "same job"),
        (False, 20.0, 2000, "same notebook"),
        assumed,
        assumed,
        assumed,
    ]
    # 30, 20, then 60 s on the place free at 20, 60 at 30, 60 at 80: the last ends at 140.
    assert found.seconds == 140.0
    assert found.bytes == 5000 + 3 * ASSUMED_BYTES
    assert found.fits
    assert len(found.to_do) == 5


def test_estimates_do_not_trust_strange_statuses(root: Path, tmp_path: Path) -> None:
    weights = root / "notebooks" / "03_weights.ipynb"
    jobs = plan([weights], [root / "runs" / "smoke" / "asm-seed0"], {}, grid={"window": [1, 2]})
    remember(jobs[0], tmp_path, seconds=float("nan"), size=-5, identity="other")
    remember(jobs[1], tmp_path, seconds=1.0, size=-5, state="failed")
    assert [one.source for one in estimate(jobs, tmp_path).jobs] == ["assumed"] * 2


def test_makespan_by_hand() -> None:
    assert makespan([], 3) == 0.0
    assert makespan([5], 3) == 5.0
    assert makespan([1, 2, 3], 1) == 6.0
    assert makespan([1, 2, 3], 2) == 4.0
    assert makespan([1], 1, busy=[4.0]) == 5.0
    assert makespan([1], 2, busy=[4.0]) == 4.0


# The command --------------------------------------------------------------------------------------


def bvit(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main(["notebooks", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_dry_run_prints_and_writes_nothing(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = ["--plan", write_plan(root, PLAN), "--out", out, "--dry-run"]
    before = set(root.rglob("*"))
    code, text, err = bvit(capsys, *arguments)
    assert (code, err) == (0, "")
    assert len([line for line in text.splitlines() if line.startswith("execute")]) == 4
    name = f"03_weights--long--{of_run(root / 'runs/smoke/asm-seed0')}"
    assert f"{name}--window-200  window=200" in text
    assert "4 to execute, 0 kept: about 2 min 00 s with 2 at a time, 20.0 MB of" in text
    assert "4 never executed into this folder: 60 s and 5 MB are assumed" in text
    assert text.endswith("nothing was executed\n")
    assert not out.exists()
    assert set(root.rglob("*")) == before
    # What is kept is told, as a person and as a machine reads it.
    jobs = plan_from_file(root / "plans" / "plan.toml")
    remember(jobs[0], out, seconds=10.0, size=1000)
    _, text, _ = bvit(capsys, *arguments)
    assert text.splitlines()[0].split() == ["keep", "03_weights"]
    code, text, _ = bvit(capsys, *arguments, "--json", "--at-once", 1)
    data = json.loads(text)
    assert (code, data["valid"], data["problems"]) == (0, True, [])
    assert (data["execute"], data["keep"], data["at_once"]) == (3, 1, 1)
    assert data["seconds"] == ASSUMED_S + 10 + 10
    assert [job["action"] for job in data["jobs"]] == ["keep"] + ["execute"] * 3
    assert data["jobs"][3]["parameters"]["window"] == 200
    assert data["jobs"][3]["source"] == "same notebook"


def test_a_dry_run_says_all_that_is_wrong(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = write_plan(root, PLAN.replace("[50, 200]", "['x']").replace("frames = 5", "frames = 0"))
    code, text, err = bvit(capsys, "--plan", bad, "--dry-run")
    assert (code, text) == (2, "")
    assert [line.split(":")[0] for line in err.splitlines()] == ["error", "error"]
    code, text, err = bvit(capsys, "--plan", bad, "--dry-run", "--json")
    assert (code, err) == (2, "")
    assert json.loads(text)["valid"] is False
    assert len(json.loads(text)["problems"]) == 2
    code, _, err = bvit(capsys, "--plan", bad)
    assert code == 2
    assert len(err.splitlines()) == 1
    monkeypatch.setattr("bvit_analysis.suite.estimation._free", lambda out: 10)
    code, _, err = bvit(capsys, "--plan", write_plan(root, PLAN), "--dry-run")
    assert code == 2
    assert "10 bytes free" in err


def test_flags_of_the_command(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    dry = ["--dry-run", "--json", "--out", tmp_path / "out"]
    arguments = ["runs/laptop", "runs/s*", "--each-run", "--grid", "window=1,2", "--frames", 4]
    code, text, _ = bvit(capsys, *arguments, "--grid", 'site=["a,b", ""]', *dry)
    assert code == 0
    jobs = json.loads(text)["jobs"]
    assert len(jobs) == 3 * 2 * 2 + 2
    asm = of_run(root / "runs/laptop/asm-seed0")
    assert jobs[1]["name"] == f"03_weights--{asm}--window-1--site-empty"
    assert jobs[0]["parameters"]["site"] == "a,b"
    assert {job["frames"] for job in jobs} == {4}
    # No runs at all, for a notebook that needs none; flags may come first.
    code, text, _ = bvit(capsys, *dry, "--notebooks", "notebooks/07*", "-p", "model=007")
    assert [job["parameters"] for job in json.loads(text)["jobs"]] == [{"model": "007"}]
    code, text, _ = bvit(capsys, *dry, "--notebooks", "notebooks/03_weights.ipynb", "runs/smoke")
    assert [job["name"] for job in json.loads(text)["jobs"]] == ["03_weights"]
    for wrong, words in (
        (["--plan", "x.toml", "--grid", "window=1"], "leave out 'grid'"),
        (["runs", "--grid", "window"], "name=value"),
        (["runs", "--grid", "window=[1"], "is not a JSON list"),
        (["runs", "--resource", "slot=x"], "slot=1"),
        (["runs", "--notebooks", "notebook"], "did you mean 'notebooks'"),
        (["rums"], "did you mean 'runs'"),
        ([], "needs run folders"),
        (["runs", "--at-once", 0], "at least 1"),
        (["runs", "--frames", 0], "frames must be"),
    ):
        code, _, err = bvit(capsys, *wrong, *dry)
        assert code == 2, wrong
        assert words in err
    code, _, err = bvit(capsys, "runs", "--resource", "slot=1", "--out", tmp_path / "out")
    assert code == 2
    assert "give the cluster's address" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.processes
def test_the_command_executes_and_prints_the_summary(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_notebook(tmp_path / "one.ipynb", "assert n < 2", parameters="n: int = 0")
    arguments = ["--notebooks", path, "--grid", "n=1,2", "--out", tmp_path / "out", "--quiet"]
    code, text, err = bvit(capsys, *arguments)
    assert (code, err) == (1, "")
    assert [line.split()[0] for line in text.splitlines()] == ["succeeded", "failed"]
    code, text, err = bvit(capsys, *arguments, "--json")
    data = json.loads(text)
    assert (code, err) == (1, "")
    assert (data["exit_code"], data["kept"], data["executed"]) == (1, 1, 1)
    assert [job["name"] for job in data["jobs"]] == ["one--n-1", "one--n-2"]
