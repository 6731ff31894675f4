"""docs/architecture.md is held to the tree: what it names exists, what exists it names, and the floors are the contract's."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import bvit_analysis

PACKAGE = Path(bvit_analysis.__file__).parent
ROOT = PACKAGE.parent
PAGE = (ROOT / "docs" / "architecture.md").read_text()


def section(title: str) -> str:
    _, _, rest = PAGE.partition(f"\n## {title}\n")
    assert rest, f"no section {title!r}"
    return rest.partition("\n## ")[0]


def rows(title: str) -> list[tuple[str, str]]:
    """The two columns of the tables of a section, without their heads."""
    found = re.findall(r"^\| (.+?) \| (.+) \|$", section(title), flags=re.MULTILINE)
    return [row for row in found if row[0].strip("- ")]


def in_package() -> set[str]:
    folders = {f"{path.parent.name}/" for path in PACKAGE.glob("*/__init__.py")}
    return folders | {path.name for path in PACKAGE.glob("[!_]*.py")}


def test_every_folder_and_module_of_the_package_has_its_line_and_no_other() -> None:
    inside = section("Where what lies").partition("\nAround the package")[0]
    named = re.findall(r"^\| `([^`]+)` \|", inside, flags=re.MULTILINE)
    assert sorted(named) == sorted(in_package())


def test_every_folder_of_the_repository_has_its_line() -> None:
    around = section("Where what lies").partition("\nAround the package")[2]
    named = set(re.findall(r"^\| `([^`]+)/` \|", around, flags=re.MULTILINE))
    ignored = {"bvit_analysis", "build", "dist", "site", "runs", "report", "reports", "executed"}
    there = {path.name for path in ROOT.iterdir() if path.is_dir() and path.name[0] not in "._"}
    assert named == {name for name in there - ignored if not name.endswith(".egg-info")}


def test_every_path_that_it_names_exists() -> None:
    named = set(re.findall(r"`([a-z_/]+(?:/|\.(?:py|md|toml)))`", PAGE))
    assert len(named) > 30
    for name in named:
        assert any((place / name).exists() for place in (PACKAGE, ROOT, ROOT / "notebooks")), name
    for harness in re.findall(r"`(\w+)`", dict(rows("Where what lies"))["`tests/`"]):
        assert (ROOT / "tests" / "support" / f"{harness}.py").exists(), harness


def test_the_floors_are_those_of_the_contract_in_its_order() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (house,) = [one for one in contracts["contracts"] if one["type"] == "layers"]
    drawn = re.findall(r"```\n(.*?)```", section("Floors"), flags=re.DOTALL)[0]
    assert [line.strip() for line in drawn.splitlines()] == house["layers"]
    names = {name.strip() for floor in house["layers"] for name in floor.split("|")}
    assert names == {name.removesuffix(".py").rstrip("/") for name in in_package()}


def test_the_picture_names_parts_of_the_package() -> None:
    drawn = re.findall(r"```\n(.*?)```", section("One picture"), flags=re.DOTALL)[0]
    left, right = ("quantizers", "training", "runtime"), ("tables", "widgets", "report")
    for name in (*left, *right):
        assert name in drawn
        assert {name, f"{name}.py", f"{name}/"} & (in_package() | {name})


def test_words_have_one_meaning_each() -> None:
    words = [word.strip() for row, _ in rows("Words") for word in row.split(",")]
    words.remove("word")
    assert len(words) > 20
    assert len(set(words)) == len(words)


def test_contributing_begins_with_it() -> None:
    first = (ROOT / "CONTRIBUTING.md").read_text().splitlines()[0]
    assert "docs/architecture.md" in first
