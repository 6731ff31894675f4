"""Configurations as text: JSON-ready data, hashes of it, and FIELD=VALUE overrides from a command line."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from bvit_analysis.config.import_paths import import_path
from bvit_analysis.config.schema import RunConfig, TrainingConfig, takes_own
from bvit_analysis.errors import ConfigError, unknown_name

Config = TypeVar("Config")


def _typed(where: str, hint: Any, value: Any) -> Any:
    origin = get_origin(hint)
    if takes_own(hint):
        hint = str  # text has nothing but names and import paths; which ones is checked by the class itself
    elif origin in (typing.Union, types.UnionType):
        options = [option for option in get_args(hint) if option is not type(None)]
        return None if value is None else _typed(where, options[0], value)
    if dataclasses.is_dataclass(hint):
        return from_dict(typing.cast("type[Any]", hint), value)
    if origin is Literal:
        return value  # checked by the class itself
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ConfigError(
            f"{where} must be of type {hint.__name__}, got {value!r} ({type(value).__name__})"
        )
    return value


def to_dict(config: Any) -> dict[str, Any]:
    """Return a configuration as plain JSON-ready data, nested as its dataclasses are; own parts as import paths.

    Raises:
        ConfigError: If a recipe holds a class or object that cannot be found by import.
    """
    found: dict[str, Any] = {}
    for name, hint in get_type_hints(type(config)).items():
        value = getattr(config, name)
        if takes_own(hint):
            value = import_path(value)
        elif dataclasses.is_dataclass(value):
            value = to_dict(value)
        found[name] = value
    return found


def from_dict(kind: type[Config], data: dict[str, Any]) -> Config:
    """Build a configuration from plain data, refusing unknown names and ill-typed values.

    Args:
        kind: The dataclass to build, for example RunConfig.
        data: As returned by to_dict; missing fields take their defaults.

    Raises:
        ConfigError: If a name is unknown (the nearest right one is named) or a value has another type.
    """
    if not isinstance(data, dict):
        raise ConfigError(f"expected a mapping for {kind.__name__}, got {type(data).__name__}")
    return kind(**_values(kind, data))


def _values(kind: type[Any], data: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields of a configuration from plain data, each checked by its type."""
    hints = get_type_hints(kind)
    fields = [f.name for f in dataclasses.fields(kind)]
    values = {}
    for name, value in data.items():
        if name not in fields:
            raise ConfigError(unknown_name(f"{kind.__name__} field", name, fields))
        values[name] = _typed(f"{kind.__name__}.{name}", hints[name], value)
    return values


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return how two configurations as plain data differ: 'section.field: VALUE there, VALUE asked for' each."""
    found = []
    for name in sorted(set(old) | set(new)):
        before, after = old.get(name), new.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            found += differences(before, after, f"{prefix}{name}.")
        elif before != after:
            found.append(f"{prefix}{name}: {before!r} there, {after!r} asked for")
    return found


def config_hash(config: Any) -> str:
    """Return 16 hexadecimal digits that are equal for equal configurations (SHA-256 of the sorted JSON)."""
    text = json.dumps(to_dict(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def with_overrides(config: RunConfig, settings: Sequence[str]) -> RunConfig:
    """Return a configuration with some fields replaced, each given as 'section.field=value'.

    Args:
        config: The configuration to start from.
        settings: For example ``["training.steps=200", "recipe.shift=static"]``; values are read as JSON where they
            parse as JSON and as text otherwise.

    Raises:
        ConfigError: If a name is unknown or a value has another type.

    Example:
        >>> from bvit_analysis.config.presets import get_scale
        >>> with_overrides(get_scale("smoke"), ["training.steps=7"]).training.steps
        7
    """
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals:
            raise ConfigError(f"expected section.field=value, got {setting!r}")
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = text
        config = _with(config, path.split("."), value)
    return config


def _with(config: Any, path: Sequence[str], value: Any) -> Any:
    """Return a configuration with the field at a path replaced by plain data; all else stays the objects it is."""
    name, *rest = path
    if not rest:
        return dataclasses.replace(config, **_values(type(config), {name: value}))
    sections = {
        field: getattr(config, field)
        for field, hint in get_type_hints(type(config)).items()
        if dataclasses.is_dataclass(getattr(config, field)) and not takes_own(hint)
    }
    if isinstance(config, RunConfig) and config.teacher is None:
        # asked for: it begins with the defaults, where the run itself is trained
        place = {name: getattr(config.training, name) for name in ("device", "threads")}
        sections["teacher"] = TrainingConfig(**place)
    if name not in sections:
        raise ConfigError(unknown_name("section", name, sections))
    return dataclasses.replace(config, **{name: _with(sections[name], rest, value)})
