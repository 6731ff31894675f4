"""What ``python -m benchmarks.packed_inference --json FILE`` measured, as tidy tables.

"Packed" is the binary model that runs on packed bits; every ratio is another form of the same network over it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from bvit_analysis.errors import ConfigError
from bvit_analysis.tables.costs import OTHER, PARTS

PACKED, FP32 = "packed", "FP32"
RIVALS = ("FP32", "BF16", "INT8")
"What the packed model is held against, in the order it is drawn."

SAVINGS = (
    "size, by ledger",
    "operations, by ledger",
    "bytes on disk",
    "peak memory",
    "latency",
)
"Counted first, then measured."

BINARIZED = (
    "block linears",
    "attention products",
    "activation functions",
    "shifts, signs",
    "shortcuts, residuals",
)
"Parts whose work the packed kernels do, in passes that hold several of them."

SHIPPED = ("data/benchmarks", "../data/benchmarks")
"Where records are that come with the repository: seen from it, and from notebooks/. Names begin with the date."

_COLUMNS = {
    "layers": ("model", "batch", "threads", "site", "way", "ms", "times_packed", "gmacs"),
    "models": ("model", "batch", "threads", "way", "ms", "times_packed", "low", "high"),
    "account": ("model", "batch", "threads", "way", "part", "ms"),
    "memory": ("model", "batch", "way", "held_bytes", "peak_bytes"),
    "files": ("model", "way", "bytes"),
    "ledger": ("model", "way", "bytes", "operations"),
    "start": ("model", "kernels", "load_s", "first_call_s", "second_call_s"),
    "ceiling": ("threads", "gmacs"),
    "goals": ("what", "where", "value", "goal", "met"),
}


@dataclass(frozen=True)
class PackedBenchmark:
    """A record of the benchmark; each table has one row a measurement."""

    machine: dict[str, Any]
    "Hardware, versions and commit."
    made: dict[str, Any]
    "Date, command, seconds."
    missing: dict[str, str]
    "Who could not run there, and why."
    layers: pd.DataFrame
    "Linears of a block: ms, and how many times longer than the packed layer (times_packed)."
    models: pd.DataFrame
    "Forward passes: the same, with quartiles low and high of the ratio."
    account: pd.DataFrame
    "Milliseconds of a forward pass by part of the network."
    memory: pd.DataFrame
    "Bytes held, and the peak of resident memory above the interpreter."
    files: pd.DataFrame
    "Bytes on disk."
    ledger: pd.DataFrame
    "Bytes and operations by counting."
    start: pd.DataFrame
    "Seconds of the first call, with kernels compiled and with kernels cached."
    ceiling: pd.DataFrame
    "GMAC/s of a loop in registers alone."
    goals: pd.DataFrame
    "Figures that have a goal, and whether it is met."

    @property
    def where(self) -> str:
        """One line: processor, versions, date."""
        hardware, versions = self.machine.get("hardware", {}), self.machine.get("versions", {})
        named = ", ".join(f"{k} {versions[k]}" for k in ("torch", "numba") if k in versions)
        return f"{hardware.get('cpu')}, {hardware.get('cores')} cores; {named}; {self.made.get('date')}"


def shipped_benchmark() -> Path:
    """Return the newest record near: below ``data/benchmarks``, ``../data/benchmarks``, or the checkout of this code.

    Raises:
        ConfigError: If there is none.
    """
    for folder in (*SHIPPED, Path(__file__).parents[2] / "data" / "benchmarks"):
        found = sorted(Path(folder).glob("*.json"))
        if found:
            return found[-1]
    raise ConfigError(
        f"found no record of a benchmark in {' or '.join(SHIPPED)}, seen from {str(Path.cwd())!r};"
        " write one with python -m benchmarks.packed_inference --json FILE"
    )


def packed_benchmark(source: str | Path | Mapping[str, Any]) -> PackedBenchmark:
    """Read a record that the benchmark wrote.

    Args:
        source: The JSON file, or what it holds.

    Raises:
        ConfigError: If it is no such record, or lacks a table or column.
    """
    if isinstance(source, Mapping):
        name, record = "the record", dict(source)
    else:
        name = str(source)
        try:
            record = json.loads(Path(source).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"cannot read {name}: {error}; write one with python -m benchmarks.packed_inference --json FILE"
            ) from error
    kind = record.get("format") if isinstance(record, dict) else None
    if kind != "bvit-packed-benchmark" or record.get("version") != 1:
        raise ConfigError(
            f"expected {name} to be a bvit-packed-benchmark of version 1, got {kind!r};"
            " write one with python -m benchmarks.packed_inference --json FILE"
        )
    tables = {}
    for part, columns in _COLUMNS.items():
        table = pd.DataFrame(record.get(part, []))
        if table.empty:
            table = pd.DataFrame(columns=list(columns))
        lacking = [column for column in columns if column not in table]
        if lacking:
            raise ConfigError(f"{name}: table {part} lacks {', '.join(lacking)}; measure again")
        tables[part] = table
    return PackedBenchmark(
        machine=dict(record.get("machine", {})),
        made=dict(record.get("made", {})),
        missing=dict(record.get("missing", {})),
        **tables,
    )


def packed_savings(
    benchmark: PackedBenchmark, model: str, *, batch: int = 1, threads: int = 1
) -> pd.DataFrame:
    """Return how many times smaller, fewer or faster the packed model is, counted and measured.

    ratio = what the rival takes / what the packed model takes; for latency the median of ratios within rounds.

    Args:
        benchmark: A record.
        model: A network in it.
        batch: Images of a forward pass, for memory and latency.
        threads: For latency.

    Returns:
        Columns quantity (of SAVINGS), against (of RIVALS), ratio; what was not measured is left out.
    """
    ledger, files = (
        table[table["model"] == model].set_index("way")
        for table in (benchmark.ledger, benchmark.files)
    )
    memory = benchmark.memory.query("model == @model and batch == @batch").set_index("way")
    times = _at(benchmark.models, model, batch, threads).set_index("way")
    measured: dict[str, pd.Series] = {
        "size, by ledger": _over_packed(ledger["bytes"]),
        "operations, by ledger": _over_packed(ledger["operations"]),
        "bytes on disk": _over_packed(files["bytes"]),
        "peak memory": _over_packed(memory["peak_bytes"]),
        "latency": times["times_packed"],
    }
    rows = [
        (quantity, rival, float(measured[quantity][rival]))
        for quantity in SAVINGS
        for rival in RIVALS
        if rival in measured[quantity].index
    ]
    return pd.DataFrame(rows, columns=["quantity", "against", "ratio"])


def packed_account(
    benchmark: PackedBenchmark, model: str, *, batch: int = 1, threads: int = 1
) -> pd.DataFrame:
    """Return the milliseconds of a forward pass by part, of the FP32 model and of the packed one.

    Args:
        benchmark: A record.
        model: A network in it.
        batch: Images of a forward pass.
        threads: Of both.

    Returns:
        Index part in the order of PARTS; columns FP32 and packed in ms, and their ratio 'times'.
    """
    rows = _at(benchmark.account, model, batch, threads)
    table = rows.pivot_table(index="part", columns="way", values="ms", aggfunc="sum")
    order = [part for part in (*PARTS, OTHER) if part in table.index]
    table = table.reindex(order).reindex(columns=[FP32, PACKED]).astype(float).fillna(0.0)
    table.columns.name = None
    table["times"] = table[FP32] / table[PACKED].where(table[PACKED] > 0)
    return table


def amdahl(account: pd.DataFrame) -> pd.DataFrame:
    """Return what limits the speed-up: the parts that became binary, the rest, and the whole.

    If share f of the time is sped up s times and the rest not at all, the whole is sped up 1 / (1 - f + f / s);
    with s without bound, 1 / (1 - f).

    Args:
        account: As packed_account().

    Returns:
        Index 'binarized', 'stayed float', 'whole'; columns FP32 and packed in ms, share_before and share_after of the
        whole, and times; and row 'whole if the binarized parts took no time'.
    """
    binary = account.index.isin(BINARIZED)
    sums = {
        "binarized": account.loc[binary, [FP32, PACKED]].sum(),
        "stayed float": account.loc[~binary, [FP32, PACKED]].sum(),
        "whole": account[[FP32, PACKED]].sum(),
    }
    table = pd.DataFrame(sums).T
    free = [table.loc["whole", FP32], table.loc["stayed float", PACKED]]
    table.loc["whole if the binarized parts took no time"] = free
    for when, column in (("share_before", FP32), ("share_after", PACKED)):
        whole = table.loc["whole", column]
        table[when] = table[column] / (whole if whole > 0 else float("nan"))
    table["times"] = table[FP32] / table[PACKED].where(table[PACKED] > 0)
    return table


def packed_finding(benchmark: PackedBenchmark) -> str:
    """Say which goals the record meets and which it misses."""
    goals = benchmark.goals
    if goals.empty:
        return "Nothing with a goal was measured."
    met = goals["met"].astype(bool)
    said = f"{int(met.sum())} of {len(goals)} goals met."
    missed = [
        f"{row.what} ({row.where}): {row.value:.2f}x, goal {row.goal:g}x"
        for row in goals[~met].itertuples()
    ]
    return said if not missed else f"{said} Missed: {'; '.join(missed)}."


def _at(table: pd.DataFrame, model: str, batch: int, threads: int) -> pd.DataFrame:
    same = (table["model"] == model) & (table["batch"] == batch) & (table["threads"] == threads)
    return table[same]


def _over_packed(values: pd.Series) -> pd.Series:
    return values / values[PACKED] if PACKED in values.index else values.iloc[:0]
