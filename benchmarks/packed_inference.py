"""Packed inference against FP32, torch.compile, BF16 and INT8: time, memory, bytes and start, in one run.

    python -m benchmarks.packed_inference [--quick] [--json FILE] [--models NAME ...] [--threads N ...]

In every round all contestants take turns, and the ratio of their times is taken within the round; what is printed is
the median of those ratios, so that other work on the machine hurts all alike. Every measurement has a process of its
own. Weights are random: no time here depends on their values. Linux only (/proc tells the peak of memory).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MODELS = ("DeiT-S", "Fashion-MNIST")
MEMORY_WAYS = ("packed", "FP32", "BF16", "INT8", "simulated")
WIDE, NARROW = 8.0, 3.0
"Goals of the layer against FP32: with a vector instruction that counts bits (AVX-512 VPOPCNTDQ), and without."
WHOLE, PEAK = 4.0, 8.0
"Goals of the whole model's time against FP32, and of its peak of memory."
LAYER_SITE = "block linears"
INSIDE = "packed, in a program"

Row = dict[str, Any]


def measured(task: str, *, cache: Path | None = None, **options: Any) -> Any:
    """Run one task of packed_worker in a fresh process and return its answer; threads are 1 if none are named."""
    threads = options.get("threads", 1)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
    if cache is not None:
        environment["NUMBA_CACHE_DIR"] = str(cache)
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.packed_worker", task, json.dumps(options)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"error: {task} {options} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def machine() -> Row:
    """Return what the figures depend on: the CPU and the versions."""
    from bvit_analysis.environment import describe_environment

    about = describe_environment()
    for name in ("numba", "llvmlite"):
        try:
            about["versions"][name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    flags = cpu_flags()
    hardware = about["hardware"]
    hardware.pop("threads")
    hardware["flags"] = sorted(
        flag for flag in flags if flag.startswith(("avx", "amx")) or flag == "popcnt"
    )
    hardware["load_before"] = [round(value, 2) for value in os.getloadavg()]
    return about


def cpu_flags() -> set[str]:
    """Return what the CPU says it can do, as Linux names it."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("flags"):
            return set(line.split(":", 1)[1].split())
    return set()


def start_rows(name: str, folder: Path) -> list[Row]:
    """Time the start of a process without compiled kernels at hand, and of one that finds them."""
    cache = folder / f"numba-{name}"
    cold = measured("start", cache=cache, model=name, folder=str(folder))
    warm = measured("start", cache=cache, model=name, folder=str(folder))
    return [{**cold, "kernels": "compiled"}, {**warm, "kernels": "cached"}]


def memory_rows(name: str, batch: int, folder: Path, times: int) -> list[Row]:
    """Measure the peak of each contestant; the middle one of some processes."""
    rows = []
    for way in MEMORY_WAYS:
        if way == "INT8" and not (folder / f"{name}.int8.pt").exists():
            continue
        found = [
            measured("memory", model=name, batch=batch, way=way, folder=str(folder))
            for _ in range(times)
        ]
        found.sort(key=lambda row: row["peak_bytes"])
        rows.append(found[len(found) // 2])
    return rows


def goals(record: Row) -> list[Row]:
    """Compare every figure that has a goal with it."""
    wide = "avx512_vpopcntdq" in record["machine"]["hardware"]["flags"]
    found: list[Row] = []

    def add(what: str, row: Row, value: float, goal: float) -> None:
        place = f"{row['model']}, batch {row['batch']}"
        if "threads" in row:
            place += f", {row['threads']} thread{'s' * (row['threads'] > 1)}"
        found.append(
            {"what": what, "where": place, "value": value, "goal": goal, "met": value >= goal}
        )

    linears = [row for row in record["layers"] if row["site"] == LAYER_SITE]
    inside = {
        (row["model"], row["batch"], row["threads"]): row["times_packed"]
        for row in linears
        if row["way"] == INSIDE
    }
    for row in linears:
        if row["way"] == "FP32":
            goal = WIDE if wide else NARROW
            add("linear layers of a block, times FP32", row, row["times_packed"], goal)
            place = row["model"], row["batch"], row["threads"]
            if place in inside:
                what = "linear layers inside a program, times FP32"
                add(what, row, row["times_packed"] / inside[place], goal)
    for row in record["models"]:
        if row["way"] in ("FP32", "FP32 compiled"):
            add(f"whole model, times {row['way']}", row, row["times_packed"], WHOLE)
    peaks = {(row["model"], row["batch"], row["way"]): row for row in record["memory"]}
    for (name, batch, way), row in peaks.items():
        if way == "FP32":
            ratio = row["peak_bytes"] / peaks[name, batch, "packed"]["peak_bytes"]
            add("peak of memory, FP32 / packed", row, ratio, PEAK)
    return found


def measure(options: argparse.Namespace) -> Row:
    """Measure everything that was asked for, and say on stdout what is found."""
    began = time.monotonic()
    record: Row = {"format": "bvit-packed-benchmark", "version": 1}
    record["made"] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "quick": options.quick,
        "command": " ".join(["python -m benchmarks.packed_inference", *sys.argv[1:]]),
    }
    record["machine"] = machine()
    for part in ("layers", "models", "account", "memory", "start", "ceiling"):
        record[part] = []
    record["missing"] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        names = list(dict.fromkeys(["tiny", *options.models]))
        stored = measured("files", names=names, folder=str(folder))
        for part, rows in stored.items():
            record[part] = [row for row in rows if row["model"] in options.models]
        for name in options.models:
            record["start"] += start_rows(name, folder)
        for name in options.models:
            for batch in options.batches:
                _time_one(record, name, batch, options)
                record["memory"] += memory_rows(name, batch, folder, options.processes)
    # the best of all processes is the ceiling: it is one core's, and scales with the cores at most
    found = [row["gmacs"] for row in record["ceiling"] if row["gmacs"]]
    record["ceiling"] = [
        {"threads": threads, "gmacs": max(found) * threads} for threads in options.threads if found
    ]
    best = {row["threads"]: row["gmacs"] for row in record["ceiling"]}
    for row in record["layers"]:
        row["of_ceiling"] = row["gmacs"] / best[row["threads"]] if best else None
    record["goals"] = goals(record)
    record["made"]["seconds"] = round(time.monotonic() - began)
    record["machine"]["hardware"]["load_after"] = [round(value, 2) for value in os.getloadavg()]
    return record


def _time_one(record: Row, name: str, batch: int, options: argparse.Namespace) -> None:
    rounds = options.rounds or (3 if options.quick else 9 if batch < 8 else 5)
    for threads in options.threads:
        place: Row = {"threads": threads, "model": name, "batch": batch, "rounds": rounds}
        print(f"measuring {name}, batch {batch}, {threads} thread(s) ...", file=sys.stderr)
        for answer in (
            measured("layers", **place),
            measured("models", **place, compiled=not options.no_compile),
        ):
            record["missing"] |= answer.pop("missing")
            for part, rows in answer.items():
                record[part] += rows


def report(record: Row) -> None:
    """Print the tables, and which goals are met."""
    hardware, versions = record["machine"]["hardware"], record["machine"]["versions"]
    print(
        f"{hardware['cpu']}, {hardware['cores']} cores, "
        f"VPOPCNTDQ: {'yes' if 'avx512_vpopcntdq' in hardware['flags'] else 'no'}; "
        f"torch {versions['torch']}, numba {versions.get('numba', 'none')}; "
        f"load {hardware['load_before'][0]} before, {hardware['load_after'][0]} after\n"
        "Each figure is how many times longer (or larger) than packed, median of ratios in rounds.\n"
    )
    for way, reason in record["missing"].items():
        print(f"{way} cannot run here: {reason}")
    by_place: dict[tuple[Any, ...], dict[str, Row]] = {}
    for row in record["layers"]:
        by_place.setdefault((row["model"], row["batch"], row["threads"], row["site"]), {})[
            row["way"]
        ] = row
    _line(
        "one linear layer",
        "packed ms",
        "in a program",
        "FP32",
        "BF16",
        "INT8",
        "GMAC/s",
        "of ceiling",
    )
    for (name, batch, threads, site), ways in by_place.items():
        words = ways.get("packed, product only", ways["packed"])
        share = words["of_ceiling"]
        _line(
            f"{name}, batch {batch}, {threads} thr., {site}",
            f"{ways['packed']['ms']:.3f}",
            f"{ways[INSIDE]['ms']:.4f}" if INSIDE in ways else "none",
            *(_times(ways, way) for way in ("FP32", "BF16", "INT8")),
            f"{words['gmacs']:.0f}",
            "" if share is None else f"{100 * share:.0f}%",
        )
    for row in record["ceiling"]:
        print(
            f"ceiling, a loop in registers alone, {row['threads']} core(s): {row['gmacs']:.0f} GMAC/s"
        )
    print("(GMAC/s: product, scales and bias, from packed words)\n")
    whole: dict[tuple[Any, ...], dict[str, Row]] = {}
    for row in record["models"]:
        whole.setdefault((row["model"], row["batch"], row["threads"]), {})[row["way"]] = row
    ways_shown = ("FP32", "FP32 compiled", "BF16", "INT8", "simulated")
    _line("whole model", "packed ms", *ways_shown)
    for (name, batch, threads), ways in whole.items():
        _line(
            f"{name}, batch {batch}, {threads} thr.",
            f"{ways['packed']['ms']:.2f}",
            *(_times(ways, way) for way in ways_shown),
        )
    print()
    sizes: dict[tuple[Any, ...], dict[str, int]] = {}
    for row in record["memory"]:
        for field in ("held_bytes", "peak_bytes"):
            place = (row["model"], row["batch"], field.replace("_bytes", ""))
            sizes.setdefault(place, {})[row["way"]] = row[field]
    for row in record["files"]:
        sizes.setdefault((row["model"], "any", "file"), {})[row["way"]] = row["bytes"]
    _line("bytes", "packed MB", "FP32", "BF16", "INT8", "simulated")
    for (name, batch, what), found in sizes.items():
        ratios = [
            f"{found[way] / found['packed']:.2f}x" if way in found else ""
            for way in ("FP32", "BF16", "INT8", "simulated")
        ]
        _line(f"{name}, batch {batch}, {what}", f"{found['packed'] / 1e6:.2f}", *ratios)
    print("(held: parameters and buffers; peak: resident, above the interpreter with libraries)\n")
    for row in record["start"]:
        print(
            f"{row['model']}, kernels {row['kernels']}: load and first call {row['load_s'] + row['first_call_s']:.2f} s, "
            f"second call {row['second_call_s']:.4f} s (import {row['import_s']:.1f} s before)"
        )
    print("\nTime of one forward pass by part, ms")
    _line("part", "FP32", "packed")
    _print_account(record["account"])
    print("\nGoals")
    for goal in record["goals"]:
        verdict = "met   " if goal["met"] else "MISSED"
        print(
            f"{verdict} {goal['value']:6.2f}x, goal {goal['goal']:g}x: {goal['what']} ({goal['where']})"
        )
    met = sum(goal["met"] for goal in record["goals"])
    print(f"{met} of {len(record['goals'])} goals met")


def _print_account(rows: list[Row]) -> None:
    places: dict[tuple[Any, ...], dict[str, dict[str, float]]] = {}
    for row in rows:
        parts = places.setdefault((row["model"], row["batch"], row["threads"]), {})
        parts.setdefault(row["part"], {})[row["way"]] = row["ms"]
    for (name, batch, threads), parts in places.items():
        print(f"{name}, batch {batch}, {threads} thr.")
        for part, ways in parts.items():
            shown = [f"{ways[way]:.3f}" if way in ways else "" for way in ("FP32", "packed")]
            _line(f"  {part}", *shown)


def _times(ways: dict[str, Row], way: str) -> str:
    return f"{ways[way]['times_packed']:.2f}x" if way in ways else "none"


def _line(head: str, *cells: str) -> None:
    print(f"{head:<48}" + "".join(f"{cell:>14}" for cell in cells))


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, and keep the record."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.packed_inference",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--quick", action="store_true", help="a minute: the small model, batch 1, no compiler"
    )
    parser.add_argument("--models", nargs="+", choices=(*MODELS, "tiny"), help="which networks")
    parser.add_argument("--threads", nargs="+", type=int, help="threads of torch and of ours")
    parser.add_argument("--batches", nargs="+", type=int, help="images of a forward pass")
    parser.add_argument("--rounds", type=int, help="turns that each contestant takes")
    parser.add_argument(
        "--processes",
        type=int,
        help="fresh processes of each measurement of memory; the middle counts",
    )
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--json", type=Path, help="file to keep the record in")
    options = parser.parse_args(arguments)
    quick = options.quick
    options.models = options.models or (["Fashion-MNIST"] if quick else list(MODELS))
    options.threads = options.threads or (
        [1] if quick else sorted({1, min(2, os.cpu_count() or 1)})
    )
    options.batches = options.batches or ([1] if quick else [1, 32])
    options.processes = options.processes or (1 if quick else 3)
    options.no_compile = options.no_compile or quick
    record = measure(options)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    report(record)


if __name__ == "__main__":
    main()
