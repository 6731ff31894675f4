"""`bvit train` and `bvit ablate`: record one run, or a grid of recipes and seeds."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bvit_analysis.cli.command import Commands, command
from bvit_analysis.config import (
    FLOAT,
    RECIPES,
    Recipe,
    RunConfig,
    get_scale,
    resolve,
    resolve_recipe,
    with_overrides,
)
from bvit_analysis.config.presets import SEEDS
from bvit_analysis.config.recipes import chosen_recipe
from bvit_analysis.errors import ConfigError
from bvit_analysis.records import check_name, load_run

if TYPE_CHECKING:
    from bvit_analysis.instruments import Instrument


def add_commands(commands: Commands) -> None:
    """Add `train` and `ablate`."""
    train = command(
        commands, "train", _train, "train and record one run; the same command resumes it"
    )
    train.add_argument("--recipe", default="binaryvit", help=recipe_help("binaryvit"))
    train.add_argument("--seed", type=int, default=0, help="of everything random (default: 0)")
    train.add_argument(
        "--run-id",
        default="",
        help="name of the run's folder (default: NAME-seedSEED, with the recipe's name)",
    )
    scale_arguments(train)
    instrument_argument(train)

    ablate = command(
        commands, "ablate", _ablate, "train every recipe with every seed over one float teacher"
    )
    grid_arguments(ablate)
    scale_arguments(ablate)


def recipe_help(default: str) -> str:
    """Return what --recipe takes, as help text."""
    return f"one of {', '.join(RECIPES)}, {FLOAT!r}, or a recipe file of your own, .toml or .json (default: {default})"


def asked_recipe(text: str) -> Recipe | None:
    """Return the recipe that --recipe asks for, None for a float model.

    Raises:
        ConfigError: If there is no such preset, or the file is wrong.
    """
    return None if text == FLOAT else chosen_recipe(text)


def setting_argument(parser: argparse.ArgumentParser) -> None:
    """Add the flag that replaces a field; `bvit config` lists the fields."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="replace a field, for example training.steps=200 or recipe.shift=static; may be given again;"
        " 'bvit config' lists all fields",
    )


def scale_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say how much work, where to, and on which data."""
    parser.add_argument(
        "--scale",
        default="laptop",
        help="how much work: smoke (seconds), laptop (minutes on 2 cores), bench (a GPU), imagenet (default: laptop)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs"),
        help="parent folder of the scale's runs (default: runs)",
    )
    parser.add_argument(
        "--data", default="", help="folder of the data set (default: the embedded Fashion-MNIST)"
    )
    setting_argument(parser)
    parser.add_argument("--quiet", action="store_true", help="no progress bars")


def instrument_argument(parser: argparse.ArgumentParser) -> None:
    """Add the flag that names instruments of one's own."""
    parser.add_argument(
        "--instrument",
        action="append",
        default=[],
        metavar="MODULE:NAME",
        help="an instrument of your own, measured beside the standard ones, for example mine.norms:RowNorm; looked for"
        " like the modules of a recipe file; may be given again",
    )


def grid_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say which recipes and how many seeds."""
    parser.add_argument(
        "--recipes",
        default=",".join(RECIPES),
        help="recipes, separated by commas: presets and recipe files (default: all four presets)",
    )
    parser.add_argument(
        "--seeds",
        type=int,
        default=None,
        help="how many seeds (default: 1 smoke, 3 laptop, 5 bench)",
    )
    parser.add_argument(
        "--jobs", type=int, default=None, help="runs at a time (default: as the cores allow)"
    )
    instrument_argument(parser)


def chosen_config(options: argparse.Namespace) -> RunConfig:
    """Return the configuration that --scale, --recipe, --data, --seed and --set ask for, where a command has them."""
    recipe = asked_recipe(options.recipe)
    return _config(options, recipe, getattr(options, "seed", 0))


def _config(options: argparse.Namespace, recipe: Recipe | None, seed: int) -> RunConfig:
    base = get_scale(options.scale)
    if getattr(options, "data", ""):
        base = dataclasses.replace(base, data=dataclasses.replace(base.data, root=options.data))
    config = with_overrides(dataclasses.replace(base, recipe=recipe, seed=seed), options.set)
    if config.recipe is None:
        return config
    return dataclasses.replace(config, recipe=resolve_recipe(config.recipe))


def _train(options: argparse.Namespace) -> int:
    recipe = asked_recipe(options.recipe)
    name = options.run_id or f"{recipe.name if recipe else FLOAT}-seed{options.seed}"
    check_name(name)
    config = _config(options, recipe, options.seed)
    from bvit_analysis.instruments import with_own  # torch and timm take seconds; checks come first
    from bvit_analysis.training.run import train

    folder = train(
        config,
        options.out / options.scale / name,
        progress=not options.quiet,
        instruments=lambda: with_own(_instruments(options)),
    )
    print_results([folder])
    return 0


def _instruments(options: argparse.Namespace) -> list[Callable[[], Instrument]]:
    return [resolve(text, Path.cwd()) for text in options.instrument]


def _ablate(options: argparse.Namespace) -> int:
    print_results(run_grid(options))
    return 0


def run_grid(options: argparse.Namespace) -> list[Path]:
    """Train the grid that the flags ask for; return the run folders, teacher first."""
    for flag, number in (("--seeds", options.seeds), ("--jobs", options.jobs)):
        if number is not None and number < 1:
            raise ConfigError(
                f"{flag} must be at least 1, got {number}; leave it out for the default"
            )
    names = [name.strip() for name in options.recipes.split(",") if name.strip()]
    if not names:
        raise ConfigError(f"--recipes names none; expected some of {', '.join(RECIPES)}")
    configs = [_config(options, chosen_recipe(name), 0) for name in names]
    recipes = [config.recipe for config in configs if config.recipe is not None]
    if not recipes:
        raise ConfigError("--set recipe=null leaves no recipe to compare; leave it out")
    from bvit_analysis.training.sweep import ablate

    return ablate(
        configs[0],
        options.out / options.scale,
        recipes=recipes,
        seeds=range(options.seeds or SEEDS[options.scale]),
        instruments=_instruments(options),
        jobs_at_once=options.jobs,
        progress=not options.quiet,
    )


def print_results(folders: Sequence[Path]) -> None:
    """Print one line a run: name, state, test accuracy, folder."""
    for folder in folders:
        run = load_run(folder)
        result = run.result or {}
        accuracy = result.get("test_accuracy")
        shown = (
            f"{accuracy:.2%} of {result['test_count']}" if accuracy is not None else "not finished"
        )
        print(f"{run.run_id:<24} {run.state:<12} test accuracy {shown}  {folder}")
