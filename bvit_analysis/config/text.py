"""Configurations as text: JSON-ready data, hashes of it, and FIELD=VALUE overrides from a command line."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import types
import typing
from collections.abc import Sequence
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from bvit_analysis.config.schema import RunConfig
from bvit_analysis.errors import ConfigError, unknown_name

Config = TypeVar("Config")


def _typed(where: str, hint: Any, value: Any) -> Any:
    origin = get_origin(hint)
    if origin in (typing.Union, types.UnionType):
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
    """Return a configuration as plain JSON-ready data, nested as its dataclasses are."""
    return dataclasses.asdict(config)


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
    hints = get_type_hints(kind)
    fields = [f.name for f in dataclasses.fields(kind)]  # type: ignore[arg-type]
    values = {}
    for name, value in data.items():
        if name not in fields:
            raise ConfigError(unknown_name(f"{kind.__name__} field", name, fields))
        values[name] = _typed(f"{kind.__name__}.{name}", hints[name], value)
    return kind(**values)


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
    data = to_dict(config)
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals:
            raise ConfigError(f"expected section.field=value, got {setting!r}")
        *sections, name = path.split(".")
        place = data
        for section in sections:
            if not isinstance(place.get(section), dict):
                known = [key for key, value in place.items() if isinstance(value, dict)]
                raise ConfigError(unknown_name("section", section, known))
            place = place[section]
        try:
            place[name] = json.loads(text)
        except json.JSONDecodeError:
            place[name] = text
    return from_dict(RunConfig, data)
