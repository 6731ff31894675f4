"""What other works print about binary Vision Transformers on ImageNet-1k, each row with its source.

1-bit weights and activations unless the note says otherwise. Sizes are MB of 10^6 bytes; where a work prints MiB the
note says so. Each row has its own convention, mostly not stated in full: rows are to be read, not ranked.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import pandas as pd

from bvit_analysis.costs.conventions import Convention
from bvit_analysis.costs.model import ModelCost

MIB = 2**20 / 1e6
"MB in one MiB."

_RATIOS = "its abstract"
_SECOND_HAND = "second-hand, from another work's table"
_HYBRID = "a hybrid of convolutions and attention; printed as {:.2f} MiB, FP16 rest, convolutions and linears alone"


@dataclass(frozen=True, kw_only=True)
class PublishedRow:
    """One published model; None where nothing is printed, or nothing public was found."""

    model: str
    "Method and network."
    top1: float | None = None
    "Top-1 accuracy on ImageNet-1k, percent."
    megabytes: float | None = None
    "Size, MB of 10^6 bytes."
    giga_operations: float | None = None
    "Operations of one image, 10^9; float MACs for a float model."
    float_model: str = ""
    "The row of the float network that its ratios divide."
    size_ratio: float | None = None
    "As printed; else computed from the float row."
    operations_ratio: float | None = None
    "As printed; else computed from the float row."
    source: str
    "Where the numbers stand."
    note: str = ""
    "What to know before comparing."


_BIVIT_NOTE = "activations of the MLP stay float"

ROWS: tuple[PublishedRow, ...] = (
    PublishedRow(model="float DeiT-T", top1=72.2, megabytes=22.8, giga_operations=1.26, source="tables of 2211.07091, 2012.12877", note="71.7 in some tables"),
    PublishedRow(model="float DeiT-S", top1=79.9, megabytes=88.2, giga_operations=4.6, source="2012.12877; size is our arithmetic"),
    PublishedRow(model="float DeiT-B", top1=81.8, megabytes=346.0, giga_operations=17.6, source="tables of 2211.07091, 2012.12877"),
    PublishedRow(model="float Swin-T", top1=81.2, megabytes=113.0, giga_operations=4.5, source="tables of 2211.07091, 2103.14030"),
    PublishedRow(model="BinaryViT (Xiao) DeiT-S", float_model="float DeiT-S", size_ratio=16.2, operations_ratio=17.7, source="2305.14730, " + _RATIOS, note="ratios alone are public; top-1 unknown"),
    PublishedRow(model="BinaryViT (Le)", top1=67.7, source="2306.16678, " + _SECOND_HAND, note="another paper of that title; pyramid of four stages"),
    PublishedRow(model="Bi-ViT DeiT-T", top1=28.7, float_model="float DeiT-T", operations_ratio=61.5, source="2305.12354, " + _RATIOS, note="top-1 second-hand"),
    PublishedRow(model="Bi-ViT DeiT-S", top1=40.9, source="2305.12354, " + _SECOND_HAND),
    PublishedRow(model="Bi-ViT Swin-T", top1=55.5, float_model="float Swin-T", operations_ratio=56.1, source="2305.12354, " + _RATIOS, note="top-1 second-hand"),
    PublishedRow(model="ReActNet's means on a ViT", top1=49.0, source=_SECOND_HAND, note="about 49"),
    PublishedRow(model="BiBERT DeiT-T", top1=25.4, source="2211.07091, its table"),
    PublishedRow(model="BiBERT DeiT-B", top1=67.5, source="2211.07091, its table"),
    PublishedRow(model="BiViT DeiT-T", top1=37.9, megabytes=2.22, giga_operations=0.39, float_model="float DeiT-T", source="2211.07091, its table", note=_BIVIT_NOTE),
    PublishedRow(model="BiViT DeiT-B", top1=69.6, megabytes=16.8, giga_operations=5.81, float_model="float DeiT-B", source="2211.07091, its table", note=_BIVIT_NOTE),
    PublishedRow(model="BiViT Swin-T", top1=70.8, megabytes=12.6, giga_operations=1.62, float_model="float Swin-T", source="2211.07091, its table", note=_BIVIT_NOTE),
    PublishedRow(model="BiViT Swin-S", top1=75.6, megabytes=15.4, giga_operations=3.04, source="2211.07091, its table", note=_BIVIT_NOTE),
    PublishedRow(model="BiViT Swin, fully binary", top1=58.6, source=_SECOND_HAND),
    PublishedRow(model="SI-BiViT Swin, fully binary", top1=63.8, source=_SECOND_HAND),
    PublishedRow(model="BHViT-Tiny", top1=64.0, megabytes=2.49 * MIB, giga_operations=0.050, source="2503.02394, README; cost from running its code", note=_HYBRID.format(2.49)),
    PublishedRow(model="BHViT-Tiny, float merge", top1=66.0, source="2503.02394, README"),
    PublishedRow(model="BHViT-Small", top1=68.4, megabytes=3.53 * MIB, giga_operations=0.0735, source="2503.02394, README; cost from running its code", note=_HYBRID.format(3.53) + "; 4.97 MiB and 0.340 G with element-wise work"),
    PublishedRow(model="BHViT-Small, float merge", top1=70.1, megabytes=4.76 * MIB, giga_operations=0.149, source="2503.02394, README; cost from running its code", note=_HYBRID.format(4.76)),
)  # fmt: skip
"Published rows, float networks first."

OURS = (
    (
        "all stored, FP32; products alone, /64",
        Convention(name="size", description="all FP32", quantity="size"),
        Convention(name="operations", description="products", quantity="operations"),
    ),
    (
        "all stored, FP16; element-wise in, twin's MACs alone, /64",
        Convention(name="size", description="all FP16", quantity="size", float_bits=16),
        Convention(
            name="operations",
            description="all work",
            quantity="operations",
            elementwise=True,
            twin_elementwise=False,
        ),
    ),
)
"The two pairs of conventions under which this ledger stands beside them."


def published_table(cost: ModelCost | None = None, name: str = "this model") -> pd.DataFrame:
    """Return published binary ViTs, and a ledger's own model under two pairs of conventions above them.

    Args:
        cost: The ledger to put on top; None leaves it out.
        name: What to call it.

    Returns:
        Columns model, top1 (percent), megabytes, giga_operations, size_ratio, operations_ratio (to the float network),
        source, note and ours; NaN where nothing is printed.
    """
    rows = [] if cost is None else _own(cost, name)
    floats = {row.model: row for row in ROWS}
    for row in ROWS:
        values = dataclasses.asdict(row)
        twin = floats.get(values.pop("float_model"))
        for ratio, amount in (
            ("size_ratio", "megabytes"),
            ("operations_ratio", "giga_operations"),
        ):
            if values[ratio] is None and twin is not None and values[amount]:
                values[ratio] = getattr(twin, amount) / values[amount]
        rows.append(values | {"ours": False})
    columns = [
        field.name for field in dataclasses.fields(PublishedRow) if field.name != "float_model"
    ]
    table = pd.DataFrame(rows, columns=[*columns, "ours"])
    numbers = ["top1", "megabytes", "giga_operations", "size_ratio", "operations_ratio"]
    table[numbers] = table[numbers].astype(float)
    return table


def _own(cost: ModelCost, name: str) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for note, size, operations in OURS:
        held = size.total(cost.table, cost.twin)
        done = operations.total(cost.table, cost.twin)
        rows.append(
            {
                "model": name,
                "top1": None,
                "megabytes": held / 1e6,
                "giga_operations": done / 1e9,
                "size_ratio": size.reference(cost.twin) / held,
                "operations_ratio": operations.reference(cost.twin) / done,
                "source": "this ledger",
                "note": note,
                "ours": True,
            }
        )
    return rows
