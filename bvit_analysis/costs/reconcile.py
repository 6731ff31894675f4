"""Search documented conventions for a published ratio, and say how much a hit is worth.

With hundreds of combinations some will round to nearly any number: `chance` says how many other ratios they would
have met as well, and `account` prints it beside every hit. Authors may have divided totals as their tables print them
(4.6 / 0.26 G is 17.7 for anything from 0.255 to 0.265): that reading is counted apart.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from bvit_analysis.costs.model import ModelCost
from bvit_analysis.costs.switches import SWITCHES, Quantity, combinations
from bvit_analysis.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A published ratio to the float model."""

    quantity: Quantity
    "What it is a ratio of."
    ratio: float
    "As printed."
    digits: int
    "Decimals as printed."
    source: str
    "Where it is printed."
    any_shift: bool = False
    "Whether it is about a network with an activation shift whose form is not public."


PRINTED_DIGITS: dict[Quantity, int] = {"size": 3, "operations": 2}
"Significant digits of totals in the tables of the field: 88.2 MB, 4.6 G."

CLAIMS: dict[tuple[str, int, int], tuple[Claim, ...]] = {
    ("deit_small_patch16_224", 224, 1000): (
        Claim(quantity="size", ratio=16.2, digits=1, source="arXiv 2305.14730"),
        Claim(
            quantity="operations", ratio=17.7, digits=1, source="arXiv 2305.14730", any_shift=True
        ),
    ),
    ("deit_tiny_patch16_224", 224, 1000): (
        Claim(quantity="operations", ratio=61.5, digits=1, source="Bi-ViT, arXiv 2305.12354"),
    ),
}
"Published ratios by timm's model name, image side in pixels and classes."


def parse_claims(
    about: Mapping[str, Any], *, size: str | None = None, operations: str | None = None
) -> list[Claim]:
    """Return the ratios to search for: those given, as printed, and else the published ones of this very model.

    Args:
        about: Of the model: name, recipe, img_size in pixels, num_classes. A float model has no published ratio.
        size: A ratio of sizes as text, '16.2'; its decimals say how exactly it must be met.
        operations: A ratio of operations alike.

    Raises:
        ConfigError: If a text is no number above 0.
    """
    given = {"size": size, "operations": operations}
    key = (str(about["name"]), int(about["img_size"]), int(about["num_classes"]))
    known = CLAIMS.get(key, ()) if about["recipe"] != "float" else ()
    claims = [claim for claim in known if given[claim.quantity] is None]
    for quantity in SWITCHES:
        text = given[quantity]
        if text is None:
            continue
        if not re.fullmatch(r"\d+(\.\d+)?", text) or float(text) <= 0:
            raise ConfigError(
                f"expected a published ratio such as 16.2 for the {quantity}, got '{text}'"
            )
        digits = len(text.partition(".")[2])
        claims.append(Claim(quantity=quantity, ratio=float(text), digits=digits, source="given"))
    return sorted(claims, key=lambda claim: list(SWITCHES).index(claim.quantity))


def reconcile(
    cost: ModelCost, quantity: Quantity, claimed: float, *, digits: int = 1
) -> pd.DataFrame:
    """Return every combination of documented switches, the nearest to a published ratio first.

    Args:
        cost: Of the binarized model.
        quantity: 'size' or 'operations'.
        claimed: The published ratio of the float twin to the binary model.
        digits: Decimals of the claim; a ratio that rounds to it agrees.

    Returns:
        One row a combination: ratio, off (ratio / claimed - 1), agrees, agrees_printed (so does the ratio of totals
        rounded to PRINTED_DIGITS), as_built (no switch about the network is turned), published (a published work is known for each setting, perhaps not the same), departures (how many
        settings are not the plain ones), switches (those, in words), used_by (their sources), value and float_twin
        (bytes or operations), then one column a switch. Equal distances stand in the order of `combinations`.

    Raises:
        ConfigError: If the quantity is unknown, or the claim is not a positive number.
    """
    if not (np.isfinite(claimed) and claimed > 0):
        raise ConfigError(f"expected a published ratio above 0, got {claimed}")
    table, twin = _condensed(cost)
    rows = []
    for combination in combinations(quantity):
        convention = combination.convention
        value = convention.total(table, twin)
        reference = convention.reference(twin)
        ratio = reference / value
        departures = combination.departures
        rows.append(
            {
                "ratio": ratio,
                "off": ratio / claimed - 1,
                "agrees": _meets(ratio, claimed, digits),
                "agrees_printed": _meets(
                    _printed(reference, quantity) / _printed(value, quantity), claimed, digits
                ),
                "as_built": combination.as_built,
                "published": combination.published,
                "departures": len(departures),
                "switches": convention.name,
                "used_by": "; ".join(
                    f"{switch.name} {setting.text}: {setting.source}"
                    for switch, setting in departures
                ),
                "value": value,
                "float_twin": reference,
                **{switch.name: setting.text for switch, setting in combination.settings},
            }
        )
    return pd.DataFrame(rows).sort_values("off", key=abs, kind="stable", ignore_index=True)


def chance(table: pd.DataFrame, claimed: float, *, digits: int = 1) -> float:
    """Return the share of possible claims that some combination would have met, 0..1.

    Possible claims are the numbers with that many decimals from claimed / 1.5 to claimed * 1.5. A share near 1 means
    that a hit says nothing: nearly any claim would have found its combination.

    Args:
        table: As reconcile(), or some of its rows.
        claimed: The published ratio.
        digits: Its decimals.
    """
    possible = _possible(claimed, digits)
    return len(set(_steps(table, digits)) & set(possible)) / len(possible)


def expected_hits(table: pd.DataFrame, claimed: float, *, digits: int = 1) -> float:
    """Return how many combinations meet a possible claim on average, the claims being those of chance().

    Args:
        table: As reconcile(), or some of its rows.
        claimed: The published ratio.
        digits: Its decimals.
    """
    possible = _possible(claimed, digits)
    return sum(step in possible for step in _steps(table, digits)) / len(possible)


def account(table: pd.DataFrame, claim: Claim, *, show: int = 8) -> str:
    """Return as text what was tried, what agrees, how much that is worth, and the nearest combinations.

    Args:
        table: As reconcile() for the claim.
        claim: The published ratio.
        show: Most rows listed: those that agree, or the nearest where none does.
    """
    hits = table[table["agrees"]]
    built = table[table["as_built"]]
    distinct = len(table[["value", "float_twin"]].drop_duplicates())
    ratio = f"{claim.ratio:.{claim.digits}f}x"
    lines = [
        f"{claim.quantity.capitalize()}: {ratio} ({claim.source})",
        f"  tried: {len(table)} combinations of {len(SWITCHES[claim.quantity])} switches, {distinct} with totals of"
        f" their own; {len(built)} of them count this network as it is",
        f"  agree: {len(hits)}, of them {int(hits['as_built'].sum())} that count this network as it is and"
        f" {int(hits['published'].sum())} whose every setting a published work uses",
        f"  worth: {_worth(table, claim)}",
        f"  printed: if totals were rounded to {PRINTED_DIGITS[claim.quantity]} digits before dividing,"
        f" {int(table['agrees_printed'].sum())} agree, {int(built['agrees_printed'].sum())} of them with this network"
        " as it is",
    ]
    if hits.empty:
        lines.append(f"  none gives {ratio}; the nearest:")
    shown = table.head(show) if hits.empty else hits.head(show)
    lines += _rows(shown)
    if len(hits) > show:
        lines.append(f"  ... and {len(hits) - show} more")
    if not hits["as_built"].any():
        lines += ["  nearest that count this network as it is:", *_rows(built.head(2))]
    return "\n".join(lines)


def _meets(ratio: float, claimed: float, digits: int) -> bool:
    return round(ratio, digits) == round(claimed, digits)


def _printed(total: float, quantity: Quantity) -> float:
    return float(f"{total:.{PRINTED_DIGITS[quantity]}g}")


def _condensed(cost: ModelCost) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Add the rows of one kind up, those of the twin's sites apart, so that hundreds of sums take no time."""
    known = set(zip(cost.twin["site"], cost.twin["kind"], strict=True))
    keys = zip(cost.table["site"], cost.table["kind"], strict=True)
    own = ["of the twin" if key in known else "added" for key in keys]
    table = cost.table.assign(site=own).groupby(["site", "kind"], as_index=False).sum()
    twin = cost.twin.assign(site="of the twin").groupby(["site", "kind"], as_index=False).sum()
    return table, twin


def _possible(claimed: float, digits: int) -> range:
    unit = 10**digits
    return range(round(claimed / 1.5 * unit), round(claimed * 1.5 * unit) + 1)


def _steps(table: pd.DataFrame, digits: int) -> list[int]:
    return [round(round(float(ratio), digits) * 10**digits) for ratio in table["ratio"]]


def compare(costs: Mapping[str, ModelCost], claim: Claim) -> pd.DataFrame:
    """Return the same search for several networks: which of them would have met a published ratio.

    Args:
        costs: Ledgers by the name of the network.
        claim: The published ratio.

    Returns:
        One row a network: network, tried, agree, expected (see expected_hits), as_built (hits that count it as it is),
        then ratio and switches of the nearest combination that does.
    """
    rows = []
    for name, cost in costs.items():
        table = reconcile(cost, claim.quantity, claim.ratio, digits=claim.digits)
        built = table[table["as_built"]]
        rows.append(
            {
                "network": name,
                "tried": len(table),
                "agree": int(table["agrees"].sum()),
                "expected": expected_hits(table, claim.ratio, digits=claim.digits),
                "as_built": int(built["agrees"].sum()),
                "ratio": built["ratio"].iloc[0],
                "switches": built["switches"].iloc[0],
            }
        )
    return pd.DataFrame(rows)


def _worth(table: pd.DataFrame, claim: Claim) -> str:
    possible = _possible(claim.ratio, claim.digits)
    low, high = (step / 10**claim.digits for step in (possible[0], possible[-1]))
    every = chance(table, claim.ratio, digits=claim.digits)
    built = chance(table[table["as_built"]], claim.ratio, digits=claim.digits)
    return (
        f"of the claims from {low:.{claim.digits}f}x to {high:.{claim.digits}f}x, {every:.0%} are met by some"
        f" combination, {expected_hits(table, claim.ratio, digits=claim.digits):.1f} on average; {built:.0%} by this"
        " network as it is"
    )


def _rows(table: pd.DataFrame) -> list[str]:
    return [
        f"  {row['ratio']:8.3f}x {'*' if row['as_built'] else ' '}{'p' if row['published'] else ' '} {row['switches']}"
        for row in table.to_dict(orient="records")
    ]
