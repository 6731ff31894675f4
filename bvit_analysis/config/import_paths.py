"""Import paths: how a recipe that holds a researcher's own class or object is written as text, and found again.

The text is ``package.module:Name`` for a class or function, and ``package.module:Name(field=value, ...)`` for an object
of a frozen dataclass, as Python would write it. Text found in a run folder or a packed file stays text: only resolve()
imports, and only the user's own command line, recipe file or script calls it.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import math
import re
import sys
import types
from pathlib import Path
from typing import Any, Protocol

from bvit_analysis.errors import ConfigError, unknown_name

_LONGEST = 1000  # letters; a text may come from a stranger's run folder
_PATH = re.compile(
    r"(?P<module>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):(?P<name>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)"
    r"(?P<settings>\(.*\))?",
    re.ASCII,
)


class Own(Protocol):
    """A class, function or frozen dataclass object of the researcher's, which a recipe may hold in place of a name."""


def is_import_path(text: str) -> bool:
    """Return whether a text has the form of an import path; nothing is imported.

    Example:
        >>> is_import_path("mine.shifts:Centre"), is_import_path("mine:Centre(rate=0.5)"), is_import_path("static")
        (True, True, False)
    """
    return len(text) <= _LONGEST and _PATH.fullmatch(text) is not None


def is_own(value: object) -> bool:
    """Return whether a value can stand for a researcher's own part of a recipe: a class, a function, or such an object."""
    return isinstance(value, type | types.FunctionType) or _is_frozen(value)


def import_path(value: object) -> str:
    """Return a class, function or frozen dataclass object as the text that resolves to it again.

    Raises:
        ConfigError: If it cannot be found by import: it is defined in the script or notebook that runs, inside a
            function, or is a lambda; or if a setting is no number, text, bool or None.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, type | types.FunctionType):
        return _path_of(value)
    if not _is_frozen(value):
        raise ConfigError(
            f"{_shown(value)} cannot be written into a run; give a class, a function, or an object of a frozen dataclass"
        )
    settings = []
    for field in dataclasses.fields(value):  # type: ignore[arg-type]
        if not field.init:
            continue
        setting = getattr(value, field.name)
        if not _is_plain(setting):
            raise ConfigError(
                f"{type(value).__name__}.{field.name} is {_shown(setting)}, which cannot be written into a run; settings"
                " are numbers, text, True, False, None, or tuples of these"
            )
        settings.append(f"{field.name}={setting!r}")
    text = f"{_path_of(type(value))}({', '.join(settings)})"
    if not is_import_path(text):
        raise ConfigError(
            f"the settings of {type(value).__name__} are too long or of two lines; keep them below {_LONGEST} letters"
        )
    return text


def resolve(text: str, *folders: str | Path) -> Any:
    """Import what a text names; called for what the user typed or wrote, never for what a file of a run says.

    Args:
        text: As import_path() writes it; settings that are left out take their defaults.
        folders: Where modules are looked for too, after all places where Python finds them.

    Returns:
        The class, function or object.

    Raises:
        ConfigError: If it is no import path, the import fails, or the module has no such name.
    """
    match = _PATH.fullmatch(text)
    if match is None or len(text) > _LONGEST:
        raise ConfigError(
            f"{text[:80]!r} is no import path; expected package.module:Name, for example mine.shifts:Centre"
        )
    for folder in folders:
        search_also(folder)
    try:
        found: Any = importlib.import_module(match["module"])
    except Exception as error:  # somebody else's module may fail in any way
        raise ConfigError(
            f"cannot import {match['module']!r} of {text!r}: {type(error).__name__}: {error}; modules are looked for"
            " beside the recipe file, in the current folder, and where Python finds packages"
        ) from error
    for name in match["name"].split("."):
        if not hasattr(found, name):
            known = [one for one in vars(found) if not one.startswith("_")]
            raise ConfigError(f"{text!r}: {unknown_name('name', name, known)}")
        found = getattr(found, name)
    if match["settings"] is None:
        return found
    settings = _settings(text, match["settings"])
    if not (isinstance(found, type) and dataclasses.is_dataclass(found)):
        raise ConfigError(
            f"{text!r} has settings, but {match['name']} is no dataclass; make it one, or name it without brackets"
        )
    try:
        return found(**settings)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"cannot make {text!r}: {error}") from error


def search_also(folder: str | Path) -> None:
    """Let modules be imported from a folder, after everything that Python finds already."""
    path = str(Path(folder).absolute())
    if path not in sys.path:
        sys.path.append(path)


def _settings(text: str, written: str) -> dict[str, Any]:
    try:
        call = ast.parse(f"f{written}", mode="eval").body
        assert isinstance(call, ast.Call)
        named = {str(one.arg): one.value for one in call.keywords if one.arg is not None}
        if call.args or len(named) != len(call.keywords) or not isinstance(call.func, ast.Name):
            raise ValueError("settings are written as name=value")
        return {name: ast.literal_eval(value) for name, value in named.items()}
    except (AssertionError, MemoryError, RecursionError, SyntaxError, ValueError) as error:
        raise ConfigError(
            f"{text!r}: settings in brackets are named literals, as in Centre(rate=0.5): {error}"
        ) from error


def _path_of(target: type | types.FunctionType) -> str:
    module, name = target.__module__, target.__qualname__
    remedy = "move it into a module of its own (a .py file) that can be imported"
    if module == "__main__" or "<" in name:
        where = "in the script or notebook that runs" if module == "__main__" else "in a function"
        raise ConfigError(f"{name} is defined {where}, so no later process can find it; {remedy}")
    found: Any = sys.modules.get(module)
    for one in name.split("."):
        found = getattr(found, one, None)
    if found is not target:
        raise ConfigError(f"{module}:{name} names something else, or nothing; {remedy}")
    return f"{module}:{name}"


def _is_frozen(value: object) -> bool:
    parameters = getattr(type(value), "__dataclass_params__", None)
    return parameters is not None and bool(parameters.frozen)


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple):
        return all(_is_plain(one) for one in value)
    # not their subclasses, such as numpy's floats, whose text is no literal
    return type(value) in (bool, int, str, type(None)) or (
        type(value) is float and math.isfinite(value)
    )


def _shown(value: object) -> str:
    return " ".join(repr(value)[:80].split())
