"""Kill runs of the smoke scale at any moment, start them again, and compare with one that nobody killed.

    python -m benchmarks.kills [--kills N] [--seed N]

Each round begins a run in a fresh folder and kills it with SIGKILL: at a random time, or at a random file operation of a
chosen kind (lock, checkpoint, rows, state, after the end). The same command is started again, and killed again, until
it ends. One kill in twenty is of `bvit ablate`, whose trainings have to go with it. At the end of a round every row, weight
and figure has to be that of the uninterrupted run to the bit, and nothing may be left: no lock, no half file, no
process. Attempts are forks of one process, which has imported torch already; ablations are processes of their own.
Exit code 1 if anything differs, is left, or does not start again.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from tqdm import tqdm

from bvit_analysis.records import SCHEMAS, load_run
from bvit_analysis.records.checkpoints import load_checkpoint
from bvit_analysis.records.lock import leftovers

SMALL = (
    "data.train_limit=400",
    "data.evaluation_limit=100",
    "model.depth=1",
    "model.embed_dim=16",
    "training.steps=24",
    "training.batch_size=32",
    "training.checkpoint_every=6",
    "training.evaluate_every=12",
    "teacher.steps=12",
    "teacher.batch_size=32",
    "teacher.checkpoint_every=4",
    "teacher.evaluate_every=12",
)
"A run of a second or two, with four checkpoints."
KINDS = ("lock", "checkpoint", "rows", "state", "end")
SWEEP_SHARE = 20
_OPERATIONS = ("open", "write", "fsync", "link", "unlink", "rename", "replace", "mkdir", "rmdir")
_MOST_IN_A_ROUND = 5
_PATIENCE_S = 600.0
# What a finished run may hold. What was superseded by a resume is kept by design.
_ALLOWED = re.compile(
    r"(run|status|result)\.json|examples(/attention\.npz)?|starts(/[^/]+\.npz)?|counts(/[^/]+\.npz)?|checkpoints"
    r"|checkpoints/ckpt-\d{8}(/(state\.safetensors|state\.json|manifest\.json))?"
    rf"|({'|'.join(SCHEMAS)})(/superseded-\d+)?(/part-\d{{6}}\.parquet|/result\.json)?"
)


@dataclass
class Found:
    """What a campaign has seen."""

    kills: collections.Counter[str] = field(default_factory=collections.Counter)
    compared: int = 0
    differences: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def is_clean(self) -> bool:
        """Return whether nothing differs, is left, or was refused."""
        return not (self.differences or self.leftovers or self.refused)


# One run, compared -------------------------------------------------------------------------------


def recorded(folder: Path) -> dict[str, np.ndarray]:
    """Return all that a run has recorded and learned, without what a clock measured."""
    run = load_run(folder)
    found: dict[str, np.ndarray] = {"state": np.array(run.state)}
    for kind in ("scalars", "sites", "histograms", "channels", "trajectories"):
        frame = getattr(run, kind)
        for name in frame.columns:
            values = frame[name].to_numpy()
            if values.dtype == object:
                values = np.array([str(np.asarray(value).tolist()) for value in values])
            found[f"{kind}.{name}"] = values
    for site in run.site_table.query("kind == 'weight'")["site"]:
        for name, array in run.counts(site).items():
            found[f"counts.{site}.{name}"] = np.asarray(array)
    for name in ("images", "predictions", "bits", "scores", "teacher"):
        if run.attention is not None:
            found[f"attention.{name}"] = np.asarray(getattr(run.attention, name))
    found["result"] = np.array(sorted(map(str, (run.result or {}).items())))
    names = sorted(path.name for path in (folder / "checkpoints").glob("ckpt-*"))
    found["checkpoints"] = np.array(names)
    checkpoint = load_checkpoint(folder)
    for name, tensor in (checkpoint.tensors if checkpoint else {}).items():
        found[f"weights.{name}"] = tensor.numpy()
    return found


def differences(one: Path, two: Path) -> list[str]:
    """Return the names of what is not equal to the bit in two runs."""
    first, second = recorded(one), recorded(two)
    return [
        f"{two}: {name}"
        for name in sorted(first.keys() | second.keys())
        if name not in first
        or name not in second
        or first[name].dtype != second[name].dtype
        or first[name].tobytes() != second[name].tobytes()
    ]


def strangers(folder: Path) -> list[str]:
    """Return what no finished run holds: locks, half files, half checkpoints."""
    paths = [str(path.relative_to(folder)) for path in folder.rglob("*")]
    found = {path for path in paths if not _ALLOWED.fullmatch(path)}
    found |= {str(path.relative_to(folder)) for path in leftovers(folder)}
    return [f"{folder}: {path}" for path in sorted(found)]


# Attempts ----------------------------------------------------------------------------------------


def command(out: Path, recipe: str = "binaryvit") -> list[str]:
    """Return the arguments of `bvit` that train the run into a folder."""
    flags = [flag for value in SMALL for flag in ("--set", value)]
    return ["train", "--recipe", recipe, "--scale", "smoke", "--out", str(out), *flags]


def attempt(
    out: Path,
    *,
    recipe: str = "binaryvit",
    after_s: float | None = None,
    at: tuple[str, int] | None = None,
) -> tuple[int, list[str]]:
    """Start the command in a fork and kill it.

    Args:
        out: The folder of the run and its teacher.
        recipe: What is trained.
        after_s: Kill it so long after its start, seconds.
        at: Kill it before its n-th file operation of a kind, counted from 0.

    Returns:
        Its exit code, negative for a signal, and the kinds of its file operations where nobody killed it.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        code = 70
        try:
            kinds = _watched(at)
            code = _quietly(command(out, recipe), out.parent / "log")
            os.write(writer, ",".join(kinds).encode()[: 2**16 - 1])
        finally:
            os._exit(code)
    os.close(writer)
    if after_s is not None:
        time.sleep(after_s)
        os.kill(child, signal.SIGKILL)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read().decode()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code, said.split(",") if said else []


def _quietly(arguments: list[str], log: Path) -> int:
    from bvit_analysis.cli import main

    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for standard in (1, 2):
        os.dup2(handle, standard)
    return main([*arguments, "--quiet"])


def _watched(at: tuple[str, int] | None) -> list[str]:
    """Make this process note the kind of each of its file operations, and die at one of them."""
    kinds: list[str] = []
    opened: dict[int, str] = {}
    seen: collections.Counter[str] = collections.Counter()

    def watch(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            place = arguments[1 if name in ("link", "rename", "replace") else 0]
            kind = opened.get(place) if isinstance(place, int) else _kind(os.fsdecode(place))
            if kind is not None:
                if kind == "state" and "result.json" in str(place):
                    seen["ended"] += 1
                kind = "end" if seen["ended"] and kind != "lock" else kind
                if at == (kind, seen[kind]):
                    os.kill(os.getpid(), signal.SIGKILL)
                seen[kind] += 1
                kinds.append(kind)
            result = function(*arguments, **keywords)
            if name == "open":
                opened[result] = kind or ""
                if kind is None:
                    del opened[result]
            return result

        return call

    for name in _OPERATIONS:
        setattr(os, name, watch(name, getattr(os, name)))
    return kinds


def _kind(path: str) -> str | None:
    name = Path(path).name
    if name == "lock" or name.startswith(".lock."):
        return "lock"
    if "/checkpoints" in path or name.startswith("ckpt-"):
        return "checkpoint"
    if "part-" in name or "/counts" in path:
        return "rows"
    known = ("run.json", "status.json", "result.json", "attention.npz")
    return "state" if any(one in name for one in known) else None


# Rounds ------------------------------------------------------------------------------------------


@dataclass
class Campaign:
    """Rounds of kills, each compared with the uninterrupted run."""

    place: Path
    chance: random.Random
    found: Found
    bar: Any
    whole: Path = field(init=False)
    "Folder of the uninterrupted run and its teacher."
    counts: collections.Counter[str] = field(init=False)
    "File operations of the uninterrupted run, by kind."
    seconds: float = field(init=False)
    "That it takes."

    def __post_init__(self) -> None:
        self.whole = self.place / "whole"
        began = time.monotonic()
        code, kinds = attempt(self.whole)
        self.seconds = time.monotonic() - began
        self.counts = collections.Counter(kinds)
        code = code or attempt(self.whole, recipe="asm")[0]
        if code or set(self.counts) != set(KINDS):
            log = (self.place / "log").read_text()
            raise SystemExit(f"the uninterrupted run ended with code {code}, {self.counts}:\n{log}")

    def kill_trainings(self, number: int) -> None:
        """Kill and start again one run, at most so many times, then let it end and look at it."""
        out = self._fresh("run")
        if self.chance.random() < 0.8:  # else the teacher is killed as well
            self._copy_teacher(out)
        code, goal = -signal.SIGKILL, min(number, _MOST_IN_A_ROUND)
        for _ in range(goal):
            kind = self.chance.choice(("time", "time", "time", *KINDS))
            if kind == "time":
                code, _ = attempt(out, after_s=self.chance.uniform(0, self.seconds))
            else:
                at = kind, self.chance.randrange(self.counts[kind])
                code, _ = attempt(out, at=at)
            if code != -signal.SIGKILL:
                break
            self._killed(kind)
        while code == -signal.SIGKILL:
            code, _ = attempt(out)
        self._look(out, code)

    def kill_an_ablation(self) -> None:
        """Kill `bvit ablate` at a random time; its trainings have to die, and the same command has to finish."""
        out = self._fresh("sweep")
        self._copy_teacher(out)
        line = command(out)
        line[:3] = ["ablate", "--recipes", "binaryvit,asm", "--seeds", "1", "--jobs", "2"]
        line = [sys.executable, "-m", "bvit_analysis.cli", *line, "--quiet"]
        with (self.place / "log").open("ab") as log:
            process = subprocess.Popen(line, stdout=log, stderr=log)
            began, family = time.monotonic(), list[psutil.Process]()
            # The first moment with trainings, then a random one while they import, train and end.
            while process.poll() is None and not family:
                time.sleep(0.02)
                family = _family(process)
            time.sleep(self.chance.uniform(0, 2 * (time.monotonic() - began)))
            family = _family(process) or family
            process.kill()
            if process.wait() == -signal.SIGKILL:
                self._killed("ablation")
            until = time.monotonic() + _PATIENCE_S
            while any(map(_lives, family)) and time.monotonic() < until:
                time.sleep(0.01)
            self.found.leftovers += [
                f"process {one.pid} of {line}" for one in family if _lives(one)
            ]
            code = subprocess.run(line, stdout=log, stderr=log, check=False).returncode
        self._look(out, code)

    def _killed(self, kind: str) -> None:
        self.found.kills[kind] += 1
        self.bar.update()

    def _fresh(self, name: str) -> Path:
        out = self.place / name
        shutil.rmtree(out, ignore_errors=True)
        return out

    def _copy_teacher(self, out: Path) -> None:
        (teacher,) = (self.whole / "smoke").glob("teacher-*")
        shutil.copytree(teacher, out / "smoke" / teacher.name)

    def _look(self, out: Path, code: int) -> None:
        if code:
            log = (self.place / "log").read_text().strip().splitlines()
            self.found.refused.append(f"{out}: exit code {code}: {log[-1] if log else ''}")
            return
        for folder in sorted((out / "smoke").iterdir()):
            self.found.leftovers += strangers(folder)
            self.found.differences += differences(self.whole / "smoke" / folder.name, folder)
            self.found.compared += 1
        other = [str(path) for path in (*out.iterdir(), *Path(tempfile.gettempdir()).iterdir())]
        self.found.leftovers += [path for path in other if path != str(out / "smoke")]
        family = psutil.Process().children(recursive=True)
        self.found.leftovers += [f"process {one.pid}" for one in family if _lives(one)]


def _family(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        return list(psutil.Process(process.pid).children(recursive=True))
    return []


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@contextlib.contextmanager
def _folders() -> Iterator[Path]:
    """Yield a folder for the runs, with another one beside it for what the system calls temporary."""
    with tempfile.TemporaryDirectory(prefix="kills-") as place:
        temporary = Path(place) / "tmp"
        temporary.mkdir()
        with contextlib.ExitStack() as stack:
            before = os.environ.get("TMPDIR"), tempfile.tempdir
            os.environ["TMPDIR"], tempfile.tempdir = str(temporary), str(temporary)
            stack.callback(setattr, tempfile, "tempdir", before[1])
            stack.callback(os.environ.__setitem__, "TMPDIR", before[0] or "/tmp")
            yield Path(place) / "runs"


def campaign(kills: int, seed: int, *, sweeps: int | None = None, progress: bool = True) -> Found:
    """Kill so many times and return what was seen.

    Args:
        kills: How many in all.
        seed: Of the moments.
        sweeps: How many of the kills are of an ablation; by default one in twenty.
        progress: Whether to show a bar.
    """
    found = Found()
    of_sweeps = kills // SWEEP_SHARE if sweeps is None else sweeps
    with _folders() as place, tqdm(total=kills, unit="kill", disable=not progress) as bar:
        place.mkdir()
        rounds = Campaign(place, random.Random(seed), found, bar)
        while found.kills["ablation"] < of_sweeps and not found.refused:
            rounds.kill_an_ablation()
        while found.kills.total() < kills and not found.refused:
            rounds.kill_trainings(kills - found.kills.total())
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a campaign and print what it found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200, help="how many (default: 200)")
    parser.add_argument("--seed", type=int, help="of the moments (default: another each time)")
    options = parser.parse_args(arguments)
    os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported, here and in the ablations
    import torch

    import bvit_analysis.training.run  # noqa: F401 - once, not in every fork

    torch.set_num_threads(1)
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    began = time.monotonic()
    found = campaign(options.kills, seed)
    kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(found.kills.items()))
    print(f"kills: {found.kills.total()} ({kinds}), seed {seed}")
    print(f"finished runs compared to the bit: {found.compared}")
    for name in ("differences", "leftovers", "refused"):
        lines = getattr(found, name)
        print("\n  ".join([f"{name}: {len(lines)}", *lines[:20]]))
    print(f"{time.monotonic() - began:.0f} s")
    return 0 if found.is_clean() else 1


if __name__ == "__main__":
    sys.exit(main())
