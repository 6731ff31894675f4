"""Values of notebook parameters have the types that their notebooks declare, and are numbers that JSON can hold."""

from __future__ import annotations

import ast
import math
from pathlib import Path

import numpy as np
import pytest

from bvit_analysis.errors import SuiteError
from bvit_analysis.suite import Parameter, declared_parameters, parse_parameter
from bvit_analysis.suite.child import _inject_declared_types
from bvit_analysis.suite.parameters import check_parameter, code_of
from tests.support.notebooks import write_notebook


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("float", "nan"),
        ("float", "-inf"),
        ("float", "1e999"),
        ("float | None", "NaN"),
        ("list[float]", "1,nan"),
        ("list[float]", "[1, NaN]"),
        ("list", "[Infinity]"),
        ("dict[str, float]", '{"a": NaN}'),
        ("object", "nan"),
        ("object", '{"a": [-Infinity]}'),
    ],
)
def test_no_number_that_json_lacks_reaches_a_notebook(kind: str, text: str) -> None:
    parameter = Parameter(name="rate", type=kind, default=0.1, help="")
    with pytest.raises(SuiteError, match="finite numbers, as a notebook holds no nan") as caught:
        parse_parameter(parameter, text)
    assert "\n" not in str(caught.value)
    number = math.inf if "nf" in text or "999" in text else math.nan
    values = {"list": [number], "dict": {"a": number}}
    value = values.get(kind.partition("[")[0], number)
    with pytest.raises(SuiteError, match="finite numbers, as a notebook holds no nan"):
        check_parameter(parameter, value)


@pytest.mark.parametrize(
    ("line", "text", "value", "code"),
    [
        ("layers = [1, 2]", "3,4", [3, 4], None),
        ("layers = [1, 2.5]", "3,4", [3.0, 4.0], None),
        ("layers = [True]", "no", [False], None),
        ("layers = ['a']", "3,4", ["3", "4"], None),
        ("layers = [[1], [2]]", "[[3]]", [[3]], None),
        ("layers = (1, 2)", "3,4", [3, 4], "(3, 4)"),
        ("layers: tuple[int, ...] = (1,)", "3", [3], "(3,)"),
        ("layers: list = [1, 2]", "3,4", [3, 4], None),
        ("layers: list = [1, 2]", "a,b", ["a", "b"], None),
        ("layers: List = [1, 2]", "3,4", [3, 4], None),
        ("layers: list = []", "3,4", ["3", "4"], None),
        ("layers: Path = Path('x')", "y/z", "y/z", "Path('y/z')"),
        ("layers: Path | None = None", "none", None, None),
        ("layers: list[Path] = []", "a,b", ["a", "b"], "[Path('a'), Path('b')]"),
        ("layers: dict[str, Path] = {}", '{"a": "b"}', {"a": "b"}, "{'a': Path('b')}"),
        ("layers: Literal[-1, 0, 1] = 0", "-1", -1, None),
        ("layers = -1", "-7", -7, None),
    ],
)
def test_a_value_has_the_type_of_its_declaration(
    tmp_path: Path, line: str, text: str, value: object, code: str | None
) -> None:
    path = write_notebook(tmp_path / "one.ipynb", parameters=f"{line}\n")
    parameter = declared_parameters(path)["layers"]
    found = parse_parameter(parameter, text)
    assert found == value
    assert repr(found) == repr(value)
    assert check_parameter(parameter, found) == value
    assert code_of(parameter, found) == code


def test_paths_and_numpys_numbers_are_values(tmp_path: Path) -> None:
    where = Parameter(name="where", type="Path", default=None, help="")
    assert check_parameter(where, tmp_path) == str(tmp_path)
    sign = Parameter(name="sign", type="Literal[-1, 1]", default=1, help="")
    assert check_parameter(sign, np.int64(-1)) == -1
    with pytest.raises(SuiteError, match="must be of type Literal"):
        check_parameter(sign, True)


def test_the_injected_cell_has_paths_and_tuples(tmp_path: Path) -> None:
    import papermill.translators as translators

    path = write_notebook(
        tmp_path / "one.ipynb",
        parameters="out: Path = Path('x')\nsize: tuple[int, int] = (1, 2)\nrate = 0.1\nlayers = [1]\n",
    )
    given = {"out": "a'b", "size": [3, 4], "rate": 0.5, "layers": [5, 6]}
    registry = dict(translators.papermill_translators._translators)
    try:
        _inject_declared_types(path)
        text = translators.translate_parameters("python3", "python", given, "Parameters")
    finally:
        translators.papermill_translators._translators.update(registry)
    ast.parse(text)
    found: dict[str, object] = {}
    exec(text, found)
    assert found["out"] == Path("a'b")
    assert found["size"] == (3, 4)
    assert found["rate"] == 0.5
    assert found["layers"] == [5, 6]
