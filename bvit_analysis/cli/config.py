"""`bvit config`: every setting of a training, with its meaning and its value."""

from __future__ import annotations

import argparse
import dataclasses
import json

from bvit_analysis.cli.command import Commands, command
from bvit_analysis.cli.training import chosen_config, recipe_help, setting_argument
from bvit_analysis.config.fields import Field, describe_fields


def add_commands(commands: Commands) -> None:
    """Add `config`."""
    parser = command(
        commands,
        "config",
        run,
        "print every setting of a training: its type, default, meaning, and value as 'bvit train' would use it",
    )
    parser.add_argument(
        "--scale", default="laptop", help="whose values are shown (default: laptop)"
    )
    parser.add_argument("--recipe", default="binaryvit", help=recipe_help("binaryvit"))
    setting_argument(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON list, a field each")


def run(options: argparse.Namespace) -> int:
    """Print the settings.

    Args:
        options: As add_commands() defines them.

    Returns:
        0.

    Raises:
        ConfigError: If the scale, the recipe or a setting is wrong.
    """
    fields = describe_fields(chosen_config(options))
    if options.json:
        print(json.dumps([dataclasses.asdict(field) for field in fields], indent=1))
        return 0
    print("Each field, its value and its default; replace a value with --set FIELD=VALUE")
    for field in fields:
        print(_text(field))
    return 0


def _text(field: Field) -> str:
    if field.section:
        return f"\n{field.field}: {field.sentence}"
    kind = " | ".join(field.choices) if field.choices else field.type
    if field.own:
        kind += " | package.module:Name"
    shown = "-" if field.value is None else json.dumps(field.value)
    return (
        f"  {f'{field.field} = {shown}':<44} {kind}, default {json.dumps(field.default)}\n"
        f"      {field.sentence}"
    )
