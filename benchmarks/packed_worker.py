"""What the benchmark of packed inference measures, each task in a process of its own; prints JSON.

python -m benchmarks.packed_worker TASK '{"model": "DeiT-S", ...}'
"""

from __future__ import annotations

import gc
import json
import math
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Rows = list[dict[str, Any]]
_PROGRAM = "blocks"
_REST = 0.01  # seconds in which the threads of the one before stop looking out for work
_TURN = 0.02  # seconds that one turn of a contestant takes at least


def rounds_of(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each contestant in each round; all take turns in every round, in changing order."""
    calls, spare = {}, {}
    for name, way in ways.items():
        way()
        once = _seconds(way, 1)
        calls[name] = max(1, math.ceil(_TURN / once / getattr(way, "times", 1)))
        spare[name] = (
            1 if once < 0.3 else 0
        )  # a call that is not timed puts its weights into the cache
    found: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for number in range(rounds):
        shift = number % len(names)
        order = [*names[shift:], *names[:shift]]
        for name in order[:: -1 if number % 2 else 1]:
            time.sleep(_REST)
            if spare[name]:
                ways[name]()
            found[name].append(_seconds(ways[name], calls[name]))
    return found


def _seconds(action: Callable[[], object], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        action()
    return (time.perf_counter() - start) / calls / getattr(action, "times", 1)


def summary(times: dict[str, list[float]], **place: Any) -> Rows:
    """Return a row a contestant: its median time, and how many times longer than the packed one it takes.

    times_packed = median over rounds of (time / time of the packed one in the same round); low and high are quartiles.
    """
    rows = []
    for way, seconds in times.items():
        ratios = [s / p for s, p in zip(seconds, times["packed"], strict=True)]
        quartiles = (
            statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
        )
        rows.append(
            {
                **place,
                "way": way,
                "ms": 1e3 * statistics.median(seconds),
                "times_packed": statistics.median(ratios),
                "low": quartiles[0],
                "high": quartiles[2],
                "rounds": len(seconds),
            }
        )
    return rows


def layers(model: str, batch: int, threads: int, rounds: int) -> dict[str, Any]:
    """Time the linears of one block, each and all four in turn."""
    import torch

    from benchmarks import packed_contestants as who

    setting = who.settings()[model]
    with torch.inference_mode():
        sites, missing = who.layer_ways(setting, batch)
        found: Rows = []
        sums: dict[str, list[float]] = {}
        product = 0
        ceiling = popcount_ceiling()
        plain = who.float_model(setting)
        tokens = batch * plain.pos_embed.shape[1]
        for site, ways in sites.items():
            linear = plain.blocks[0].get_submodule(site)
            macs = tokens * linear.in_features * linear.out_features
            product += macs
            times = rounds_of(ways, rounds)
            for way, seconds in times.items():
                known = sums.get(way, [0.0] * rounds)
                sums[way] = [a + b for a, b in zip(known, seconds, strict=True)]
            rows = summary(times, model=model, batch=batch, threads=threads, site=site)
            found += [{**row, "rows": tokens, "macs": macs} for row in rows]
        rows = summary(sums, model=model, batch=batch, threads=threads, site=who.BLOCK_LINEARS)
        found += [{**row, "rows": tokens, "macs": product} for row in rows]
        ceiling = max(ceiling or 0.0, popcount_ceiling() or 0.0) or None
    for row in found:
        row["gmacs"] = row["macs"] / row["ms"] / 1e6
    return {"layers": found, "missing": missing, "ceiling": [{"threads": 1, "gmacs": ceiling}]}


def popcount_ceiling() -> float | None:
    """Return the GMAC/s that a loop over registers alone reaches on one core; None without numba."""
    from bvit_analysis.runtime.kernels import products as kernels

    measure = getattr(kernels, "popcount_ceiling", None)
    if measure is None or kernels.choose_backend() != "numba":
        return None
    return float(measure())


def models(model: str, batch: int, threads: int, rounds: int, compiled: bool) -> dict[str, Any]:
    """Time whole forward passes, and account for them by part of the network."""
    import torch

    from benchmarks import packed_contestants as who
    from bvit_analysis.runtime.model import load_runtime

    setting = who.settings()[model]
    with torch.inference_mode():
        ways, missing = who.model_ways(setting, batch, compiled=compiled)
        times = rounds_of(ways, rounds)
        accounts: Rows = []
        images = setting.images(batch)
        for way, network in (
            (who.FP32, who.float_model(setting)),
            (who.PACKED, load_runtime(who.binary_model(setting))),
        ):
            accounts += [
                {"model": model, "batch": batch, "threads": threads, "way": way, **row}
                for row in account(network, images, rounds)
            ]
    place = {"model": model, "batch": batch, "threads": threads}
    return {"models": summary(times, **place), "account": accounts, "missing": missing}


def part_of(name: str, module: Any) -> str | None:
    """Return the part of the network that a module's own time belongs to; None: its parent's."""
    leaf = name.rpartition(".")[2]
    kind = type(module).__name__
    if leaf in ("patch_embed", "head"):
        return {"patch_embed": "patch embedding", "head": "head"}[leaf]
    if kind == "PackedSign":
        return "shifts, signs"
    if leaf in ("qkv", "proj", "fc1", "fc2"):
        return "block linears"
    if leaf == "attn":
        return "attention products"
    if kind.endswith("Norm") or leaf.startswith("norm"):
        return "norms"
    if leaf == "act":
        return "activation functions"
    if kind.endswith("Block"):
        return "shortcuts, residuals"
    return "other" if name in ("", "skeleton") else None


def account(network: Any, images: Any, rounds: int) -> Rows:
    """Return the milliseconds of a forward pass by part: medians of each part's own time, without its parts' parts.

    The clocks themselves take time, a few microseconds a module. The blocks of a packed network run as one program, as
    they do without clocks: their time is split as that of their operations, timed one by one.
    """
    parts: dict[str, float] = {}
    given: list[Any] = []
    stack: list[list[Any]] = []
    places: dict[int, str] = {}
    handles = []

    def enter(module: Any, inputs: Any) -> None:
        if module is program:
            given[:] = inputs[:1]
        stack.append([places[id(module)], 0.0, time.perf_counter()])

    def leave(module: Any, inputs: Any, output: Any) -> None:
        now = time.perf_counter()
        part, below, start = stack.pop()
        parts[part] = parts.get(part, 0.0) + now - start - below
        if stack:
            stack[-1][1] += now - start

    program = next((m for m in network.modules() if getattr(m, "by_layer", "") is None), None)
    inside = set() if program is None else {id(module) for module in program.modules()}
    inside.discard(id(program))
    for name, module in network.named_modules():
        if id(module) in inside:
            continue
        part = _PROGRAM if module is program else part_of(name, module)
        # a convolution inside the patch embedding has a name of a block's linear, so the outer part decides
        if part is None or "patch_embed." in name:
            continue
        places[id(module)] = part
        handles += [
            module.register_forward_pre_hook(enter),
            module.register_forward_hook(leave),
        ]
    network(images)
    found: list[dict[str, float]] = []
    for _ in range(max(3, rounds)):
        parts.clear()
        network(images)
        found.append(_split(dict(parts), program, given[-1] if given else None))
    for handle in handles:
        handle.remove()
    return [
        {"part": part, "ms": 1e3 * statistics.median(one[part] for one in found)}
        for part in found[0]
    ]


def _split(parts: dict[str, float], program: Any, tokens: Any) -> dict[str, float]:
    """Replace the time of a program, on tokens (B, N, C), by that of its parts."""
    if program is not None:
        seconds = program.timed(tokens)
        scale = parts.pop(_PROGRAM) / sum(seconds.values())
        for part, own in seconds.items():
            parts[part] = parts.get(part, 0.0) + scale * own
    return parts


def memory(model: str, batch: int, way: str, folder: str) -> dict[str, Any]:
    """Measure the peak of resident memory from loading a stored network to the end of its second forward pass.

    The level it is counted from is this process with all libraries loaded and used once by a tiny network of the same
    kind, so that neither code nor thread pools nor compiled kernels count.
    """
    import torch

    from benchmarks import packed_contestants as who

    known, place = who.settings(), Path(folder)
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tiny = who.open_file(known["tiny"], way, place)
        width = torch.bfloat16 if way == who.BF16 else torch.float32
        tiny(known["tiny"].images(2).to(width))
        del tiny
        with peak() as level:
            network = who.open_file(known[model], way, place)
            level.loaded()
            images = known[model].images(batch).to(width)
            network(images)
            network(images)
    return {
        "model": model,
        "batch": batch,
        "way": way,
        "held_bytes": who.held_bytes(network),
        "load_bytes": level.load,
        "peak_bytes": level.peak,
        "interpreter_bytes": level.base,
    }


class Level:
    """Resident memory of this process, in bytes above where it began."""

    def __init__(self) -> None:
        gc.collect()
        _trim()
        # 5 sets the recorded peak back to what is resident now
        Path("/proc/self/clear_refs").write_text("5")
        self.base = _status("VmRSS")
        self.load = self.peak = 0

    def loaded(self) -> None:
        """Note the peak of loading."""
        self.load = _status("VmHWM") - self.base


@contextmanager
def peak() -> Iterator[Level]:
    """Measure the peak inside the block."""
    level = Level()
    yield level
    level.peak = _status("VmHWM") - level.base


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {field}")


def _trim() -> None:
    """Give freed memory back to the system, where the C library can."""
    import ctypes

    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def start(model: str, folder: str) -> dict[str, Any]:
    """Time what a fresh process waits for: import, load, first and second forward pass of one image."""
    clock = [time.perf_counter()]
    import torch

    from bvit_analysis.runtime.model import load_runtime

    clock.append(time.perf_counter())
    from benchmarks import packed_contestants as who

    setting = who.settings()[model]
    path = Path(folder) / f"{setting.name}.{who.FILES[who.PACKED]}"
    images = setting.images(1)
    with torch.inference_mode():
        clock.append(time.perf_counter())
        network = load_runtime(path)
        clock.append(time.perf_counter())
        network(images)
        clock.append(time.perf_counter())
        network(images)
        clock.append(time.perf_counter())
    spans = [b - a for a, b in zip(clock, clock[1:], strict=False)]
    return {
        "model": model,
        "import_s": spans[0],
        "load_s": spans[2],
        "first_call_s": spans[3],
        "second_call_s": spans[4],
    }


def files(names: list[str], folder: str) -> dict[str, Any]:
    """Write every stored form of the networks; return their bytes and what the ledger predicts."""
    from benchmarks import packed_contestants as who
    from benchmarks.packed_ledger import ledger_rows

    rows, ledger = [], []
    for name in names:
        setting = who.settings()[name]
        who.write_files(setting, Path(folder))
        ledger += ledger_rows(setting)
        for way in (who.FP32, who.BF16, who.INT8, who.PACKED):
            path = Path(folder) / f"{name}.{who.FILES[way]}"
            if path.exists():
                rows.append({"model": name, "way": way, "bytes": path.stat().st_size})
    return {"files": rows, "ledger": ledger}


TASKS = {task.__name__: task for task in (layers, models, memory, start, files)}


def main() -> None:
    """Run one task and print what it returns as the last line."""
    options = json.loads(sys.argv[2])
    if sys.argv[1] != "start":  # there, importing torch is part of what is timed
        import torch

        torch.set_num_threads(options.get("threads", 1))
    print(json.dumps(TASKS[sys.argv[1]](**options)))


if __name__ == "__main__":
    main()
