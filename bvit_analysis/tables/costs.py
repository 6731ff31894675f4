"""Cost ledgers as tidy tables by part of the network, and ratios beside a claimed one.

A ledger is the table of sites of ``bvit_analysis.model_cost`` or ``run.costs``; nothing here builds a model.
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from bvit_analysis.errors import ConfigError

PARTS: dict[str, tuple[str, ...]] = {
    "block linears": ("qkv", "proj", "fc1", "fc2"),
    "attention products": ("scores", "context"),
    "patch embedding": ("patch_embed",),
    "head": ("head",),
    "positions, class token": ("positions", "tokens"),
    "norms": ("norm",),
    "scales, biases": ("scale", "bias"),
    "activation functions": ("activation",),
    "shifts, signs": ("shift", "sign"),
    "softmax": ("softmax",),
    "shortcuts, residuals": ("shortcut", "residual", "layer_scale", "pool"),
}
"Parts of the network in the order they are drawn, and the kinds of a ledger's rows in each."

OTHER = "other"
"The part of a kind that PARTS does not name."

FLOAT_BYTES = 4
"Bytes of a number that is not binary: FP32."

_COUNTS = (
    "parameters",
    "binary_parameters",
    "derived_scales",
    "float_macs",
    "binary_macs",
    "elementwise_ops",
)


def size_by_part(ledgers: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return the bytes of each model by part: 1 bit a binary parameter, 4 bytes every other stored number.

    bytes = binary_parameters / 8 ("1 bit"), and (parameters - binary_parameters + derived_scales) * 4 ("FP32").

    Args:
        ledgers: One ledger a model, by the name to show it under.

    Returns:
        Columns model, part, form ('FP32' or '1 bit') and value in bytes; rows of zero bytes are left out.
    """
    rows = []
    for model, sums in _sums(ledgers):
        for part, counts in sums.iterrows():
            binary = counts["binary_parameters"]
            stays = counts["parameters"] - binary + counts["derived_scales"]
            rows.append((model, part, "FP32", FLOAT_BYTES * stays))
            rows.append((model, part, "1 bit", binary / 8))
    return _tidy(rows)


def operations_by_part(
    ledgers: Mapping[str, pd.DataFrame], *, binary_ops_per_op: int = 64
) -> pd.DataFrame:
    """Return the operations of one image by part: float MACs, binary MACs over a divisor, element-wise work.

    Args:
        ledgers: One ledger a model, by the name to show it under.
        binary_ops_per_op: Binary MACs that count as one operation.

    Returns:
        Columns model, part, form ('float product', '1-bit product' or 'element-wise') and value in operations; rows
        of zero operations are left out.

    Raises:
        ConfigError: If ``binary_ops_per_op`` is below 1.
    """
    if binary_ops_per_op < 1:
        raise ConfigError(f"binary_ops_per_op must be at least 1, got {binary_ops_per_op}")
    rows = []
    for model, sums in _sums(ledgers):
        for part, counts in sums.iterrows():
            rows.append((model, part, "float product", counts["float_macs"]))
            rows.append((model, part, "1-bit product", counts["binary_macs"] / binary_ops_per_op))
            rows.append((model, part, "element-wise", counts["elementwise_ops"]))
    return _tidy(rows)


def against_claim(figures: pd.DataFrame, claimed: float, *, digits: int = 1) -> pd.DataFrame:
    """Return ratios beside a claimed one, the nearest first.

    Args:
        figures: One row a convention, with columns convention and ratio, as ``ModelCost.figures``.
        claimed: The published ratio.
        digits: Decimals of the claim; a ratio that rounds to it agrees.

    Returns:
        Columns convention, ratio, off (ratio / claimed - 1) and agrees.
    """
    table = figures[["convention", "ratio"]].copy()
    table["off"] = table["ratio"] / claimed - 1
    table["agrees"] = [round(float(ratio), digits) == claimed for ratio in table["ratio"]]
    return table.sort_values("off", key=abs, kind="stable", ignore_index=True)


def claim_finding(figures: pd.DataFrame, claimed: float, *, digits: int = 1) -> str:
    """Say in one sentence which conventions give a claimed ratio, or that none does and which is nearest.

    Args:
        figures: As for against_claim().
        claimed: The published ratio.
        digits: Decimals of the claim.
    """
    table = against_claim(figures, claimed, digits=digits)
    if table.empty:
        return f"No convention was asked, so nothing is said about {claimed:g}x."
    found = table[table["agrees"]]
    if found.empty:
        near = table.iloc[0]
        return (
            f"None of {len(table)} conventions gives {claimed:g}x; the nearest is "
            f"'{near['convention']}' with {near['ratio']:.2f}x, {100 * near['off']:+.1f}% off."
        )
    names = ", ".join(f"'{row.convention}' ({row.ratio:.2f}x)" for row in found.itertuples())
    verb = "gives" if len(found) == 1 else "give"
    return f"{len(found)} of {len(table)} conventions {verb} {claimed:g}x: {names}."


def _sums(ledgers: Mapping[str, pd.DataFrame]) -> list[tuple[str, pd.DataFrame]]:
    places = {kind: part for part, kinds in PARTS.items() for kind in kinds}
    found = []
    for model, ledger in ledgers.items():
        # A run folder may hold a ledger of an older version, or of somebody else's making.
        counts = ledger.reindex(columns=list(_COUNTS)).apply(pd.to_numeric, errors="coerce")
        kinds = ledger["kind"] if "kind" in ledger else pd.Series(OTHER, index=ledger.index)
        parts = kinds.map(places).fillna(OTHER)
        sums = counts.fillna(0).groupby(parts).sum()
        found.append((model, sums.reindex([*PARTS, OTHER], fill_value=0)))
    return found


def _tidy(rows: list[tuple[str, object, str, float]]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=["model", "part", "form", "value"])
    return table[table["value"] > 0].reset_index(drop=True)
