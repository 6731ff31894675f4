"""`bvit train` and `bvit ablate`: record one run, or a grid of recipes and seeds."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from bvit_analysis.cli.command import Commands, command
from bvit_analysis.config import RECIPES, RunConfig, get_recipe, get_scale, with_overrides
from bvit_analysis.config.presets import SEEDS
from bvit_analysis.errors import ConfigError
from bvit_analysis.records import check_name, load_run


def add_commands(commands: Commands) -> None:
    """Add `train` and `ablate`."""
    train = command(
        commands, "train", _train, "train and record one run; the same command resumes it"
    )
    train.add_argument(
        "--recipe",
        default="binaryvit",
        help=f"one of {', '.join(RECIPES)}, or 'float' (default: binaryvit)",
    )
    train.add_argument("--seed", type=int, default=0, help="of everything random (default: 0)")
    train.add_argument(
        "--run-id", default="", help="name of the run's folder (default: RECIPE-seedSEED)"
    )
    scale_arguments(train)

    ablate = command(
        commands, "ablate", _ablate, "train every recipe with every seed over one float teacher"
    )
    grid_arguments(ablate)
    scale_arguments(ablate)


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
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="replace a field, for example training.steps=200 or recipe.shift=static; may be given again",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bars")


def grid_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say which recipes and how many seeds."""
    parser.add_argument(
        "--recipes",
        default=",".join(RECIPES),
        help="recipes, separated by commas (default: all four)",
    )
    parser.add_argument(
        "--seeds", type=int, default=0, help="how many seeds (default: 1 smoke, 3 laptop, 5 bench)"
    )
    parser.add_argument(
        "--jobs", type=int, default=0, help="runs at a time (default: as the cores allow)"
    )


def _config(options: argparse.Namespace, recipe: str, seed: int) -> RunConfig:
    base = get_scale(options.scale)
    if options.data:
        base = dataclasses.replace(base, data=dataclasses.replace(base.data, root=options.data))
    chosen = None if recipe == "float" else get_recipe(recipe)
    return with_overrides(dataclasses.replace(base, recipe=chosen, seed=seed), options.set)


def _train(options: argparse.Namespace) -> int:
    name = options.run_id or f"{options.recipe}-seed{options.seed}"
    check_name(name)
    config = _config(options, options.recipe, options.seed)
    from bvit_analysis.training.run import train  # torch and timm take seconds; checks come first

    folder = train(config, options.out / options.scale / name, progress=not options.quiet)
    print_results([folder])
    return 0


def _ablate(options: argparse.Namespace) -> int:
    print_results(run_grid(options))
    return 0


def run_grid(options: argparse.Namespace) -> list[Path]:
    """Train the grid that the flags ask for; return the run folders, teacher first."""
    recipes = [name.strip() for name in options.recipes.split(",") if name.strip()]
    if not recipes:
        raise ConfigError(f"--recipes names none; expected some of {', '.join(RECIPES)}")
    for name in recipes:
        get_recipe(name)
    base = _config(options, recipes[0], 0)
    from bvit_analysis.training.sweep import ablate

    return ablate(
        base,
        options.out / options.scale,
        recipes=recipes,
        seeds=range(options.seeds or SEEDS[options.scale]),
        jobs_at_once=options.jobs or None,
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
