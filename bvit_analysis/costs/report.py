"""A ledger as `bvit costs` prints it: text for people, one JSON object for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from bvit_analysis.costs.model import COUNTS, ModelCost
from bvit_analysis.costs.published import published_table
from bvit_analysis.costs.reconcile import (
    Claim,
    account,
    chance,
    compare,
    expected_hits,
    reconcile,
)
from bvit_analysis.costs.switches import SWITCHES

MARKS = (
    "*  no switch about the network is turned: this network as it is\n"
    "p  a published work is known for each setting, perhaps not the same one for all"
)


def text_report(
    cost: ModelCost,
    claims: Sequence[Claim] = (),
    *,
    sites: bool = False,
    others: Mapping[str, ModelCost] | None = None,
    published: bool = False,
    name: str = "this model",
    show: int = 8,
) -> str:
    """Return the ledger, its conventions, the search for published ratios and the rows of other works as text.

    Args:
        cost: The ledger.
        claims: Published ratios to search for.
        sites: Whether every site comes first, with bits and bytes.
        others: Ledgers of other networks that a claim about an unknown shift could be about, by name.
        published: Whether other works' rows come last.
        name: What to call the model among them.
        show: Most combinations listed for a claim.
    """
    parts = [cost.stored().to_string(index=False)] if sites else []
    parts.append(cost.summary())
    if claims:
        parts.append("Which documented conventions give the published ratios?")
        for claim in claims:
            table = reconcile(cost, claim.quantity, claim.ratio, digits=claim.digits)
            parts.append(account(table, claim, show=show))
            if others and claim.any_shift:
                parts.append(compared_text(compare(others, claim), claim))
        parts += [MARKS, *(switch_text(claim) for claim in claims)]
    if published:
        parts.append(published_text(published_table(cost, name)))
    return "\n\n".join(parts)


def json_report(
    cost: ModelCost,
    claims: Sequence[Claim] = (),
    *,
    others: Mapping[str, ModelCost] | None = None,
    model: dict[str, Any] | None = None,
) -> str:
    """Return the same as one JSON object: model, tokens, totals, kinds, sites, conventions, claims, published.

    Args:
        cost: The ledger.
        claims: Published ratios to search for; each lists every combination.
        others: Ledgers of other networks to search for the same ratios, by name.
        model: What says which model it is, for the field of that name.
    """
    found = []
    for claim in claims:
        table = reconcile(cost, claim.quantity, claim.ratio, digits=claim.digits)
        found.append(
            {
                "quantity": claim.quantity,
                "ratio": claim.ratio,
                "source": claim.source,
                "tried": len(table),
                "agree": int(table["agrees"].sum()),
                "chance": chance(table, claim.ratio, digits=claim.digits),
                "expected": expected_hits(table, claim.ratio, digits=claim.digits),
                "combinations": _records(table),
                "networks": _records(compare(others, claim)) if others and claim.any_shift else [],
            }
        )
    stored = cost.stored()
    counts = [*COUNTS, "bits", "bytes"]
    kinds = stored.groupby("kind")[counts].sum().loc[cost.kinds().index]
    answer = {
        "model": model or {},
        "tokens": cost.tokens,
        "totals": {name: stored[name].sum().item() for name in counts},
        "float_twin": {name: cost.twin[name].sum().item() for name in COUNTS},
        "kinds": _records(kinds.reset_index()),
        "sites": _records(stored),
        "conventions": _records(cost.figures()),
        "claims": found,
        "published": _records(published_table()),
    }
    return json.dumps(answer, indent=1, allow_nan=False)


def compared_text(table: pd.DataFrame, claim: Claim) -> str:
    """Return the search of several networks for one ratio as text, with the hits that chance alone would give.

    Args:
        table: As compare().
        claim: The published ratio.
    """
    lines = [
        f"The same search for {claim.ratio:.{claim.digits}f}x with other activation shifts; the paper's own is not public",
        f"  {'shift':18}{'agree':>6}{'expected':>9}{'as it is':>9}   nearest that counts the network as it is",
    ]
    for row in table.to_dict(orient="records"):
        lines.append(
            f"  {row['network']:18}{row['agree']:>6}{row['expected']:>9.1f}{row['as_built']:>9}"
            f" {row['ratio']:8.3f}x  {row['switches']}"
        )
    ratio = f"{claim.ratio:.{claim.digits}f}x"
    lines += [
        f"  {len(table)} networks, {table['tried'].sum()} combinations: {table['agree'].sum()} agree; a claim picked at"
        f" random near it finds {table['expected'].sum():.0f} on average.",
        f"  So a hit here names a way to {ratio}, not the paper's; {ratio} is not reproduced and not claimed.",
    ]
    return "\n".join(lines)


def switch_text(claim: Claim) -> str:
    """Return the switches of a claim's quantity with every setting and its source.

    Args:
        claim: Whose quantity is meant.
    """
    lines = [f"Switches of {claim.quantity}, the plain setting first:"]
    for switch in SWITCHES[claim.quantity]:
        lines.append(f"  {switch.name} ({switch.about})")
        lines += [f"    {setting.text:30} {setting.source}" for setting in switch.settings]
    return "\n".join(lines)


def published_text(table: pd.DataFrame) -> str:
    """Return rows of other works as text, a dash where nothing is printed.

    Args:
        table: As published_table().
    """
    lines = [
        "Published binary ViTs on ImageNet-1k; each row has a convention of its own",
        f"{'model':30}{'top-1':>7}{'MB':>9}{'G OPs':>9}{'smaller':>9}{'fewer':>8}  source; note",
    ]
    for row in table.to_dict(orient="records"):
        said = "; ".join(part for part in (row["source"], row["note"]) if part)
        lines.append(
            f"{row['model']:30}{_number(row['top1'], '.1f'):>7}{_number(row['megabytes'], '.2f'):>9}"
            f"{_number(row['giga_operations'], '.3f'):>9}{_number(row['size_ratio'], '.1f', 'x'):>9}"
            f"{_number(row['operations_ratio'], '.1f', 'x'):>8}  {said}"
        )
    return "\n".join(lines)


def _number(value: float, form: str, unit: str = "") -> str:
    return "-" if pd.isna(value) else f"{value:{form}}{unit}"


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(table.to_json(orient="records", double_precision=15))
    return rows
