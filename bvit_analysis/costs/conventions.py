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

A convention may also count the network as another one would be: a patch embedding of 8 bits or 1 bit, attention of
several binary planes. Those fields say "as if"; the ledger's own table never changes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from bvit_analysis.costs.rows import PRODUCTS
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
    ops_per_mac: int = 1
    "Operations: of one float MAC; 2 counts the multiplication and the addition, as FLOP counters do."
    elementwise: bool = False
    "Operations: whether element-wise work counts, at one operation each."
    twin_elementwise: bool = True
    "Operations: whether it counts in the float twin too; papers divide the twin's MACs alone, 4.6 G for DeiT-S."
    counted_as_float: frozenset[str] = frozenset()
    "Operations: kinds whose binary MACs count as float ones."
    counted_as_additions: frozenset[str] = frozenset()
    "Operations: kinds whose binary MACs count as half a float one: a {0,1} mask over float values adds, never multiplies."
    attention_planes: int = 1
    "Operations: binary planes of the attention probabilities; each is one binary product with the values."
    as_int8: frozenset[str] = frozenset()
    "As if these float kinds had 8 bits: a word holds an eighth as many as signs; the weight takes 8 bits, its bias stays."
    as_binary: frozenset[str] = frozenset()
    "As if these float kinds were binary: MACs divided like binary ones; the weight takes 1 bit, its bias stays."
    float_bits: int = 32
    "Size: bits of a parameter that is not binary."
    counted_float: frozenset[str] | None = None
    "Size: kinds whose float parameters count; None means all. A float linear of a block always counts."
    added: bool = True
    "Size: whether what binarization added counts (RPReLU, shifts, scales, mean|w| per channel)."
    added_kinds: frozenset[str] | None = None
    "Size: which kinds of what was added count, where `added` is set; None means all."

    def __post_init__(self) -> None:
        for name in ("binary_ops_per_op", "ops_per_mac", "attention_planes", "float_bits"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"convention '{self.name}': {name} must be at least 1, got {getattr(self, name)}"
                )
        for one, other in (
            ("counted_as_float", "counted_as_additions"),
            ("as_int8", "as_binary"),
        ):
            both = sorted(getattr(self, one) & getattr(self, other))
            if both:
                raise ConfigError(
                    f"convention '{self.name}': {', '.join(both)} in both {one} and {other}; name each kind once"
                )

    @property
    def unit(self) -> str:
        """Bytes, or operations of one image."""
        return "B" if self.quantity == "size" else "OPs"

    def total(self, table: pd.DataFrame, twin: pd.DataFrame) -> float:
        """Return the size or the operations of a table of sites.

        size = (binary parameters + 8 * those as int8 + float_bits * counted float ones) / 8;
        operations = ops_per_mac * (float MACs + binary MACs / binary_ops_per_op) (+ element-wise operations).

        Args:
            table: One row a site, as ModelCost.table.
            twin: The same of the float twin; its sites tell what binarization added.

        Returns:
            Bytes, or operations of one image.
        """
        if self.quantity == "size":
            return self._bytes(table, twin)
        operations = self.ops_per_mac * self._products(table)
        if self.elementwise:
            operations += float(table["elementwise_ops"].sum())
        return operations

    def reference(self, twin: pd.DataFrame) -> float:
        """Return what a ratio divides: all float twin's parameters in FP32, or its operations.

        The twin is float throughout, so none of the fields that say how a binary or "as if" kind counts applies.

        Args:
            twin: One row a site of the float twin, as ModelCost.twin.
        """
        if self.quantity == "size":
            return float(twin["parameters"].sum()) * 4
        operations = float(self.ops_per_mac * twin["float_macs"].sum())
        if self.elementwise and self.twin_elementwise:
            operations += float(twin["elementwise_ops"].sum())
        return operations

    def _products(self, table: pd.DataFrame) -> float:
        """Sum the MACs of a table, each at its weight; integers are added before any division."""
        macs = table.groupby("kind")[["float_macs", "binary_macs"]].sum()
        total = 0.0
        for kind, (in_float, in_binary) in zip(macs.index, macs.to_numpy().tolist(), strict=True):
            total += in_float * self._float_weight(str(kind))
            total += in_binary * self._binary_weight(str(kind))
        return total

    def _float_weight(self, kind: str) -> float:
        if kind in self.as_binary:
            return 1 / self.binary_ops_per_op
        return 8 / self.binary_ops_per_op if kind in self.as_int8 else 1.0

    def _binary_weight(self, kind: str) -> float:
        if kind in self.counted_as_float:
            return 1.0
        planes = self.attention_planes if kind == "context" else 1
        return planes * (0.5 if kind in self.counted_as_additions else 1 / self.binary_ops_per_op)

    def _bytes(self, table: pd.DataFrame, twin: pd.DataFrame) -> float:
        stays = table["parameters"] - table["binary_parameters"]
        # a ledger recorded before this column was there counts the two small biases with their weight
        bias = table.get("bias_parameters", pd.Series(0, index=table.index))
        int8 = (stays - bias).where(table["kind"].isin(list(self.as_int8)), 0)
        one_bit = (stays - bias).where(table["kind"].isin(list(self.as_binary)), 0)
        stays = stays - int8 - one_bit + table["derived_scales"]
        # by site and kind: 'activation' is the twin's GELU at one site and RPReLU at another
        known = set(zip(twin["site"], twin["kind"], strict=True))
        own = pd.Series(
            [key in known for key in zip(table["site"], table["kind"], strict=True)],
            index=table.index,
        )
        if not self.added:
            stays = stays.where(own, 0)
        elif self.added_kinds is not None:
            stays = stays.where(own | table["kind"].isin(list(self.added_kinds)), 0)
        if self.counted_float is not None:
            stays = stays.where(table["kind"].isin([*self.counted_float, *_BLOCK_LINEARS]), 0)
        bits = float(table["binary_parameters"].sum() + one_bit.sum() + 8 * int8.sum())
        return math.ceil((bits + float(stays.sum()) * self.float_bits) / 8)


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
