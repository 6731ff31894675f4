"""Every field of a run's configuration with its type, default, value, and the sentence that stands under it in schema.py."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
import types
import typing
from dataclasses import dataclass
from typing import Any, get_args, get_type_hints

from bvit_analysis.config.schema import RunConfig, choices_of, takes_own
from bvit_analysis.config.text import to_dict


@dataclass(frozen=True, kw_only=True)
class Field:
    """One field of a configuration, as `bvit config` prints it."""

    field: str
    "As it is given to --set: 'training.steps'; a section's own line has its name alone."
    type: str
    "Of a value: 'int', 'text', ..., or what a section holds."
    choices: tuple[str, ...]
    "The values that can be named; () where any of the type is allowed."
    own: bool
    "Whether it may hold a class or object of the user's, written as package.module:Name."
    default: Any
    "Where nothing else is said, as plain data."
    value: Any
    "In the configuration that was asked for, as plain data; None where its section is not set."
    sentence: str
    "What it means."
    section: bool
    "Whether it is a section, whose fields follow."


def describe_fields(config: RunConfig) -> list[Field]:
    """Return every field of a configuration, sections and their fields in the order of the source.

    Args:
        config: Whose values are shown.
    """
    return _fields(RunConfig, to_dict(config), "")


def sentences(kind: type[Any]) -> dict[str, str]:
    """Return the sentence under each field of a class in its source, by the field's name; one without has none here."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
    body = typing.cast(ast.ClassDef, tree.body[0]).body
    found = {}
    for statement, follower in zip(body, body[1:], strict=False):
        if not (isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)):
            continue
        if isinstance(follower, ast.Expr) and isinstance(follower.value, ast.Constant):
            found[statement.target.id] = " ".join(str(follower.value.value).split())
    return found


def _fields(kind: type[Any], values: dict[str, Any] | None, prefix: str) -> list[Field]:
    hints, said, found = get_type_hints(kind), sentences(kind), []
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        value = None if values is None else values[field.name]
        section = _section(hint)
        sentence = said.get(field.name, "")
        if section is not None:
            sentence = " ".join(part for part in (inspect.getdoc(section), sentence) if part)
        found.append(
            Field(
                field=f"{prefix}{field.name}",
                type=_type(hint),
                choices=tuple(map(str, choices_of(hint))),
                own=takes_own(hint),
                default=_default(field) if section is None else None,
                value=value if section is None else None,
                sentence=sentence,
                section=section is not None,
            )
        )
        if section is not None:
            found += _fields(section, value, f"{prefix}{field.name}.")
    return found


def _section(hint: Any) -> type[Any] | None:
    if takes_own(hint):
        return None
    options = get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    sections = (option for option in options if isinstance(option, type))
    return next((option for option in sections if dataclasses.is_dataclass(option)), None)


def _type(hint: Any) -> str:
    section = _section(hint)
    if section is not None:
        return section.__name__
    if choices_of(hint):
        return "text"
    return "text" if hint is str else str(hint.__name__)


def _default(field: dataclasses.Field[Any]) -> Any:
    return None if field.default is dataclasses.MISSING else field.default
