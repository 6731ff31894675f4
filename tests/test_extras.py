"""Without the extra `train`: what looks at runs works, and all else says what to install."""

from __future__ import annotations

import json
import pkgutil
import sys
from pathlib import Path

import pytest

import bvit_analysis
from bvit_analysis import extras
from bvit_analysis.records import load_run
from tests.support import without_torch
from tests.support.notebooks import write_notebook
from tests.support.synthetic_run import make_run

pytestmark = pytest.mark.processes

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(bvit_analysis.__path__, "bvit_analysis.")
    if not module.name.endswith("__main__")
)
LINE = "pip install 'bvit_analysis[train]'"
LOOKERS = ("tables", "plots", "widgets", "toys", "suite", "report", "cli", "costs", "config")

IMPORT_EACH = """
import importlib, json, sys
from bvit_analysis.errors import MissingExtraError
refused, other = {}, {}
for name in json.loads(sys.argv[1]):
    try:
        importlib.import_module(name)
    except MissingExtraError as error:
        refused[name] = str(error)
    except Exception as error:
        other[name] = repr(error)
print(json.dumps([refused, other]))
"""


def needs_train(name: str) -> bool:
    parts = name.split(".")
    return any(".".join(parts[1:n]) in extras.NEED_TRAIN for n in range(2, len(parts) + 1))


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], dict[str, str]]:
    """What importing each module ends in: the refusals, and any other error."""
    folder = tmp_path_factory.mktemp("site")
    done = without_torch.python(folder, "-c", IMPORT_EACH, json.dumps(MODULES))
    assert done.returncode == 0, done.stderr
    refused, other = json.loads(done.stdout)
    return refused, other


def test_each_module_imports_or_says_the_line_that_installs_what_it_needs(
    imported: tuple[dict[str, str], dict[str, str]],
) -> None:
    refused, other = imported
    assert other == {}
    assert set(refused) == {name for name in MODULES if needs_train(name)}
    for text in refused.values():
        assert text.endswith(LINE)
        assert "\n" not in text
        assert "torch, torchvision, timm and safetensors" in text


def test_what_looks_at_runs_is_not_among_them(
    imported: tuple[dict[str, str], dict[str, str]],
) -> None:
    refused, _ = imported
    assert not [name for name in refused if name.split(".")[1] in LOOKERS and "ledger" not in name]
    assert "bvit_analysis.costs.ledger" in refused


@pytest.mark.parametrize("name", ["binarize", "Watch", "find_sites", "load_packed", "quantizers"])
def test_a_public_name_says_the_line(tmp_path: Path, name: str) -> None:
    code = f"import bvit_analysis as bv\ntry: bv.{name}\nexcept bv.BvitError as e: print(e)"
    assert without_torch.python(tmp_path, "-c", code).stdout.strip().endswith(LINE)


@pytest.mark.parametrize(
    "command",
    [
        ["train", "--scale", "smoke", "--out", "."],
        ["ablate", "--scale", "smoke", "--out", "."],
        ["pack", ".", "--out", "x.bvit"],
        ["costs", "deit_small_patch16_224"],
    ],
    ids=lambda command: command[0],
)
def test_a_command_says_the_line_and_leaves_nothing(tmp_path: Path, command: list[str]) -> None:
    here = tmp_path / "here"
    here.mkdir()
    done = without_torch.python(tmp_path, "-m", "bvit_analysis.cli", *command, cwd=here)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert line.endswith(LINE)
    assert list(here.iterdir()) == []


def test_where_it_is_installed_nothing_is_done() -> None:
    assert extras.not_installed(extras.TRAIN_PACKAGES) == []
    extras.guard_training()
    assert not [finder for finder in sys.meta_path if "bvit" in type(finder).__module__]


LOOK = """
import sys
from bvit_analysis import costs, load_run, plots, tables, toys, widgets

selected = tables.load_runs(runs)
print(len(tables.run_table(selected)), "runs,", len(load_run(runs[0]).sites), "rows")
plots.plot_flip_rate(selected).figure
widgets.OscillationExplorer(selected[0])
assert toys.sign(0.0) == 1
print("loaded:", sorted({"torch", "timm", "numba"} & set(sys.modules)))
"""


def test_a_notebook_and_its_report_are_made(tmp_path: Path) -> None:
    """The whole way of what looks at runs, from `bvit notebooks` to the pages."""
    run = make_run(tmp_path / "runs" / "grs-seed0", recipe="grs", steps=20)
    notebook = write_notebook(tmp_path / "look.ipynb", LOOK, parameters="runs: list[str] = []  # x")
    bvit = ("-m", "bvit_analysis.cli")
    out, pages = tmp_path / "executed", tmp_path / "report"
    arguments = ["notebooks", str(run), "--notebooks", str(notebook), "--out", str(out), "--quiet"]
    done = without_torch.python(tmp_path, *bvit, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    text = json.loads((out / "look" / "notebook.ipynb").read_text())
    printed = [
        "".join(output["text"])
        for cell in text["cells"]
        for output in cell.get("outputs", [])
        if output["output_type"] == "stream"
    ]
    assert f"1 runs, {len(load_run(run).sites)} rows" in "".join(printed)
    assert "loaded: []" in "".join(printed)
    done = without_torch.python(tmp_path, *bvit, "report", str(out), "--out", str(pages))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "grs-seed0" in (pages / "index.html").read_text()


@pytest.mark.slow
def test_the_analyses_of_the_shipped_runs_are_made(tmp_path: Path) -> None:
    """Notebooks 03 to 08 as they are, over the runs that come with the repository."""
    names = sorted(path.stem for path in (without_torch.ROOT / "notebooks").glob("0[3-8]_*.ipynb"))
    assert len(names) == 6
    chosen = [part for name in names for part in ("--notebooks", f"notebooks/{name}.ipynb")]
    out, pages = tmp_path / "executed", tmp_path / "report"
    bvit = ("-m", "bvit_analysis.cli")
    arguments = ["notebooks", "data/runs", *chosen, "--out", str(out), "--json"]
    done = without_torch.python(tmp_path, *bvit, *arguments, cwd=without_torch.ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["states"] == {"succeeded": 6}
    costs = (out / "07_cost_ledger" / "notebook.ipynb").read_text()
    assert LINE in costs
    done = without_torch.python(tmp_path, *bvit, "report", str(out), "--out", str(pages))
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(list(pages.rglob(f"{name}*.html")) for name in names)
