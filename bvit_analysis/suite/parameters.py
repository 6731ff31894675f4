"""The typed parameters a notebook declares, and the values a person gives for them.

A notebook declares its parameters in one code cell tagged ``parameters``: plain assignments, each with
an annotation and a comment, which is the one source of names, types and help. Nothing is executed here.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import io
import json
import keyword
import math
import numbers
import os
import re
import tokenize
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bvit_analysis.errors import SuiteError
from bvit_analysis.extras import missing_extra, not_installed

_LISTS = ("list", "List", "Sequence", "tuple", "Tuple")
_TUPLES = ("tuple", "Tuple")
_MAPPINGS = ("dict", "Dict", "Mapping")
_MOST_DIGITS = 4000  # Python itself reads no more
_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
_INTEGER = re.compile(r"[+-]?[0-9]+")
_REAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_NO_NUMBER = re.compile(r"\b(nan|inf|infinity)\b|[eE][+]?[0-9]{3}", re.IGNORECASE)


class ParameterText(str):
    """A value as it was typed on a command line; each notebook's own schema says what it means."""


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One name that a notebook can be given a value for."""

    name: str
    "A Python name."
    type: str
    "The annotation as written, for example 'list[str]'; of the default's type where there is none."
    default: Any
    "The literal in the notebook; None where it is not a literal."
    help: str
    "The comment behind it, may be empty."


class _Mismatch(ValueError):
    """A value does not fit an annotation."""


def require_notebooks() -> None:
    """Check that the packages that read and execute notebooks are there.

    Raises:
        MissingExtraError: If one is not; the text has the line that installs it.
    """
    missing = not_installed(("nbformat", "nbclient", "papermill", "ipykernel", "psutil"))
    if missing:
        raise missing_extra("the execution of notebooks", missing, "notebooks")


def read_notebook(path: Path) -> Any:
    """Read a notebook of any nbformat version as version 4.

    Raises:
        SuiteError: If the file is missing or not a notebook.
    """
    require_notebooks()
    import nbformat

    if not path.is_file():
        raise SuiteError(f"no notebook at {str(path)!r}; give the path of an .ipynb file")
    try:
        return nbformat.read(str(path), as_version=4)
    except Exception as error:
        reason = " ".join(str(error).split())[:120]
        raise SuiteError(f"{str(path)!r} is not a notebook that can be read: {reason}") from error


def declared_parameters(notebook: Path) -> dict[str, Parameter]:
    """Read the parameters that a notebook declares in its cell tagged ``parameters``.

    Args:
        notebook: Path of an ``.ipynb`` file.

    Returns:
        Name to parameter, in the order written; empty if the notebook has no such cell.

    Raises:
        SuiteError: If the file is not a notebook, has two such cells, or one that is not Python.
    """
    notebook = Path(notebook)
    cells = [
        cell
        for cell in read_notebook(notebook).cells
        if cell.cell_type == "code" and "parameters" in cell.metadata.get("tags", [])
    ]
    if len(cells) > 1:
        raise SuiteError(
            f"{str(notebook)!r} has {len(cells)} cells tagged 'parameters'; expected one"
        )
    if not cells:
        return {}
    source = str(cells[0].source)
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        raise SuiteError(
            f"the 'parameters' cell of {str(notebook)!r} is not plain Python (line {error.lineno}); "
            "write assignments only"
        ) from error
    comments = _comments(source)
    found: dict[str, Parameter] = {}
    for statement in tree.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            name, kind = statement.target.id, ast.unparse(statement.annotation)
            default = _literal(statement.value)
        elif (
            isinstance(statement, ast.Assign)
            and len(statement.targets) == 1
            and isinstance(statement.targets[0], ast.Name)
        ):
            name, default = statement.targets[0].id, _literal(statement.value)
            kind = _kind_of(default)
        else:
            continue
        if kind.startswith(("'", '"')):  # a quoted annotation
            kind = str(ast.literal_eval(kind))
        line = statement.end_lineno or statement.lineno
        found[name] = Parameter(name=name, type=kind, default=default, help=comments.get(line, ""))
    return found


def _kind_of(default: Any) -> str:
    """Return the annotation that a literal would have: 'object' for None, 'list[int]' for whole numbers in a list."""
    if default is None:
        return "object"
    kind = type(default).__name__
    if kind in _LISTS and default:
        found = {_kind_of(item) for item in default}
        found = {"float"} if found == {"int", "float"} else found
        if len(found) == 1 and "object" not in found:
            return f"{kind}[{found.pop()}{', ...' if kind in _TUPLES else ''}]"
    return kind


def _comments(source: str) -> dict[int, str]:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {
        token.start[0]: token.string.lstrip("# ").strip()
        for token in tokens
        if token.type == tokenize.COMMENT
    }


def _literal(node: ast.expr | None) -> Any:
    try:
        return None if node is None else ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError):
        return None


def check_parameter_name(name: str) -> str:
    """Return a name that may be injected into a notebook.

    Raises:
        SuiteError: If it is not a Python name, or is a keyword or the name of a builtin.
    """
    if not name.isidentifier() or keyword.iskeyword(name) or name.startswith("__"):
        raise SuiteError(
            f"parameter name {name!r} cannot be used; expected a plain Python name such as 'site'"
        )
    if hasattr(builtins, name):
        raise SuiteError(f"parameter name {name!r} is the name of a Python builtin; rename it")
    return name


def parse_assignments(texts: Iterable[str]) -> dict[str, ParameterText]:
    """Split ``name=value`` texts of a command line, leaving the typing to each notebook's schema.

    Args:
        texts: For example ``["site=blocks.0.mlp.fc1", "top=5"]``.

    Raises:
        SuiteError: If there is no ``=``, a name is not a Python name, or a name is given twice.

    Example:
        >>> parse_assignments(["rate=1e-3", "label=a=b"])
        {'rate': '1e-3', 'label': 'a=b'}
    """
    values: dict[str, ParameterText] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator:
            raise SuiteError(f"expected a parameter as name=value, got {text!r}")
        name = check_parameter_name(name.strip())
        if name in values:
            raise SuiteError(f"parameter {name!r} is given twice; give it once")
        values[name] = ParameterText(value)
    return values


def parse_parameter(parameter: Parameter, text: str) -> Any:
    """Read the text of one value as the type its notebook declares, so that 007 stays a string for str.

    Args:
        parameter: The declaration.
        text: As typed; lists are separated by commas or written as JSON, None is ``none``.

    Raises:
        SuiteError: If the text is not such a value.

    Example:
        >>> rate = Parameter(name="rate", type="float", default=0.1, help="")
        >>> parse_parameter(rate, "1e-3")
        0.001
    """
    kinds = [parameter.type]
    if parameter.type in _LISTS:  # what is in it, the default alone tells
        kinds.insert(0, _kind_of(parameter.default).replace("list", parameter.type, 1))
    for kind in kinds:
        try:
            return _from_text(_annotation(kind), text)
        except _Mismatch:
            continue
    raise _ill_typed(parameter, text)


def check_parameter(parameter: Parameter, value: Any) -> Any:
    """Return a value as plain JSON-ready data of the declared type, or refuse it.

    Args:
        parameter: The declaration.
        value: A Python value; tuples become lists, NumPy numbers Python numbers, paths strings.

    Raises:
        SuiteError: If the value is of another type.
    """
    if isinstance(value, ParameterText):
        return parse_parameter(parameter, str(value))
    try:
        return _from_value(_annotation(parameter.type), value)
    except _Mismatch as error:
        raise _ill_typed(parameter, value) from error


def _ill_typed(parameter: Parameter, value: Any) -> SuiteError:
    given = f"{str(value)!r}" if isinstance(value, str) else f"{value!r} ({type(value).__name__})"
    finite = "" if _all_finite(value) else " of finite numbers, as a notebook holds no nan or inf"
    return SuiteError(
        f"parameter {parameter.name!r} must be of type {parameter.type}{finite}, got {given}; "
        f"an example is its default {parameter.default!r}"
    )


def _all_finite(value: Any) -> bool:
    """Return whether a value or its text has no number that JSON cannot hold."""
    if isinstance(value, str):
        return not _NO_NUMBER.search(value)
    if isinstance(value, Mapping):
        return all(map(_all_finite, value.values()))
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return all(map(_all_finite, value))
    return not isinstance(value, numbers.Real) or math.isfinite(value)


def code_of(parameter: Parameter, value: Any) -> str | None:
    """Return a checked value as Python in its declared type, None where JSON's own types do.

    Args:
        parameter: The declaration.
        value: As check_parameter returned it; a tuple is a list in it, a path a string.

    Example:
        >>> code_of(Parameter(name="out", type="Path", default=None, help=""), "figures")
        "Path('figures')"
    """
    code = _code(_annotation(parameter.type), value)
    return None if code == repr(value) else code


def _code(kind: ast.expr, value: Any) -> str:
    for member in _options(kind) or []:
        try:
            _from_value(member, value)
        except _Mismatch:
            continue
        return _code(member, value)
    base, inner = _base(kind), _arguments(kind)
    if base == "Path":
        return f"Path({value!r})"
    if base in _LISTS and isinstance(value, list):
        kinds = _items(kind, len(value))
        items = [_code(one, item) for one, item in zip(kinds, value, strict=True)]
        if base in _TUPLES:
            return f"({', '.join(items)}{',' if len(items) == 1 else ''})"
        return f"[{', '.join(items)}]"
    if base in _MAPPINGS and isinstance(value, dict) and len(inner) == 2:
        return "{" + ", ".join(f"{k!r}: {_code(inner[1], v)}" for k, v in value.items()) + "}"
    return repr(value)


def _items(kind: ast.expr, count: int) -> list[ast.expr]:
    """Return the kind of each item of a list or tuple; a tuple may name one for each place.

    Raises:
        _Mismatch: If a tuple of that many items is not declared.
    """
    inner = _arguments(kind)
    if _base(kind) in _TUPLES and len(inner) > 1:
        if len(inner) != count:
            raise _Mismatch(count)
        return inner
    return [inner[0] if inner else ast.Name("object")] * count


def _annotation(kind: str) -> ast.expr:
    try:
        return ast.parse(kind, mode="eval").body
    except SyntaxError as error:
        raise _Mismatch(kind) from error


def _options(kind: ast.expr) -> list[ast.expr] | None:
    """Return the members of a union, None first and str last, or None if it is not a union."""
    if isinstance(kind, ast.BinOp) and isinstance(kind.op, ast.BitOr):
        members = [
            member for side in (kind.left, kind.right) for member in (_options(side) or [side])
        ]
    elif _base(kind) == "Optional" and isinstance(kind, ast.Subscript):
        members = [kind.slice, ast.Constant(None)]
    elif _base(kind) == "Union" and isinstance(kind, ast.Subscript):
        members = _arguments(kind)
    else:
        return None
    order = {"None": 0, "str": 2}
    return sorted(members, key=lambda member: order.get(ast.unparse(member), 1))


def _base(kind: ast.expr) -> str:
    if isinstance(kind, ast.Subscript):
        return _base(kind.value)
    if isinstance(kind, ast.Attribute):
        return kind.attr
    return kind.id if isinstance(kind, ast.Name) else str(getattr(kind, "value", ""))


def _arguments(kind: ast.expr) -> list[ast.expr]:
    if not isinstance(kind, ast.Subscript):
        return []
    inner = kind.slice.elts if isinstance(kind.slice, ast.Tuple) else [kind.slice]
    return [item for item in inner if not (isinstance(item, ast.Constant) and item.value is ...)]


def _from_value(kind: ast.expr, value: Any) -> Any:
    members = _options(kind)
    if members is not None:
        return _first(_from_value, members, value)
    base, inner = _base(kind), _arguments(kind)
    if base in ("object", "Any"):
        return _json(value)
    if base == "None" and value is None:
        return None
    if base == "bool" and isinstance(value, bool):
        return value
    if base == "int" and isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return int(value)
    if base == "float" and isinstance(value, numbers.Real) and not isinstance(value, bool):
        return _finite(value)
    if base in ("str", "Path", "PurePath", "PathLike") and isinstance(value, str | os.PathLike):
        return str(os.fspath(value))
    if base == "Literal":
        plain = _json(value)
        if any(plain == option and type(plain) is type(option) for option in _choices(inner)):
            return plain
    if base in _LISTS and isinstance(value, Sequence) and not isinstance(value, str | bytes):
        kinds = _items(kind, len(value))
        return [_from_value(one, item) for one, item in zip(kinds, value, strict=True)]
    if base in _MAPPINGS and isinstance(value, Mapping) and all(isinstance(k, str) for k in value):
        each = inner[1] if len(inner) == 2 else ast.Name("object")
        return {str(key): _from_value(each, item) for key, item in value.items()}
    raise _Mismatch(base)


def _from_text(kind: ast.expr, text: str) -> Any:
    members = _options(kind)
    if members is not None:
        return _first(_from_text, members, text)
    base, word = _base(kind), text.strip()
    if base == "str":
        return text
    if base in ("Path", "PurePath", "PathLike") and word:
        return word
    if base == "None" and word.lower() in ("none", "null"):
        return None
    if base == "bool" and word.lower() in _TRUE + _FALSE:
        return word.lower() in _TRUE
    if base == "int" and _INTEGER.fullmatch(word) and len(word) < _MOST_DIGITS:
        return int(word)
    if base == "float" and _REAL.fullmatch(word):
        return _finite(float(word))
    if base == "Literal":
        options = _choices(_arguments(kind))
        for option in options:
            if word == str(option):
                return option
        for option in options:  # other ways to write it: true, none, +1
            if not isinstance(option, str):
                with contextlib.suppress(_Mismatch):
                    other = _from_text(
                        ast.Name(type(option).__name__.replace("NoneType", "None")), word
                    )
                    if other == option:
                        return option
    if base in _LISTS and not word.startswith("["):
        items = [item.strip() for item in word.split(",")] if word else []
        kinds = _items(kind, len(items)) if _arguments(kind) else [ast.Name("str")] * len(items)
        return [_from_text(one, item) for one, item in zip(kinds, items, strict=True)]
    if base in ("object", "Any") and word.lower().lstrip("+-") in ("nan", "inf", "infinity"):
        raise _Mismatch(word)
    if base in (*_LISTS, *_MAPPINGS, "object", "Any"):
        try:
            return _from_value(kind, json.loads(word, parse_constant=_refuse))
        except _Mismatch:
            if not _all_finite(word):
                raise
            if base in ("object", "Any"):
                return text
        except ValueError:  # also what a mismatch is
            if base in ("object", "Any"):
                return text
    raise _Mismatch(base)


def _first(read: Any, members: list[ast.expr], value: Any) -> Any:
    for member in members:
        try:
            return read(member, value)
        except _Mismatch:
            continue
    raise _Mismatch(value)


def _choices(nodes: list[ast.expr]) -> list[Any]:
    """Return the members of a Literal; -1 is an operator before a number, and a nested Literal has its own."""
    found: list[Any] = []
    for node in nodes:
        if isinstance(node, ast.Subscript):
            found += _choices(_arguments(node))
        else:
            with contextlib.suppress(ValueError):
                found.append(ast.literal_eval(node))
    return found


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise _Mismatch(value)
    return number


def _refuse(constant: str) -> Any:
    raise _Mismatch(constant)


def _json(value: Any) -> Any:
    if isinstance(value, numbers.Number) and hasattr(value, "item"):
        value = value.item()  # NumPy's
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise _Mismatch(value) from error
