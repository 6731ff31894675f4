"""Import paths: a class or object as text and back, what cannot be written, and that only resolve() imports."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bvit_analysis.config import Recipe, RunConfig, from_dict, import_path, resolve, to_dict
from bvit_analysis.config.import_paths import is_import_path
from bvit_analysis.errors import ConfigError
from tests.support import own_parts
from tests.support.own_parts import Clamped, ClampedMeanShift, SteadyTerm

HERE = "tests.support.own_parts"


@dataclass(frozen=True)
class Settings:
    flag: bool = True
    count: int = -3
    rate: float = 1e-7
    word: str = 'it\'s; a "word"\n(2)'
    nothing: None = None
    several: tuple[Any, ...] = (1, (2.5, "x"), None)


class Outer:
    class Inner:
        pass


def a_function() -> None:
    pass


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (ClampedMeanShift, f"{HERE}:ClampedMeanShift"),
        (Outer.Inner, f"{__name__}:Outer.Inner"),
        (a_function, f"{__name__}:a_function"),
        (Clamped(bound=0.5), f"{HERE}:Clamped(bound=0.5)"),
        (SteadyTerm(), f"{HERE}:SteadyTerm(memory=0.75)"),
        (Settings(), None),
    ],
)
def test_text_and_back(value: object, text: str | None) -> None:
    written = import_path(value)
    assert text in (written, None)
    assert is_import_path(written)
    again = resolve(written)
    assert again is value or again == value
    assert import_path(written) == written  # text stays text


@dataclass
class Thawed:
    rate: float = 0.5


def _local() -> type:
    class Local:
        pass

    return Local


class Renamed:
    pass


_Old, Renamed = (
    Renamed,
    type("Renamed", (), {"__module__": __name__}),
)  # a name that names another class now


def _of_main() -> type:
    return type("Mine", (), {"__module__": "__main__"})


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (lambda: None, "is defined in a function, so no later process can find it; move it into a"),
        (_local(), "is defined in a function"),
        (_of_main(), "Mine is defined in the script or notebook that runs"),
        (_Old, "names something else, or nothing"),
        (Thawed(), "an object of a frozen dataclass"),
        (object(), "cannot be written into a run"),
        (Settings(rate=float("nan")), "Settings.rate is nan, which cannot be written"),
        (Settings(rate=np.float64(0.5)), "Settings.rate is"),
        (Settings(several=([1],)), "settings are numbers, text"),  # type: ignore[arg-type]
        (Settings(word="x" * 2000), "too long"),
    ],
)
def test_what_cannot_be_found_again_is_refused(value: object, text: str) -> None:
    with pytest.raises(ConfigError, match=text) as error:
        import_path(value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("mine", "is no import path"),
        ("no_such_module:Name", "cannot import 'no_such_module'"),
        (f"{HERE}:ClampedMeanShit", "did you mean 'ClampedMeanShift'"),
        (f"{HERE}:Clamped(bnd=1)", "cannot make"),
        (f"{HERE}:Clamped(1)", "settings are written as name=value"),
        (f"{HERE}:Clamped(bound=open('x'))", "named literals"),
        (f"{HERE}:Clamped(bound=1)(bound=2)", "named literals"),
        (f"{HERE}:Clamped(**{{}})", "named literals"),
        (f"{HERE}:Clamped(bound=" + "(" * 400 + ")" * 400 + ")", "named literals"),
        (f"{HERE}:ClampedMeanShift(bound=1)", "is no dataclass"),
    ],
)
def test_mistakes_in_a_path_are_named(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        resolve(text)


def test_a_module_that_fails_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "fails_at_import_f3.py").write_text("raise OSError('no luck')")
    with pytest.raises(ConfigError, match="OSError: no luck"):
        resolve("fails_at_import_f3:Name")


@pytest.mark.parametrize(
    "text",
    ["statik", "__import__", ":", "a:", ":b", "a:b:c", "a b:c", "a:b\n", "os:system('x')\n", "a.:b", "a/b:c", "a:1"],
)  # fmt: skip
def test_what_is_no_import_path(text: str) -> None:
    assert not is_import_path(text)
    with pytest.raises(ConfigError, match="did you mean|expected one of"):
        Recipe(shift=text)


def test_a_recipe_from_text_imports_nothing() -> None:
    named = dataclasses.replace(Recipe(), shift="never_imported_q8:Shift", attention="a.b:C(d=1)")
    config = from_dict(RunConfig, to_dict(RunConfig(recipe=named)))
    assert config.recipe == named
    assert "never_imported_q8" not in sys.modules
    assert to_dict(config)["recipe"]["shift"] == "never_imported_q8:Shift"


@pytest.mark.parametrize("value", [3, None, ["static"], {"a": 1}, object(), Thawed()])
def test_a_recipe_takes_no_other_value(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"Recipe.shift must be one of 'none'"):
        Recipe(shift=value)
    if isinstance(value, int | list | dict | None):
        with pytest.raises(ConfigError, match=r"Recipe.shift must be of type str"):
            from_dict(Recipe, {"shift": value})


def test_own_parts_are_compared_by_value() -> None:
    one, two = (Recipe(shift=Clamped(bound=0.5)) for _ in range(2))
    assert one == two
    assert one != Recipe(shift=Clamped(bound=0.25))
    assert to_dict(one) == to_dict(two)
    assert own_parts.Clamped is resolve(f"{HERE}:Clamped")
