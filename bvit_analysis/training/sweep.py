"""Many runs: a grid of recipes and seeds, some at a time, each in a process that dies with this one."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

from tqdm import tqdm

from bvit_analysis.config import (
    Recipe,
    RunConfig,
    from_dict,
    get_recipe,
    import_path,
    resolve,
    resolve_recipe,
    to_dict,
)
from bvit_analysis.config.text import differences
from bvit_analysis.data import load_dataset
from bvit_analysis.errors import ConfigError, TrainingError
from bvit_analysis.instruments import Instrument, with_own
from bvit_analysis.pretrained import describe_weights, model_preprocessing
from bvit_analysis.processes import Child
from bvit_analysis.records import check_name
from bvit_analysis.training.interruption import Interrupted, stop_signals
from bvit_analysis.training.models import check_devices, check_recipe, teacher_folder
from bvit_analysis.training.run import train, train_teacher
from bvit_analysis.training.teacher import teacher_origin

STOP_S = 120.0
"So long runs that are asked to stop may take until their checkpoints are saved; then they are killed, seconds."
_POLL_S = 0.25


def grid(
    base: RunConfig, recipes: Sequence[str | Recipe], seeds: Sequence[int]
) -> dict[str, RunConfig]:
    """Return the configurations of an ablation by run id, such as 'asm-seed1'.

    Runs of one seed share initial weights, order of images, augmentation and dropout: pairs for the statistics.

    Args:
        base: The scale preset, or any other configuration; its recipe and seed are replaced.
        recipes: Preset names, or recipes of your own; each run id begins with a recipe's name.
        seeds: Seeds.

    Raises:
        ConfigError: If a preset's name is unknown, a name cannot be that of a folder, two different recipes have one
            name, or a recipe holds a class or object that a later process could not find.
    """
    chosen: dict[str, Recipe] = {}
    for recipe in map(get_recipe, recipes):
        check_name(f"{recipe.name}-seed0")
        found = differences(to_dict(chosen.setdefault(recipe.name, recipe)), to_dict(recipe))
        if found:
            raise ConfigError(
                f"two different recipes are named {recipe.name!r} ({', '.join(found)}); give one another name"
            )
    return {
        f"{name}-seed{seed}": dataclasses.replace(base, recipe=recipe, seed=seed)
        for seed in seeds
        for name, recipe in chosen.items()
    }


def ablate(
    base: RunConfig,
    out: Path,
    *,
    recipes: Sequence[str | Recipe],
    seeds: Sequence[int],
    instruments: Sequence[Callable[[], Instrument]] = (),
    jobs_at_once: int | None = None,
    progress: bool = True,
) -> list[Path]:
    """Train every recipe with every seed over one float teacher; finished runs are kept, started ones resume.

    Args:
        base: What the runs have in common.
        out: Folder that gets one folder a run, and the teacher's.
        recipes: Preset names, or recipes of your own with classes and objects that can be imported.
        seeds: Seeds.
        instruments: Classes of your own that measure, beside the standard ones; like recipes, found by import.
        jobs_at_once: Runs at a time; by default the cores divided by the threads of a run, at most 8.
        progress: Whether to show one bar over the steps of all runs.

    Returns:
        The run folders, teacher first.

    Raises:
        ConfigError: If a recipe or an instrument is wrong, there are none or no seeds, a device is not here, or the
            teacher's head is made for other classes; before anything is trained.
        TrainingError: If a run failed, after all others have ended; it names the run and its error.
        Interrupted: After SIGTERM or SIGINT, once the runs have saved checkpoints; a second signal kills them.
    """
    if not recipes or not seeds:
        raise ConfigError(
            f"an ablation needs recipes and seeds, got {len(recipes)} and {len(seeds)}; name at least one of each"
        )
    if jobs_at_once is not None and jobs_at_once < 1:
        raise ConfigError(f"jobs_at_once must be at least 1, got {jobs_at_once}")
    configs = grid(base, recipes, seeds)
    for config in configs.values():
        check_recipe(config)
        check_devices(config)
    with_own(instruments)  # made and thrown away: a wrong one is said before anything is trained
    own = [import_path(make) for make in instruments]
    at_once = jobs_at_once or max(1, min(8, (os.cpu_count() or 1) // base.training.threads))
    trains_teacher = _trains_teacher(base, configs)
    out.mkdir(parents=True, exist_ok=True)
    folders = []
    if trains_teacher:
        # Before the others, which would all make it.
        teacher = dataclasses.replace(base, recipe=get_recipe(recipes[0]))
        folders.append(train_teacher(teacher, teacher_folder(teacher, out), progress=progress))
    folders += _run_all(configs, out, at_once, progress, own)
    return folders


def _trains_teacher(base: RunConfig, configs: Mapping[str, RunConfig]) -> bool:
    """Return whether some run of a grid needs a trained teacher; refuse one whose teacher could teach nothing."""
    if describe_weights(base.model) is None:  # no need to look at the images, which may be millions
        return base.teacher is not None
    dataset = load_dataset(base.data, model_preprocessing(base.model))
    return "trained" in {teacher_origin(config, dataset) for config in configs.values()}


def _run_all(
    configs: dict[str, RunConfig],
    out: Path,
    at_once: int,
    progress: bool,
    own: Sequence[str] = (),
) -> list[Path]:
    waiting = list(configs.items())
    active: dict[str, Child] = {}
    errors: dict[str, IO[bytes]] = {}
    failed: dict[str, str] = {}
    bar = tqdm(
        total=sum(config.training.steps for config in configs.values()),
        desc=f"{len(configs)} runs, {at_once} at a time",
        unit="step",
        disable=not progress,
    )
    with stop_signals() as stop, contextlib.ExitStack() as stack, bar:
        stack.callback(_end, active)
        while (waiting or active) and not stop:
            while waiting and len(active) < at_once:
                name, config = waiting.pop(0)
                errors[name] = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - closed by the stack
                active[name] = _start(config, out / name, errors[name], own)
            time.sleep(_POLL_S)
            for name, code in _ended(active).items():
                if code:
                    failed[name] = _last_words(out / name, errors[name], code)
            bar.n = sum(_steps_done(out / name, config) for name, config in configs.items())
            bar.refresh()
        if stop:
            name = signal.Signals(stop[0]).name
            print(
                f"stopped by {name}; {len(active)} runs save a checkpoint, and the same command goes on from there",
                file=sys.stderr,
            )
            raise Interrupted(128 + stop[0])
    if failed:
        first, why = next(iter(failed.items()))
        raise TrainingError(
            f"{len(failed)} of {len(configs)} runs failed ({', '.join(failed)}); {first}: {why};"
            " the others are finished, and the same command tries only the failed ones again"
        )
    return [out / name for name in configs]


def _start(config: RunConfig, run_dir: Path, errors: IO[bytes], own: Sequence[str]) -> Child:
    # Threads are fixed before torch is imported, so that two runs never fight over the cores.
    threads = {"OMP_NUM_THREADS": str(config.training.threads)}
    return Child(
        [sys.executable, "-m", "bvit_analysis.training.sweep", str(run_dir)],
        errors=errors,
        environment={**os.environ, **threads},
        words=child_words(config, own),
    )


def _ended(active: dict[str, Child]) -> dict[str, int]:
    """Take the runs whose processes have ended out of the active ones; return their exit codes."""
    codes = {name: child.poll() for name, child in active.items()}
    ended = {name: code for name, code in codes.items() if code is not None}
    for name in ended:
        del active[name]
    return ended


def _end(active: dict[str, Child]) -> None:
    """Let the runs save a checkpoint, each at its next step, and kill those that take too long."""
    try:
        for child in active.values():
            child.ask_to_stop()
        until = time.monotonic() + STOP_S
        while active and time.monotonic() < until:
            time.sleep(_POLL_S)
            _ended(active)
    finally:
        for name, child in active.items():
            child.kill()
            print(f"{name}: killed; it goes on from its last checkpoint", file=sys.stderr)


def child_words(config: RunConfig, own: Sequence[str] = ()) -> bytes:
    """Return what a child process reads on its standard input: a configuration, own instruments, and where to import from."""
    order = {"config": to_dict(config), "instruments": list(own), "folders": sys.path}
    return json.dumps(order).encode()


def _read(text: bytes) -> tuple[RunConfig, list[Callable[[], Instrument]]]:
    """Return what child_words() wrote; the parent is trusted, so import paths are followed."""
    data = json.loads(text)
    config = from_dict(RunConfig, data["config"])
    if config.recipe is not None:
        recipe = resolve_recipe(config.recipe, *data["folders"])
        config = dataclasses.replace(config, recipe=recipe)
    return config, [resolve(path, *data["folders"]) for path in data["instruments"]]


def _steps_done(run_dir: Path, config: RunConfig) -> int:
    try:
        return min(
            config.training.steps, int(json.loads((run_dir / "status.json").read_text())["step"])
        )
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _last_words(run_dir: Path, errors: IO[bytes], code: int) -> str:
    with contextlib.suppress(OSError, ValueError):
        recorded = json.loads((run_dir / "status.json").read_text()).get("error")
        if recorded:
            return str(recorded)
    errors.seek(0)
    lines = errors.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"exit code {code} without a word (killed, or out of memory?)"


if __name__ == "__main__":
    # One run of a sweep: its configuration comes on standard input.
    asked, makers = _read(sys.stdin.buffer.read())
    train(asked, Path(sys.argv[1]), progress=False, instruments=functools.partial(with_own, makers))
