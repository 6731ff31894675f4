"""What counting says about the contestants, in the same units as what is measured."""

from __future__ import annotations

from typing import Any

from torch import nn

from benchmarks import packed_contestants as who
from bvit_analysis import tables
from bvit_analysis.costs import model_cost


def ledger_rows(setting: who.Setting) -> list[dict[str, Any]]:
    """Return for each contestant the bytes of its numbers, and its operations (MACs; 64 binary MACs are one)."""
    cost = model_cost(who.binary_model(setting))
    binary = {"binary": cost.table}
    packed_bytes = tables.size_by_part(binary)["value"].sum()
    work = tables.operations_by_part(binary)
    packed_ops = work.loc[work["form"] != "element-wise", "value"].sum()
    plain = who.float_model(setting)
    numbers = sum(p.numel() for p in plain.parameters())
    linear = sum(m.weight.numel() for m in plain.modules() if isinstance(m, nn.Linear))
    macs = float(cost.twin["float_macs"].sum())
    sizes = {
        who.FP32: 4 * numbers,
        who.BF16: 2 * numbers,
        who.INT8: linear + 4 * (numbers - linear),
    }
    rows = [(way, float(size), macs) for way, size in sizes.items()]
    rows.append((who.PACKED, float(packed_bytes), float(packed_ops)))
    return [
        {"model": setting.name, "way": way, "bytes": size, "operations": operations}
        for way, size, operations in rows
    ]
