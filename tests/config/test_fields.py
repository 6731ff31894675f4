"""`bvit config`: every field has its sentence, and shows the value that a training would use."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

import bvit_analysis.config.schema as schema
from bvit_analysis.cli import main
from bvit_analysis.config import RECIPES, SCALES, get_scale, to_dict
from bvit_analysis.config.fields import describe_fields, sentences

KINDS = [kind for kind in vars(schema).values() if dataclasses.is_dataclass(kind)]


def leaves(data: dict, prefix: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in data.items():
        if isinstance(value, dict):
            found |= leaves(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


def test_every_field_has_a_sentence() -> None:
    assert len(KINDS) == 6
    fields = describe_fields(get_scale("laptop"))
    assert len({field.field for field in fields}) == len(fields)
    for field in fields:
        assert re.search(r"\w.*\.$", field.sentence), field.field


@pytest.mark.slow
def test_sentences_are_those_under_the_fields() -> None:
    """The second witness reads lines instead of a syntax tree."""
    lines = Path(schema.__file__).read_text(encoding="utf-8").splitlines()
    found = {
        match[1]: after.strip().strip('"')
        for line, after in zip(lines, lines[1:], strict=False)
        if (match := re.match(r"    (\w+): [^(]+$", line)) and after.strip().startswith('"')
    }
    said = {name: text for kind in KINDS for name, text in sentences(kind).items()}
    assert {name for name in said if name not in found} <= {"data", "model", "training", "watch"}
    assert len(found) >= 50
    for name, text in found.items():
        assert any(sentences(kind).get(name) == text for kind in KINDS), name


@pytest.mark.parametrize("scale", SCALES)
def test_values_are_those_of_the_scale(capsys, scale: str) -> None:
    assert main(["config", "--scale", scale, "--recipe", "grs", "--json"]) == 0
    rows = {row["field"]: row for row in json.loads(capsys.readouterr().out)}
    config = dataclasses.replace(get_scale(scale), recipe=RECIPES["grs"])
    for name, value in leaves(to_dict(config)).items():
        assert rows[name]["value"] == value, name
        if value is not None:
            shown = {"str": "text"}.get(type(value).__name__, type(value).__name__)
            assert rows[name]["type"] == shown, name
    assert rows["recipe.shift"]["choices"] == ["none", "static", "token_mean", "bottleneck"]
    assert rows["recipe.shift"]["own"]
    assert not rows["recipe.weight_scale"]["own"]
    assert rows["training.steps"]["default"] == schema.TrainingConfig().steps
    assert {name for name, row in rows.items() if row["section"]} == {
        "recipe", "data", "model", "training", "teacher", "watch",
    }  # fmt: skip


def test_text_has_every_field_value_and_sentence(capsys, tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text('base = "asm"\nshift = "static"\n')
    settings = ["--set", "training.steps=77", "--recipe", str(mine)]
    assert main(["config", "--scale", "smoke", *settings]) == 0
    text = capsys.readouterr().out
    config = dataclasses.replace(get_scale("smoke"), recipe=RECIPES["asm"])
    for field in describe_fields(config):
        assert field.sentence in text
        assert field.section or f"  {field.field} = " in text
    assert 'recipe.name = "mine"' in text
    assert 'recipe.shift = "static"' in text
    assert "training.steps = 77" in text
    assert "default 1200" in text


def test_a_section_that_is_not_set_shows_its_fields(capsys) -> None:
    assert main(["config", "--recipe", "float", "--scale", "imagenet"]) == 0
    text = capsys.readouterr().out
    assert "recipe.shift = -" in text
    assert "teacher.steps = -" in text


def test_mistakes_are_named(capsys) -> None:
    for arguments, words in {
        ("--scale", "lap"): "did you mean 'laptop'",
        ("--recipe", "asn"): "did you mean 'asm'",
        ("--set", "training.stes=1"): "did you mean 'steps'",
    }.items():
        assert main(["config", *arguments]) == 2
        assert words in capsys.readouterr().err
