"""`bvit pack` and `bvit unpack`: a run's binary model in a small file, and back."""

from __future__ import annotations

import argparse
from pathlib import Path

from bvit_analysis.cli.command import Commands, command
from bvit_analysis.config import Recipe
from bvit_analysis.config.recipes import chosen_recipe


def add_commands(commands: Commands) -> None:
    """Add `pack` and `unpack`."""
    pack = command(
        commands, "pack", _pack, "write a run's binary model with one bit a binary weight"
    )
    pack.add_argument("run", type=Path, help="folder of a run, with its checkpoints")
    pack.add_argument(
        "--out", type=Path, default=Path("model.bvit"), help="file to write (default: model.bvit)"
    )
    pack.add_argument(
        "--dtype",
        choices=("float32", "float16"),
        default="float32",
        help="of all that is not binary; float32 keeps every output to the bit (default: float32)",
    )
    pack.add_argument(
        "--certify",
        type=int,
        default=0,
        metavar="N",
        help="compare packed inference with the simulated model on N test images; the certificate goes to"
        " OUT.parity.json, and exit code 1 says that they differ",
    )

    _recipe_argument(pack)

    unpack = command(
        commands, "unpack", _unpack, "write a packed model as a plain float32 state dict"
    )
    unpack.add_argument("packed", type=Path, help="file that 'bvit pack' wrote")
    unpack.add_argument(
        "--out",
        type=Path,
        default=Path("model.safetensors"),
        help="file to write (default: model.safetensors)",
    )
    _recipe_argument(unpack)


def _recipe_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--recipe",
        default="",
        metavar="FILE",
        help="the recipe file that the run was trained with, where its shift or attention is of your own: what a run"
        " or a packed file names is never imported",
    )


def _recipe(options: argparse.Namespace) -> Recipe | None:
    return chosen_recipe(options.recipe) if options.recipe else None


def _pack(options: argparse.Namespace) -> int:
    recipe = _recipe(options)
    from bvit_analysis.packed import save_packed
    from bvit_analysis.packed.run import model_of_run, packing_summary

    model, meta = model_of_run(options.run, recipe)
    path = save_packed(model, options.out, meta=meta, float_dtype=options.dtype)
    print(packing_summary(model, path, meta=meta, float_dtype=options.dtype))
    if not options.certify:
        return 0
    from bvit_analysis.runtime.parity import certify_run

    certificate = certify_run(options.run, path, options.certify, recipe=recipe)
    print(certificate)
    return int(not certificate.passed)


def _unpack(options: argparse.Namespace) -> int:
    from bvit_analysis.packed.run import unpack

    print(unpack(options.packed, options.out, recipe=_recipe(options)))
    return 0
