"""What published sizes and operation counts include: one frozen record each, every choice a field.

Sizes of DeiT-S with 1000 classes: 22,050,664 parameters are 88.20 MB (10^6 bytes) in float32, and

    block linears at 1 bit     21,233,664 / 8                            =  2,654,208 bytes
    + patch + head, FP32       (295,296 + 385,000) * 4                   =  2,721,184    5.375 MB, 16.4x
    + 25 LayerNorms, FP32      25 * 2 * 384 * 4                          =     76,800    5.452 MB, 16.18x
    + biases, positions, class token, FP32
                               (41,472 + 75,648 + 384) * 4               =    470,016    5.922 MB, 14.9x

Operations (OPs) are float MACs + binary MACs / 64: a 64-bit word holds 64 signs, so one XNOR does 64 products
(Bi-Real, arXiv 1808.00278). Where all four linears and both attention products are binary, DeiT-S has

    (4,183,031,808 + 2 * 178,831,872) / 64 + 57,802,752 + 384,000        = 0.1291 G OPs, 35.6x
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from bvit_analysis.costs.ledger import PRODUCTS
from bvit_analysis.errors import ConfigError

_BLOCK_LINEARS = tuple(kind for kind in PRODUCTS if kind not in ("patch_embed", "head"))


@dataclass(frozen=True, kw_only=True)
class Convention:
    """One way to sum up a table of sites, as a size in bytes or as operations of one image."""

    name: str
    "As tables print it."
    description: str
    "One sentence: what is counted."
    quantity: Literal["size", "operations"]
    "What it is a convention of."
    binary_ops_per_op: int = 64
    "Operations: binary MACs that count as one operation."
    elementwise: bool = False
    "Operations: whether element-wise work counts, at one operation each."
    counted_as_float: frozenset[str] = frozenset()
    "Operations: kinds whose binary MACs count as float ones."
    float_bits: int = 32
    "Size: bits of a parameter that is not binary."
    counted_float: frozenset[str] | None = None
    "Size: kinds whose float parameters count; None means all. A float linear of a block always counts."
    added: bool = True
    "Size: whether what binarization added counts (RPReLU, shifts, scales, mean|w| per channel)."

    def __post_init__(self) -> None:
        if self.binary_ops_per_op < 1 or self.float_bits < 1:
            raise ConfigError(
                f"convention '{self.name}': binary_ops_per_op and float_bits must be at least 1, got"
                f" {self.binary_ops_per_op} and {self.float_bits}"
            )

    @property
    def unit(self) -> str:
        """Bytes, or operations of one image."""
        return "B" if self.quantity == "size" else "OPs"

    def total(self, table: pd.DataFrame, twin: pd.DataFrame) -> float:
        """Return the size or the operations of a table of sites.

        size = binary / 8 + counted float parameters * float_bits / 8;
        operations = float MACs + binary MACs / binary_ops_per_op (+ element-wise operations).

        Args:
            table: One row a site, as ModelCost.table.
            twin: The same of the float twin; its sites tell what binarization added.

        Returns:
            Bytes, or operations of one image.
        """
        if self.quantity == "size":
            return self._bytes(table, twin)
        as_float = table["kind"].isin(list(self.counted_as_float))
        operations = float(table["float_macs"].sum() + table.loc[as_float, "binary_macs"].sum())
        operations += float(table.loc[~as_float, "binary_macs"].sum()) / self.binary_ops_per_op
        if self.elementwise:
            operations += float(table["elementwise_ops"].sum())
        return operations

    def reference(self, twin: pd.DataFrame) -> float:
        """Return what a ratio divides: all float twin's parameters in FP32, or its operations counted alike."""
        if self.quantity == "size":
            return float(twin["parameters"].sum()) * 4
        return self.total(twin, twin)

    def _bytes(self, table: pd.DataFrame, twin: pd.DataFrame) -> float:
        stays = table["parameters"] - table["binary_parameters"]
        if self.added:
            stays = stays + table["derived_scales"]
        else:
            # by site and kind: 'activation' is the twin's GELU at one site and RPReLU at another
            known = set(zip(twin["site"], twin["kind"], strict=True))
            own = [key in known for key in zip(table["site"], table["kind"], strict=True)]
            stays = stays.where(own, 0)
        if self.counted_float is not None:
            stays = stays.where(table["kind"].isin([*self.counted_float, *_BLOCK_LINEARS]), 0)
        bits = float(table["binary_parameters"].sum()) + float(stays.sum()) * self.float_bits
        return math.ceil(bits / 8)


_ALL = (
    Convention(
        name="everything else FP32",
        description="1 bit a block linear's weight; every other stored number 32 bits, added scales included",
        quantity="size",
    ),
    Convention(
        name="float twin's rest FP32",
        description="as before, without what binarization added: only parameters the float model has",
        quantity="size",
        added=False,
    ),
    Convention(
        name="patch + head + LayerNorms FP32",
        description="1 bit a block linear's weight; patch embedding, head and norms 32 bits; the rest not counted",
        quantity="size",
        counted_float=frozenset({"patch_embed", "head", "norm"}),
    ),
    Convention(
        name="patch + head FP32",
        description="1 bit a block linear's weight; patch embedding and head 32 bits; the rest not counted",
        quantity="size",
        counted_float=frozenset({"patch_embed", "head"}),
    ),
    Convention(
        name="everything else FP16",
        description="1 bit a block linear's weight; every other stored number 16 bits, added scales included",
        quantity="size",
        float_bits=16,
    ),
    Convention(
        name="float twin's rest FP16",
        description="as before, without what binarization added",
        quantity="size",
        float_bits=16,
        added=False,
    ),
    Convention(
        name="matmul only /64",
        description="float MACs + binary MACs / 64; element-wise work not counted",
        quantity="operations",
    ),
    Convention(
        name="matmul only /32",
        description="float MACs + binary MACs / 32; element-wise work not counted",
        quantity="operations",
        binary_ops_per_op=32,
    ),
    Convention(
        name="matmul only /64, context float",
        description="as /64, with attention times values counted as float",
        quantity="operations",
        counted_as_float=frozenset({"context"}),
    ),
    Convention(
        name="matmul only /64, attention float",
        description="as /64, with both attention products counted as float",
        quantity="operations",
        counted_as_float=frozenset({"scores", "context"}),
    ),
    Convention(
        name="with element-wise operations /64",
        description="float MACs + binary MACs / 64 + every element-wise operation, in the float twin too",
        quantity="operations",
        elementwise=True,
    ),
)

CONVENTIONS: dict[str, Convention] = {convention.name: convention for convention in _ALL}
"Every named convention, sizes first."
