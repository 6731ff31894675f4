"""A record of the benchmark of packed inference with round numbers, for tests."""

from __future__ import annotations

from typing import Any

TIMES = {
    "packed": 10.0,
    "FP32": 80.0,
    "FP32 compiled": 60.0,
    "BF16": 30.0,
    "INT8": 20.0,
    "simulated": 120.0,
}
ACCOUNT = {
    "FP32": {"block linears": 60.0, "activation functions": 4.0, "norms": 6.0, "head": 10.0},
    "packed": {"block linears": 2.0, "shifts, signs": 1.0, "norms": 5.0, "head": 2.0},
}


def make_record(model: str = "DeiT-S", *, batches: tuple[int, ...] = (1, 32)) -> dict[str, Any]:
    """Return a record of one network, at one thread, in which FP32 takes 8 times longer and 16 times the bytes."""
    sizes = {"packed": 5.0e6, "FP32": 80.0e6, "BF16": 40.0e6, "INT8": 25.0e6}
    record: dict[str, Any] = {
        "format": "bvit-packed-benchmark",
        "version": 1,
        "made": {"date": "2026-01-01T00:00:00+00:00", "quick": False, "seconds": 1},
        "machine": {
            "hardware": {"cpu": "a CPU", "cores": 2, "flags": ["avx512_vpopcntdq"]},
            "versions": {"torch": "2", "numba": "0"},
            "git_commit": None,
        },
        "missing": {},
        "files": [{"model": model, "way": way, "bytes": size} for way, size in sizes.items()],
        "ledger": [
            {
                "model": model,
                "way": way,
                "bytes": size,
                "operations": 1e6 if way == "packed" else 3e7,
            }
            for way, size in sizes.items()
        ],
        "start": [
            {
                "model": model,
                "kernels": kernels,
                "load_s": 0.1,
                "first_call_s": s,
                "second_call_s": 0.01,
            }
            for kernels, s in (("compiled", 5.0), ("cached", 0.5))
        ],
        "ceiling": [{"threads": 1, "gmacs": 2000.0}],
        "goals": [
            {"what": "layer", "where": model, "value": 9.0, "goal": 8.0, "met": True},
            {"what": "peak", "where": model, "value": 7.0, "goal": 8.0, "met": False},
        ],
    }
    for part in ("layers", "models", "account", "memory"):
        record[part] = []
    for batch in batches:
        at = {"model": model, "batch": batch, "threads": 1}
        for way, ms in TIMES.items():
            times = ms / TIMES["packed"]
            row = {**at, "way": way, "ms": ms, "times_packed": times}
            record["models"].append({**row, "low": 0.9 * times, "high": 1.1 * times, "rounds": 3})
            if way in sizes:
                layer = {**row, "site": "block linears", "low": times, "high": times}
                record["layers"].append({**layer, "gmacs": 100.0, "of_ceiling": 0.05})
        for way, size in sizes.items():
            record["memory"].append(
                {"model": model, "batch": batch, "way": way, "held_bytes": size, "peak_bytes": size}
            )
        for way, parts in ACCOUNT.items():
            record["account"] += [
                {**at, "way": way, "part": part, "ms": ms} for part, ms in parts.items()
            ]
    return record
