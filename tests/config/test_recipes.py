"""Recipe files: fields, bases and names; mistakes in one line; import paths followed for the user alone."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import pytest

from bvit_analysis.config import (
    RECIPES,
    Recipe,
    RunConfig,
    config_hash,
    get_scale,
    read_recipe,
    resolve_recipe,
    to_dict,
    with_overrides,
)
from bvit_analysis.config.recipes import chosen_recipe, given, given_again
from bvit_analysis.errors import ConfigError
from tests.support.own_parts import Clamped, ClampedMeanShift, SteadyTerm, UniformRule

HERE = "tests.support.own_parts"


def written(folder: Path, text: str, name: str = "mine.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_an_empty_file_is_the_baseline_by_another_name(tmp_path: Path) -> None:
    assert read_recipe(written(tmp_path, "")) == dataclasses.replace(
        RECIPES["baseline"], name="mine"
    )


@pytest.mark.parametrize("base", RECIPES)
def test_a_base_gives_all_other_fields(tmp_path: Path, base: str) -> None:
    text = f'base = "{base}"\nshortcuts = false\nregularization_strength = 2\n'
    wanted = dataclasses.replace(
        RECIPES[base], name="mine", shortcuts=False, regularization_strength=2.0
    )
    found = read_recipe(written(tmp_path, text))
    assert found == wanted
    assert isinstance(found.regularization_strength, float)
    data = {"base": base, "shortcuts": False, "regularization_strength": 2, "name": "other"}
    as_json = read_recipe(written(tmp_path, "\ufeff" + json.dumps(data), "mine.json"))
    assert as_json == dataclasses.replace(wanted, name="other")


def test_own_parts_are_imported(tmp_path: Path) -> None:
    text = (
        f'shift = "{HERE}:ClampedMeanShift"\nattention = "{HERE}:UniformRule()"\n'
        f'regularization = "{HERE}:SteadyTerm(memory=0.5)"\n'
    )
    recipe = read_recipe(written(tmp_path, text))
    assert recipe.shift is ClampedMeanShift
    assert recipe.attention == UniformRule()
    assert recipe.regularization == SteadyTerm(memory=0.5)
    again = resolve_recipe(Recipe(**to_dict(recipe)))
    assert again == recipe


def test_a_module_beside_the_file_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = [*sys.path]
    monkeypatch.setattr(sys, "path", [*before])
    (tmp_path / "beside_k2.py").write_text(f"from {HERE} import Clamped\n")
    recipe = read_recipe(written(tmp_path, 'shift = "beside_k2:Clamped(bound=0.125)"'))
    assert recipe.shift == Clamped(bound=0.125)
    assert sys.path[: len(before)] == before  # what Python finds already goes first
    assert str(tmp_path) in sys.path[len(before) :]


MISTAKES = {
    "unknown field": ('shitf = "static"', "did you mean 'shift'"),
    "base misspelled": ('bsae = "asm"', "did you mean 'base'"),
    "unknown base": ('base = "asn"', "did you mean 'asm'"),
    "base of another type": ("base = 3", "unknown base '3'"),
    "type": ('shortcuts = "no"', "Recipe.shortcuts must be of type bool"),
    "number": ('latent_weight_decay = "0.1"', "must be of type float"),
    "choice": ('weight_scale = "tensor"', "expected one of 'channel', 'none'"),
    "range": ("shift_reduction = 0", "at least 1"),
    "shift": ('shift = "statik"', "did you mean 'static'"),
    "shift of another type": ("shift = 3", "Recipe.shift must be of type str"),
    "table": ('[shift]\nname = "x"', "Recipe.shift must be of type str"),
    "module": ('shift = "no_such_module_z:X"', "cannot import 'no_such_module_z'"),
    "syntax": ("shift = ", "is not valid TOML"),
}


@pytest.mark.parametrize("kind", MISTAKES)
def test_mistakes_are_named_with_the_file(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    text, words = MISTAKES[kind]
    path = written(tmp_path, text)
    with pytest.raises(ConfigError, match=words) as error:
        read_recipe(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_files_that_are_no_recipe(tmp_path: Path) -> None:
    (tmp_path / "bytes.toml").write_bytes(b"name = '\xff'")
    (tmp_path / "folder.toml").mkdir()
    cases = {
        tmp_path / "missing.toml": "cannot read recipe file",
        tmp_path / "folder.toml": "cannot read recipe file",
        tmp_path / "bytes.toml": "is not UTF-8",
        written(tmp_path, "[1]", "list.json"): "got a list",
        written(tmp_path, "[" * 100_000, "deep.json"): "is not valid JSON",
        written(tmp_path, "{", "half.json"): "is not valid JSON",
        written(tmp_path, "", "recipe.yaml"): "must end in .toml or .json",
    }
    for path, words in cases.items():
        with pytest.raises(ConfigError, match=words):
            read_recipe(path)


def test_a_word_of_the_command_line(tmp_path: Path) -> None:
    assert chosen_recipe("grs") is RECIPES["grs"]
    assert chosen_recipe(str(written(tmp_path, 'base = "grs"'))).regularization == "resilient"
    with pytest.raises(ConfigError, match="did you mean 'grs'"):
        chosen_recipe("gsr")


def test_what_is_only_named_is_not_used() -> None:
    named = Recipe(shift=f"{HERE}:ClampedMeanShift")
    with pytest.raises(ConfigError, match="only named here and is not imported; give the recipe"):
        given(named, "shift")
    assert given(resolve_recipe(named), "shift") is ClampedMeanShift
    assert given(named, "attention") == "elastic"


def test_a_recipe_given_again_must_be_the_recorded_one() -> None:
    recorded = Recipe(shift=f"{HERE}:Clamped(bound=0.5)")
    again = Recipe(shift=Clamped(bound=0.5))
    assert given_again(recorded, None) is recorded
    assert given_again(recorded, again) is again
    with pytest.raises(ConfigError, match=r"shift: .*bound=0.5.* there, .*bound=1.0.* asked for"):
        given_again(recorded, Recipe(shift=Clamped()))


def test_overrides_keep_objects_and_take_import_paths() -> None:
    class InANotebook:
        pass

    base = dataclasses.replace(
        get_scale("smoke"), recipe=Recipe(shift=InANotebook, regularization=SteadyTerm())
    )
    got = with_overrides(base, ["training.steps=7", "recipe.shortcuts=false"])
    assert got.recipe is not None
    assert got.recipe.shift is InANotebook
    assert got.recipe.regularization == SteadyTerm()
    assert (got.training.steps, got.recipe.shortcuts) == (7, False)
    got = with_overrides(base, [f"recipe.shift={HERE}:ClampedMeanShift"])
    assert got.recipe is not None
    assert resolve_recipe(got.recipe).shift is ClampedMeanShift
    assert with_overrides(base, ["recipe=null", "teacher=null"]).recipe is None
    for setting, text in {
        "recipe.shift.bound=1": "unknown section 'shift'",
        "recipe.shift=[1]": "must be of type str",
        "recipe=3": "expected a mapping for Recipe",
    }.items():
        with pytest.raises(ConfigError, match=text):
            with_overrides(base, [setting])


def test_hashes_see_own_parts() -> None:
    recipes = [
        Recipe(),
        Recipe(shift=ClampedMeanShift),
        Recipe(shift=Clamped()),
        Recipe(shift=Clamped(bound=0.5)),
        Recipe(regularization=SteadyTerm()),
        Recipe(attention=UniformRule),
        Recipe(attention=UniformRule()),
    ]
    hashes = {config_hash(RunConfig(recipe=recipe)) for recipe in recipes}
    assert len(hashes) == len(recipes)
    named = Recipe(shift=f"{HERE}:Clamped(bound=0.5)")
    assert config_hash(named) == config_hash(Recipe(shift=Clamped(bound=0.5)))
