"""The cost of a model beside its float twin: one table of sites, summed up under every named convention."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from bvit_analysis.costs.conventions import CONVENTIONS, Convention
from bvit_analysis.costs.rows import KINDS, Row
from bvit_analysis.errors import ConfigError, unknown_name

if TYPE_CHECKING:
    from torch import nn

COUNTS = tuple(
    field.name for field in dataclasses.fields(Row) if field.name not in ("site", "kind")
)
"The columns of a table that add up."

NOTE = "Ratios are to the float twin: its whole FP32 size, or its operations. MB is 10^6 bytes."

_SHOWN = (
    "parameters",
    "binary_parameters",
    "derived_scales",
    "float_macs",
    "binary_macs",
    "elementwise_ops",
)


@dataclass(frozen=True, kw_only=True)
class ModelCost:
    """What a model holds and does for one image, per site, beside its float twin."""

    table: pd.DataFrame
    "One row a site: site, kind and the counts of costs.rows.Row."
    twin: pd.DataFrame
    "The same of the model before binarization; equal to table for a float model."
    tokens: int
    "Tokens N of one image, prefix tokens included."
    img_size: int
    "Height of that image, pixels."

    def kinds(self) -> pd.DataFrame:
        """Return the sums of each kind, (kinds present, counts), indexed by kind in the order of a forward pass."""
        sums = self.table.groupby("kind")[list(COUNTS)].sum()
        return sums.loc[[kind for kind in KINDS if kind in sums.index]]

    def stored(self, float_bits: int = 32) -> pd.DataFrame:
        """Return the table with columns bits and bytes: what a packed file holds of each site.

        bits = binary_parameters + float_bits * (parameters - binary_parameters + derived_scales); bytes = bits / 8.

        Args:
            float_bits: Bits of every number that is not binary.

        Raises:
            ConfigError: If ``float_bits`` is below 1.
        """
        if float_bits < 1:
            raise ConfigError(f"float_bits must be at least 1, got {float_bits}")
        binary = self.table["binary_parameters"]
        rest = self.table["parameters"] - binary + self.table["derived_scales"]
        bits = binary + float_bits * rest
        return self.table.assign(bits=bits, bytes=bits / 8)

    def figures(self, conventions: Iterable[str | Convention] | None = None) -> pd.DataFrame:
        """Return one row a convention: convention, quantity, unit, value, float_twin, ratio, description.

        ratio = float_twin / value. For a size float_twin is 4 bytes times all parameters of the float twin; for
        operations it is the twin's operations under the same convention.

        Args:
            conventions: Names from CONVENTIONS or your own Convention; None means all of CONVENTIONS.

        Raises:
            ConfigError: If a name is unknown.
        """
        rows = []
        for convention in _resolve(conventions):
            value = convention.total(self.table, self.twin)
            reference = convention.reference(self.twin)
            rows.append(
                {
                    "convention": convention.name,
                    "quantity": convention.quantity,
                    "unit": convention.unit,
                    "value": value,
                    "float_twin": reference,
                    "ratio": reference / value,
                    "description": convention.description,
                }
            )
        return pd.DataFrame(rows)

    def summary(self, conventions: Iterable[str | Convention] | None = None) -> str:
        """Return two tables as text: counts per kind, and sizes, operations and ratios per convention.

        Args:
            conventions: As for figures().

        Raises:
            ConfigError: If a name is unknown.
        """
        kinds = self.kinds()[list(_SHOWN)]
        kinds["bytes"] = self.stored().groupby("kind")["bytes"].sum()
        kinds.loc["total"] = kinds.sum()
        twin = self.twin[list(_SHOWN)].sum()
        kinds.loc["float twin"] = [*twin, 4 * twin["parameters"]]
        lines = [f"One image, {self.tokens} tokens", ""]
        lines.append(
            f"{'kind':12}{'parameters':>13}{'1-bit':>13}{'scales':>9}{'float MACs':>16}{'1-bit MACs':>16}"
            f"{'element-wise':>14}{'bytes':>12}"
        )
        widths = (13, 13, 9, 16, 16, 14, 12)
        for kind, counts in kinds.iterrows():
            cells = (f"{int(n):>{width},}" for n, width in zip(counts, widths, strict=True))
            lines.append(f"{kind!s:12}" + "".join(cells))
        lines += ["", f"{'convention':36}{'this model':>14}{'float twin':>14}{'ratio':>9}"]
        for row in self.figures(conventions).to_dict(orient="records"):
            unit, size = ("MB", 1e6) if row["quantity"] == "size" else ("G OPs", 1e9)
            digits = 3 if unit == "MB" else 4
            cells = (f"{row[name] / size:.{digits}f} {unit}" for name in ("value", "float_twin"))
            lines.append(
                f"{row['convention']:36}"
                + "".join(f"{cell:>14}" for cell in cells)
                + f"{row['ratio']:>8.2f}x"
            )
        return "\n".join([*lines, "", NOTE])


def model_cost(model: nn.Module, *, img_size: int | None = None) -> ModelCost:
    """Count parameters, MACs and element-wise operations of every site for one image, without running the model.

    Args:
        model: A timm VisionTransformer, float or binarized by bvit_analysis.
        img_size: Side of the image in pixels, which sets the tokens; None takes the size the model was built for.
            Parameters are always the model's own, its positions included.

    Returns:
        The table of sites, that of the float twin, and their sums under named conventions. Each parameter is in
        exactly one row.

    Raises:
        UnsupportedModelError: If the model is of another architecture, or a parameter belongs to no known site.
        ConfigError: If the image does not split into patches.
    """
    # Only counting needs torch; a ledger that a run recorded is read without.
    from bvit_analysis.costs.ledger import Ledger

    ledger = Ledger(model, img_size=img_size, twin=False)
    twin = Ledger(model, img_size=img_size, twin=True)
    return ModelCost(
        table=_frame(ledger.rows),
        twin=_frame(twin.rows),
        tokens=ledger.tokens,
        img_size=ledger.img_size,
    )


def recorded_cost(table: pd.DataFrame, twin: pd.DataFrame, *, img_size: int) -> ModelCost:
    """Return the cost of a model from its recorded ledger and that of its float twin; neither is built.

    The tokens are those of the twin's qkv products: N = MACs / weights.

    Args:
        table: The ledger of the model, for example ``run.costs``.
        twin: The ledger of the same model in float, for example that of its teacher's run.
        img_size: Side of the image that both were counted for, pixels.

    Returns:
        What model_cost() returns for that model.

    Raises:
        ConfigError: If a ledger lacks a column or has no qkv product, as in a run whose model was not counted.
    """
    for name, ledger in (("ledger", table), ("float twin's ledger", twin)):
        missing = sorted({"site", "kind", *COUNTS} - {"bias_parameters"} - set(ledger))
        if missing:
            raise ConfigError(f"the {name} has no column {missing[0]!r}; give the costs of a run")
    products = twin[twin["kind"] == "qkv"]
    if products.empty:
        raise ConfigError(
            "the float twin's ledger has no qkv product; give the costs of a float run"
        )
    tokens = int(products["float_macs"].sum() // products["parameters"].sum())
    # Runs of earlier releases count these two biases with their weights.
    table, twin = (
        ledger if "bias_parameters" in ledger else ledger.assign(bias_parameters=0)
        for ledger in (table, twin)
    )
    return ModelCost(table=table, twin=twin, tokens=tokens, img_size=img_size)


def _frame(rows: list[Row]) -> pd.DataFrame:
    return pd.DataFrame([dataclasses.asdict(row) for row in rows])


def _resolve(conventions: Iterable[str | Convention] | None) -> list[Convention]:
    chosen = CONVENTIONS.values() if conventions is None else conventions
    if isinstance(chosen, str):
        raise ConfigError(
            f"expected a list of conventions, got the text {chosen!r}; write [{chosen!r}]"
        )
    resolved = []
    for convention in chosen:
        if isinstance(convention, str) and convention not in CONVENTIONS:
            raise ConfigError(unknown_name("convention", convention, CONVENTIONS))
        resolved.append(CONVENTIONS[convention] if isinstance(convention, str) else convention)
    return resolved
