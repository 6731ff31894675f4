"""Trainings with a recipe of the researcher's own: recorded, resumed to the bit, swept, and looked at without it."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from bvit_analysis.cli import main
from bvit_analysis.config import Recipe, RunConfig, from_dict, get_recipe, to_dict
from bvit_analysis.errors import ConfigError
from bvit_analysis.records import load_run
from bvit_analysis.records.checkpoints import load_checkpoint
from bvit_analysis.training.run import train
from bvit_analysis.training.sweep import ablate, grid
from tests.support.own_parts import (
    Clamped,
    ClampedMeanShift,
    DrawnShift,
    SteadyTerm,
    UniformRule,
)
from tests.support.tiny_run import differing, tiny

OWN = Recipe(
    name="own",
    shift=ClampedMeanShift,
    attention=UniformRule(),
    regularization=SteadyTerm(memory=0.5),
    regularization_strength=0.7,
)


def own(recipe: Recipe = OWN) -> RunConfig:
    return dataclasses.replace(tiny(), recipe=recipe)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(own(), tmp_path_factory.mktemp("whole") / "own-seed0", progress=False)


def test_a_run_names_what_it_was_made_with(whole: Path) -> None:
    recipe = load_run(whole).config["recipe"]
    here = "tests.support.own_parts"
    assert recipe["shift"] == f"{here}:ClampedMeanShift"
    assert recipe["attention"] == f"{here}:UniformRule()"
    assert recipe["regularization"] == f"{here}:SteadyTerm(memory=0.5)"
    rows = load_run(whole).info["costs"]
    assert sum(row["kind"] == "shift" for row in rows) == 7
    names = load_checkpoint(whole).tensors
    assert "regularizer.mean.blocks.0.attn.qkv" in names
    assert "model.blocks.0.attn.q_sign.shift.share" in names


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_bit(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bvit_analysis.training import loop

    save = loop.save_state

    def killed(state, writer, run_dir) -> None:
        save(state, writer, run_dir)
        if state.step == 12:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "save_state", killed)
        # the teacher, which stops at step 6, is not what is killed
        with pytest.raises(KeyboardInterrupt):
            train(own(), tmp_path / "own-seed0", progress=False)
    assert load_run(tmp_path / "own-seed0").scalars["step"].max() == 12
    train(own(), tmp_path / "own-seed0", progress=False)
    assert differing(whole, tmp_path / "own-seed0") == []


def test_the_terms_state_matters_for_a_resume(whole: Path) -> None:
    """The control of the test above: the state is not at its start."""
    mean = load_checkpoint(whole).tensors["regularizer.mean.blocks.0.attn.qkv"]
    assert 0 < float(mean.abs().mean()) < 1


def test_a_finished_run_is_recognized_without_import_and_another_recipe_is_refused(
    whole: Path,
) -> None:
    named = from_dict(RunConfig, load_run(whole).config)
    assert named.recipe is not None
    assert isinstance(named.recipe.shift, str)
    assert train(named, whole, progress=False) == whole
    other = dataclasses.replace(OWN, shift=Clamped(bound=0.5))
    with pytest.raises(ConfigError, match=r"recipe.shift: .*ClampedMeanShift.* there, .*bound=0.5"):
        train(own(other), whole, progress=False)


def test_a_resume_by_name_alone_is_refused(whole: Path, tmp_path: Path) -> None:
    named = from_dict(RunConfig, load_run(whole).config)
    with pytest.raises(
        ConfigError, match="is only named here and is not imported; give the recipe"
    ):
        train(named, tmp_path / "own-seed0", progress=False)
    assert not list(tmp_path.iterdir())


def test_mistakes_stop_before_the_teacher(tmp_path: Path) -> None:
    class Local(ClampedMeanShift):
        pass

    mistakes = {
        Recipe(shift=Local): "is defined in a function",
        Recipe(shift=DrawnShift): "has other weights each time it is made",
        Recipe(shift=SteadyTerm): r"cannot be made as shift\(dim, name=...\)",
        Recipe(regularization=ClampedMeanShift): "cannot be made without arguments",
        Recipe(regularization=UniformRule): "is no gradient term",
        Recipe(attention=SteadyTerm()): "is no attention rule",
    }
    for recipe, text in mistakes.items():
        with pytest.raises(ConfigError, match=text):
            train(own(recipe), tmp_path / "own-seed0", progress=False)
        with pytest.raises(ConfigError, match=text):
            ablate(tiny(), tmp_path, recipes=["baseline", recipe], seeds=[0], progress=False)
    assert not list(tmp_path.iterdir())


def test_names_in_a_grid() -> None:
    same = dataclasses.replace(get_recipe("asm"), name="asm")
    assert list(grid(tiny(), ["asm", same, OWN], [0])) == ["asm-seed0", "own-seed0"]
    other = dataclasses.replace(OWN, shift="static")
    with pytest.raises(ConfigError, match=r"two different recipes are named 'own' \(shift: "):
        grid(tiny(), [OWN, other], [0])
    with pytest.raises(ConfigError, match="name"):
        grid(tiny(), [dataclasses.replace(OWN, name="../x")], [0])


@pytest.mark.processes
def test_a_sweep_gives_own_recipes_to_its_processes(whole: Path, tmp_path: Path) -> None:
    folders = ablate(tiny(), tmp_path, recipes=["baseline", OWN], seeds=[0], progress=False)
    assert [folder.name.split("-")[0] for folder in folders] == ["teacher", "baseline", "own"]
    assert differing(whole, tmp_path / "own-seed0") == []


@pytest.mark.slow
def test_a_recipe_file_with_its_module_goes_through_the_command_line(tmp_path: Path) -> None:
    """In processes of their own, from another folder, and looked at when the module is gone."""
    (tmp_path / "shifts_w4.py").write_text(
        "from tests.support.own_parts import ClampedMeanShift\nclass Mine(ClampedMeanShift):\n    pass\n"
    )
    recipe = tmp_path / "mine.toml"
    recipe.write_text('base = "grs"\nshift = "shifts_w4:Mine"\n')
    work = tmp_path / "work"
    work.mkdir()
    settings = [f"training.steps={4}", "teacher.steps=2", "data.train_limit=200"]
    settings += ["model.depth=1", "training.calibration_images=32", "data.evaluation_limit=50"]
    options = ["--scale", "smoke", "--quiet", "--out", str(work / "runs")]
    options += [word for setting in settings for word in ("--set", setting)]
    bvit = [sys.executable, "-m", "bvit_analysis.cli"]
    root = Path(__file__).resolve().parents[2]

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        import os

        env = {**os.environ, "PYTHONPATH": str(root)}
        return subprocess.run([*bvit, *words], cwd=work, env=env, capture_output=True, text=True)

    done = run("ablate", "--recipes", f"baseline,{recipe}", "--seeds", "1", *options)
    assert done.returncode == 0, done.stderr
    runs = work / "runs" / "smoke"
    assert (runs / "mine-seed0" / "run.json").exists()
    assert "mine-seed0" in done.stdout
    # the same run by the other door: finished, so nothing is trained
    before = (runs / "mine-seed0" / "status.json").read_bytes()
    done = run("train", "--recipe", str(recipe), *options)
    assert done.returncode == 0, done.stderr
    assert (runs / "mine-seed0" / "status.json").read_bytes() == before
    # another content under the same name
    recipe.write_text('base = "grs"\n')
    done = run("train", "--recipe", str(recipe), *options)
    assert done.returncode == 2
    assert "recipe.shift: 'shifts_w4:Mine' there, 'none' asked for" in done.stderr
    assert done.stderr.count("\n") == 1
    done = run("ablate", "--recipes", f"{recipe},{_twin(tmp_path)}", "--seeds", "1", *options)
    assert done.returncode == 2
    assert "two different recipes are named 'mine'" in done.stderr
    (tmp_path / "shifts_w4.py").unlink()
    found = load_run(runs / "mine-seed0")
    assert found.config["recipe"]["shift"] == "shifts_w4:Mine"
    assert len(found.scalars) == 4


def _twin(folder: Path) -> Path:
    path = folder / "twin.json"
    path.write_text(json.dumps({"name": "mine", "base": "asm"}))
    return path


def test_costs_of_a_recipe_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text('shift = "tests.support.own_parts:ClampedMeanShift"\n')
    model = ["costs", "vit_tiny_patch16_224", "--json", "--recipe"]
    assert main([*model, "baseline"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert main([*model, str(recipe)]) == 0
    mine = json.loads(capsys.readouterr().out)
    assert mine["model"]["recipe"] == "mine"
    inputs = 12 * (192 + 3 * 192 + 192 + 192 + 768)  # qkv, q k v, proj, fc1, fc2 of 12 blocks
    more = mine["totals"]["parameters"] - plain["totals"]["parameters"]
    assert more == 2 * inputs
    more = mine["totals"]["elementwise_ops"] - plain["totals"]["elementwise_ops"]
    assert more == (2 * 197 + 4) * inputs


def test_overrides_reach_every_recipe_of_an_ablation(monkeypatch: pytest.MonkeyPatch) -> None:
    from bvit_analysis.training import sweep

    seen = {}

    def noted(base, out, *, recipes, **options):
        seen.update({recipe.name: recipe for recipe in recipes})
        return []

    monkeypatch.setattr(sweep, "ablate", noted)
    words = ["ablate", "--scale", "smoke", "--recipes", "baseline,grs"]
    assert main([*words, "--set", "recipe.shortcuts=false"]) == 0
    assert {name: recipe.shortcuts for name, recipe in seen.items()} == {
        "baseline": False,
        "grs": False,
    }
    assert to_dict(seen["grs"])["regularization"] == "resilient"
