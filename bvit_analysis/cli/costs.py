"""`bvit costs`: its arguments, and the shell around `bvit_analysis.costs`."""

from __future__ import annotations

import argparse

from bvit_analysis.cli.command import Commands, command
from bvit_analysis.cli.training import asked_recipe, recipe_help
from bvit_analysis.config import FLOAT, ModelConfig, Recipe


def add_commands(commands: Commands) -> None:
    """Add `costs`."""
    parser = command(
        commands, "costs", run, "print parameters, bytes and operations of a model per site"
    )
    parser.add_argument("model", help="timm's model name, for example deit_small_patch16_224")
    parser.add_argument("--recipe", default="baseline", help=recipe_help("baseline"))
    parser.add_argument(
        "--img-size", type=int, default=0, help="side of the image, pixels (default: timm's)"
    )
    parser.add_argument("--num-classes", type=int, default=1000, help="classes (default: 1000)")
    parser.add_argument(
        "--sites", action="store_true", help="print every site, not the sums by kind alone"
    )
    parser.add_argument(
        "--claimed-size", metavar="RATIO", help="published ratio of sizes to search for"
    )
    parser.add_argument(
        "--claimed-ops", metavar="RATIO", help="published ratio of operations to search for"
    )
    parser.add_argument(
        "--show", type=int, default=8, help="most combinations listed for a ratio (default: 8)"
    )
    parser.add_argument(
        "--published", action="store_true", help="print what other works say of binary ViTs too"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, all of it")


def run(options: argparse.Namespace) -> int:
    """Count one model and print its ledger with the search for published ratios.

    Args:
        options: As add_commands() defines them.

    Returns:
        0.

    Raises:
        ConfigError: If the model, the recipe, the image size or a ratio is wrong.
        UnsupportedModelError: If the model is of another architecture.
    """
    recipe = asked_recipe(options.recipe)
    label = recipe.name if recipe else FLOAT
    from bvit_analysis import costs  # torch and timm take seconds; checks come first
    from bvit_analysis.convert import binarize, build_model

    size = options.img_size or None

    def count(chosen: Recipe | None) -> costs.ModelCost:
        named = ModelConfig(name=options.model)
        model = build_model(named, img_size=size, in_chans=3, num_classes=options.num_classes)
        if chosen:
            binarize(model, chosen)
        return costs.model_cost(model, img_size=size)

    cost = count(recipe)
    about = {"name": options.model, "recipe": label}
    about |= {"img_size": cost.img_size, "num_classes": options.num_classes}
    claims = costs.parse_claims(about, size=options.claimed_size, operations=options.claimed_ops)
    others: dict[str, costs.ModelCost] = {}
    if recipe and any(claim.any_shift for claim in claims):
        others = {name: count(other) for name, other in costs.other_shifts(recipe).items()}
    if options.json:
        print(costs.json_report(cost, claims, others=others, model=about))
        return 0
    shown = {"sites": options.sites, "published": options.published, "show": options.show}
    print(f"{options.model}, recipe {label}")
    name = f"ours, recipe {label}"
    print(costs.text_report(cost, claims, others=others, name=name, **shown))
    return 0
