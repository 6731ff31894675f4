"""The command line: each subcommand is a few lines over a function of the library."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bvit_analysis import batch_command, costs_command
from bvit_analysis.config import RECIPES, RunConfig, get_recipe, get_scale, with_overrides
from bvit_analysis.errors import BvitError, ConfigError, RunError, SuiteError
from bvit_analysis.records import check_name, find_runs, load_run

SEEDS = {"smoke": 1, "laptop": 3, "bench": 5, "imagenet": 1}
"Seeds of an ablation at each scale, where --seeds does not say."

_PAPER = (
    "Binary Vision Transformers, watched while they train. Reproduces the analyses of arXiv 2305.14730 (not the other"
    " BinaryViT, 2306.16678); GRS and ASM are reconstructions, as the paper's equations are not public."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; mistakes print one line and give exit code 2.

    Args:
        arguments: What follows ``bvit``; by default those of the process.

    Returns:
        0 if done, 1 if a notebook failed, 2 for a mistake or a fault, 130 and 143 after SIGINT and SIGTERM.
    """
    options = _parser().parse_args(arguments)
    try:
        return int(options.function(options))
    except BvitError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where this one stopped", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bvit", description=_PAPER)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    train = _command(
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
    _scale_arguments(train)

    ablate = _command(
        commands, "ablate", _ablate, "train every recipe with every seed over one float teacher"
    )
    _grid_arguments(ablate)
    _scale_arguments(ablate)

    notebooks = _command(
        commands, "notebooks", _notebooks, "execute the analysis notebooks over recorded runs"
    )
    batch_command.add_arguments(notebooks)

    lessons = _command(
        commands,
        "lessons",
        _lessons,
        "write hand-outs and solutions of the lessons from their sources",
    )
    lessons.add_argument(
        "--notebooks",
        type=Path,
        default=Path("notebooks"),
        help="folder that holds lessons/NAME.ipynb (default: notebooks)",
    )
    lessons.add_argument(
        "--check",
        action="store_true",
        help="write nothing; exit code 1 where a file is out of step",
    )

    report = _command(
        commands, "report", _report, "write one offline HTML gallery of executed notebooks"
    )
    report.add_argument("executed", type=Path, help="folder that 'bvit notebooks' wrote")
    report.add_argument(
        "--out", type=Path, default=Path("report"), help="folder for the report (default: report)"
    )
    report.add_argument(
        "--runs", nargs="*", type=Path, default=[], help="run folders for the table on top"
    )
    report.add_argument(
        "--pdf", action="store_true", help="print all pages into report.pdf too; needs Chromium"
    )

    costs = _command(
        commands, "costs", _costs, "print parameters, bytes and operations of a model per site"
    )
    costs_command.add_arguments(costs)

    pack = _command(
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

    unpack = _command(
        commands, "unpack", _unpack, "write a packed model as a plain float32 state dict"
    )
    unpack.add_argument("packed", type=Path, help="file that 'bvit pack' wrote")
    unpack.add_argument(
        "--out",
        type=Path,
        default=Path("model.safetensors"),
        help="file to write (default: model.safetensors)",
    )

    reproduce = _command(
        commands, "reproduce", _reproduce, "ablate, execute the notebooks, write the report"
    )
    _grid_arguments(reproduce)
    _notebook_arguments(reproduce)
    _scale_arguments(reproduce)
    return parser


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    function: object,
    text: str,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    parser.set_defaults(function=function)
    return parser


def _scale_arguments(parser: argparse.ArgumentParser) -> None:
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


def _grid_arguments(parser: argparse.ArgumentParser) -> None:
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


def _notebook_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--notebooks",
        type=Path,
        default=Path("notebooks"),
        help="folder of the notebooks, or one notebook (default: notebooks)",
    )
    parser.add_argument(
        "--parameter",
        "-p",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a parameter of the notebooks, typed as they declare it; may be given again",
    )
    parser.add_argument("--at-once", type=int, default=2, help="notebooks at a time (default: 2)")
    parser.add_argument(
        "--timeout", type=int, default=600, help="limit of one cell, seconds (default: 600)"
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
    from bvit_analysis.train import train  # torch and timm take seconds; checks come first

    folder = train(config, options.out / options.scale / name, progress=not options.quiet)
    _print_results([folder])
    return 0


def _ablate(options: argparse.Namespace) -> int:
    _print_results(_run_grid(options))
    return 0


def _run_grid(options: argparse.Namespace) -> list[Path]:
    recipes = [name.strip() for name in options.recipes.split(",") if name.strip()]
    if not recipes:
        raise ConfigError(f"--recipes names none; expected some of {', '.join(RECIPES)}")
    for name in recipes:
        get_recipe(name)
    base = _config(options, recipes[0], 0)
    from bvit_analysis.sweep import ablate

    return ablate(
        base,
        options.out / options.scale,
        recipes=recipes,
        seeds=range(options.seeds or SEEDS[options.scale]),
        jobs_at_once=options.jobs or None,
        progress=not options.quiet,
    )


def _notebooks(options: argparse.Namespace) -> int:
    return batch_command.run(options)


def _execute(options: argparse.Namespace, runs: list[Path], out: Path) -> int:
    from bvit_analysis import suite
    from bvit_analysis.parameters import parse_assignments

    found = (
        [options.notebooks]
        if options.notebooks.suffix == ".ipynb"
        else suite.discover_notebooks(options.notebooks)
    )
    jobs = suite.plan(found, runs, parse_assignments(options.parameter))
    statuses = suite.execute(
        jobs,
        out,
        jobs_at_once=options.at_once,
        cell_timeout_s=options.timeout,
        progress=not getattr(options, "quiet", False),
    )
    batch_command.print_statuses(statuses)
    return suite.exit_code(statuses)


def _lessons(options: argparse.Namespace) -> int:
    from bvit_analysis.lessons import out_of_step, write_lessons

    if not options.check:
        for path in write_lessons(options.notebooks):
            print(f"wrote {path}")
        return 0
    wrong = out_of_step(options.notebooks)
    for path in wrong:
        print(f"out of step with its lesson: {path}; write it with 'bvit lessons'")
    return int(bool(wrong))


def _report(options: argparse.Namespace) -> int:
    from bvit_analysis.report import build_report

    runs = _expand(options.runs) or None
    path = build_report(options.executed, options.out, runs=runs, pdf=options.pdf)
    print(path)
    if options.pdf:
        print(path.with_name("report.pdf"))
    return 0


def _costs(options: argparse.Namespace) -> int:
    return costs_command.run(options)


def _pack(options: argparse.Namespace) -> int:
    from bvit_analysis.packed_run import model_of_run, packing_summary, save_packed

    model, meta = model_of_run(options.run)
    path = save_packed(model, options.out, meta=meta, float_dtype=options.dtype)
    print(packing_summary(model, path, meta=meta, float_dtype=options.dtype))
    if not options.certify:
        return 0
    from bvit_analysis.parity import certify_run

    certificate = certify_run(options.run, path, options.certify)
    print(certificate)
    return int(not certificate.passed)


def _unpack(options: argparse.Namespace) -> int:
    from bvit_analysis.packed_run import unpack

    print(unpack(options.packed, options.out))
    return 0


def _reproduce(options: argparse.Namespace) -> int:
    started = time.monotonic()
    if not options.notebooks.exists():
        raise SuiteError(
            f"no notebooks at {options.notebooks.absolute()}; run from the project's folder, or give --notebooks"
        )
    runs = _run_grid(options)
    _print_results(runs)
    out = options.out / options.scale
    code = _execute(options, runs, out / "notebooks")
    from bvit_analysis.report import build_report

    path = build_report(out / "notebooks", out / "report", runs=runs)
    print(f"done in {time.monotonic() - started:.0f} s; open the report:\n{path.absolute()}")
    return code


def _expand(paths: Sequence[Path]) -> list[Path]:
    """Turn folders of runs into their runs; a folder without any is a mistake."""
    found: list[Path] = []
    for path in paths:
        runs = [path] if (path / "run.json").exists() else find_runs(path)
        if not runs:
            raise RunError(
                f"no run folder at {path} or in it; 'bvit train' and 'bvit ablate' make some"
            )
        found += runs
    return found


def _print_results(folders: Sequence[Path]) -> None:
    for folder in folders:
        run = load_run(folder)
        result = run.result or {}
        accuracy = result.get("test_accuracy")
        shown = (
            f"{accuracy:.2%} of {result['test_count']}" if accuracy is not None else "not finished"
        )
        print(f"{run.run_id:<24} {run.state:<12} test accuracy {shown}  {folder}")


if __name__ == "__main__":
    sys.exit(main())
