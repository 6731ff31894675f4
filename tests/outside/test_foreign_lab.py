"""A lab with code of its own goes through every door of the library; no file of the package knows of it."""

from __future__ import annotations

import ast
import importlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import timm
import torch

import bvit_analysis as bv
from bvit_analysis import tables
from bvit_analysis.cli import main
from bvit_analysis.config import from_dict, to_dict
from bvit_analysis.records.checkpoints import MODEL, load_checkpoint, part

SOURCE = Path(__file__).parent / "foreign_lab"
ROOT = Path(__file__).parents[2]
MODULES = tuple(sorted(path.stem for path in SOURCE.glob("*.py")))
SMALL = {
    "training.steps": "6",
    "teacher.steps": "2",
    "model.depth": "1",
    "data.train_limit": "200",
    "data.evaluation_limit": "50",
    "training.calibration_images": "32",
    "watch.flips_every": "2",
}
TRAINED = ["--instrument", "own_measure:RowSpread", "--scale", "smoke", "--quiet"]

pytestmark = pytest.mark.slow


def words(settings: dict[str, str]) -> list[str]:
    return [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "bvit_analysis.cli", *arguments]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def bvit(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command(*arguments), cwd=folder, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The lab's folder, somewhere else than the library, after a training and a sweep."""
    folder = tmp_path_factory.mktemp("away") / "lab"
    shutil.copytree(SOURCE, folder)
    bvit(folder, "train", "--recipe", "mine.toml", *TRAINED, *words(SMALL))
    before = (folder / "runs/smoke/mine-seed0/status.json").read_bytes()
    code = (
        "import json, sys; from pathlib import Path; import bvit_analysis as bv, sweep;"
        "from bvit_analysis.config import with_overrides;"
        "base = with_overrides(bv.get_scale('smoke'), sys.argv[1:]);"
        "print(*[folder.name for folder in sweep.compared(base, Path('runs/smoke'))])"
    )
    settings = [f"{name}={value}" for name, value in SMALL.items()]
    done = subprocess.run(
        [sys.executable, "-c", code, *settings],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    names = done.stdout.split()
    assert names[1:] == ["baseline-seed0", "mine-seed0", "shift-alone-seed0"]
    # The file's recipe by two doors is one recipe: its run was finished, and stays what it was.
    assert (folder / "runs/smoke/mine-seed0/status.json").read_bytes() == before
    return folder


@pytest.fixture
def in_lab(lab: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The lab's folder as the current one, and its modules forgotten afterwards."""
    monkeypatch.chdir(lab)
    known = list(sys.path)
    try:
        yield lab
    finally:
        sys.path[:] = known
        for name in MODULES:
            sys.modules.pop(name, None)


@pytest.fixture
def own(in_lab: Path) -> dict[str, ModuleType]:
    """The lab's modules, imported as the lab does."""
    sys.path.append(str(in_lab))
    return {name: importlib.import_module(name) for name in MODULES}


@pytest.fixture
def runs(lab: Path) -> list[bv.Run]:
    return tables.load_runs([lab / "runs" / "smoke"])


def imported(code: str) -> Iterator[tuple[str, str]]:
    """Yield module and name of each import of the library, the name empty where the module is imported whole."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("bvit_analysis"):
            yield from ((str(node.module), alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((a.name, "") for a in node.names if a.name.startswith("bvit_analysis"))


def sources() -> Iterator[tuple[str, str]]:
    for path in sorted(SOURCE.glob("*.py")):
        yield path.name, path.read_text()
    cells = json.loads((SOURCE / "notebook.ipynb").read_text())["cells"]
    yield "notebook", "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")


@pytest.mark.parametrize(("name", "code"), list(sources()))
def test_the_lab_imports_public_names_only(name: str, code: str) -> None:
    """Public are the top of the package and the faces of what it names as its modules."""
    for module, what in imported(code):
        top, _, rest = module.partition(".")
        assert top == "bvit_analysis"
        if not rest:
            assert not what or what in bv.__all__, f"{name}: {what}"
        else:
            assert rest in bv.__all__, f"{name}: {module}"
            assert not what.startswith("_")
            assert hasattr(importlib.import_module(module), what)


def test_a_run_names_what_it_was_made_with_and_declares_its_measure(runs: list[bv.Run]) -> None:
    by_name = {run.run_id: run for run in runs}
    assert set(by_name) >= {"baseline-seed0", "mine-seed0", "shift-alone-seed0"}
    recipe = by_name["mine-seed0"].config["recipe"]
    assert recipe["shift"] == "own_shift:CentredShift"
    assert recipe["attention"] == "own_rule:QuarterRule()"
    assert recipe["regularization"] == "own_term:BoundedTerm(bound=0.25)"
    for name in ("baseline-seed0", "mine-seed0", "shift-alone-seed0"):
        run = by_name[name]
        assert run.state == "finished"
        last = run.sites[run.sites["step"] == 6].set_index("site")["row_spread"].dropna()
        weights = part(load_checkpoint(run.path).tensors, MODEL)
        assert len(last) == 4
        for site, value in last.items():
            norms = weights[f"{site}.weight"].norm(dim=1)
            assert value == pytest.approx(float(norms.max() / norms.mean()), rel=1e-5)


def test_the_term_and_the_shift_act(lab: Path) -> None:
    """The control: four recipes of one seed start from one model and part."""
    ends = {}
    for name in ("baseline", "mine", "shift-alone"):
        tensors = part(load_checkpoint(lab / f"runs/smoke/{name}-seed0").tensors, MODEL)
        ends[name] = tensors["blocks.0.attn.qkv.weight"]
    assert not torch.equal(ends["baseline"], ends["shift-alone"])
    assert not torch.equal(ends["mine"], ends["shift-alone"])


def test_the_ledger_counts_the_shift(
    own: dict[str, ModuleType], capsys: pytest.CaptureFixture[str]
) -> None:
    mine = bv.read_recipe("mine.toml")
    assert mine.shift is own["own_shift"].CentredShift
    assert mine.regularization == own["own_term"].BoundedTerm(bound=0.25)
    totals = {}
    for recipe in (bv.Recipe(name="without"), bv.Recipe(name="with", shift=mine.shift)):
        model = timm.create_model("vit_tiny_patch16_224", depth=1, num_classes=10)
        bv.binarize(model, recipe)
        totals[recipe.name] = bv.model_cost(model, img_size=224).table.sum(numeric_only=True)
    inputs = 192 + 3 * 192 + 192 + 192 + 768  # of qkv, of q, k and v, of proj, fc1 and fc2
    more = totals["with"] - totals["without"]
    assert more["parameters"] == inputs  # the bias; what is not learned is no parameter
    assert more["elementwise_ops"] == (2 * 197 + 1) * inputs
    assert main(["costs", "vit_tiny_patch16_224", "--recipe", "mine.toml"]) == 0
    assert "recipe mine" in capsys.readouterr().out


def test_the_measure_reaches_table_atlas_and_csv(runs: list[bv.Run]) -> None:
    table = tables.ablation_table(runs, "row_spread").set_index("recipe")
    assert set(table.index) >= {"baseline", "mine", "shift-alone"}
    assert table.loc["mine", "null"] == 1.0
    run = next(run for run in runs if run.run_id == "mine-seed0")
    values = run.sites.dropna(subset=["row_spread"])
    late = values[values["step"] == values["step"].max()]
    sizes = run.site_table.set_index("site")["n_weights"]
    mean = np.average(late["row_spread"], weights=sizes[late["site"]])
    assert table.loc["mine", "mean"] == pytest.approx(mean, rel=1e-6)
    assert table.loc["mine", "common_seeds"] == 1
    atlas = tables.site_atlas(run, "row_spread")
    assert len(atlas.sites) == 4
    assert atlas.grid[:, -1] == pytest.approx(late["row_spread"].to_numpy(), rel=1e-6)
    read = pd.read_csv(io.StringIO(tables.csv_text(tables.run_table(runs))))
    again = read.set_index("run_id")["row_spread"]
    assert again["mine-seed0"] == pytest.approx(table.loc["mine", "mean"], rel=1e-9)


def test_the_plot_is_drawn(own: dict[str, ModuleType], runs: list[bv.Run]) -> None:
    ax = own["own_plot"].plot_spread(runs)
    assert len(ax.get_lines()) == 3
    assert "Spread of row norms" in ax.get_title(loc="left")


def test_who_looks_imports_nothing_of_the_lab(lab: Path, tmp_path: Path) -> None:
    """Notebook and report in a folder where the lab's modules raise when they are imported."""
    for name in MODULES:
        trap = (
            f"open({str(tmp_path / 'imported')!r}, 'w').close(); raise RuntimeError('imported')\n"
        )
        (tmp_path / f"{name}.py").write_text(trap)
    shutil.copytree(lab / "runs", tmp_path / "runs")
    shutil.copy(lab / "notebook.ipynb", tmp_path)
    notebook = ["--notebooks", "notebook.ipynb", "--parameter", "measure=row_spread"]
    bvit(tmp_path, "notebooks", "runs/smoke", *notebook, "--out", "executed")
    bvit(tmp_path, "report", "executed", "--out", "report")
    page = (tmp_path / "report" / "notebook.html").read_text()
    for text in ("shift-alone", "row_spread", "no claim"):
        assert text in page
    assert "Map of row_spread for 4 weight sites over 6 steps of baseline, seed 0" in page
    assert "mine" in (tmp_path / "report" / "index.html").read_text()
    assert not (tmp_path / "imported").exists()


def test_packing_asks_for_the_recipe_and_then_decides_alike(
    in_lab: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pack = ["pack", "runs/smoke/mine-seed0"]
    assert main([*pack, "--out", "without.bvit"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "give the recipe again" in said
    assert not (in_lab / "without.bvit").exists()
    assert main([*pack, "--recipe", "mine.toml", "--out", "m.bvit", "--certify", "20"]) == 0
    certificate = json.loads((in_lab / "m.bvit.parity.json").read_text())
    assert certificate["identical_images"] == 20


def test_a_resume_needs_recipe_and_instruments_again(
    in_lab: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A training that is asked to stop goes on with both, and is refused without either of them."""
    arguments = ["train", "--recipe", "mine.toml", "--run-id", "stopped", *TRAINED]
    settings = words({**SMALL, "training.steps": "3000"})
    folder = in_lab / "runs" / "smoke" / "stopped"
    process = subprocess.Popen(
        command(*arguments, *settings), cwd=in_lab, env=environment(), stderr=subprocess.PIPE
    )
    try:
        while process.poll() is None and steps(folder) < 1:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 143
    run = bv.load_run(folder)
    assert run.state == "interrupted"
    with pytest.raises(bv.BvitError, match="only named here and is not imported; give the recipe"):
        bv.train(from_dict(bv.RunConfig, run.config), folder, progress=False)
    without = [word for word in arguments if word not in ("--instrument", "own_measure:RowSpread")]
    assert main([*without, *settings]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "row_spread" in said
    assert bv.load_run(folder).step == run.step
    process = subprocess.Popen(command(*arguments, *settings), cwd=in_lab, env=environment())
    try:
        while process.poll() is None and steps(folder) <= run.step:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        process.wait(120)
    finally:
        process.kill()
    went_on = bv.load_run(folder)
    assert went_on.step > run.step
    assert to_dict(from_dict(bv.RunConfig, went_on.config)) == went_on.config


def steps(folder: Path) -> int:
    try:
        return int(json.loads((folder / "status.json").read_text())["step"])
    except (OSError, ValueError, KeyError):
        return 0


def test_a_binarizer_in_a_loop_of_its_own_is_counted(
    own: dict[str, ModuleType], tmp_path: Path
) -> None:
    by_hand = own["own_loop"].watched_training(str(tmp_path / "loop"))
    gross, _, weights = tables.flip_totals(bv.load_run(tmp_path / "loop"))
    assert gross == by_hand > 0
    assert weights == 8 * 16 + 16 * 2


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("own_measure:RowSprad", "did you mean 'RowSpread'"),
        ("own_shift:CentredShift", "cannot make an instrument"),
        ("own_term:BoundedTerm", "expected an instrument"),
        ("nowhere:X", "cannot import 'nowhere'"),
        ("RowSpread", "is no import path"),
    ],
)
def test_a_wrong_instrument_is_said_before_anything_is_trained(
    in_lab: Path, capsys: pytest.CaptureFixture[str], name: str, text: str
) -> None:
    options = ["--scale", "smoke", "--quiet", "--out", "other", "--instrument", name]
    for asked in (["train", "--recipe", "mine.toml"], ["ablate", "--recipes", "mine.toml"]):
        assert main([*asked, *options, *words(SMALL)]) == 2
        said = capsys.readouterr().err
        assert text in said
        assert said.count("\n") == 1
        assert not (in_lab / "other").exists()
