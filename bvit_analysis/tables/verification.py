"""Which sites of a run are recorded as unverified, in one sentence for whatever shows them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import pandas as pd

from bvit_analysis.records import Run
from bvit_analysis.tables.metrics import Source
from bvit_analysis.tables.site_names import clip, named

_ATTRS = "unverified"


@dataclass(frozen=True)
class Unverified:
    """A site whose tracked sign nobody saw in use, or that differed when it was last compared."""

    run_id: str
    label: str
    site: str
    kind: str
    reason: str


def unverified(data: Source) -> list[Unverified]:
    """Return the sites that runs record as unverified; a run that says nothing of it has none.

    Args:
        data: Runs, or a table or frame of them.
    """
    if data is None:
        return []
    if isinstance(data, pd.DataFrame):
        return [Unverified(**facts) for facts in data.attrs.get(_ATTRS, [])]
    found = []
    for run in [data] if isinstance(data, Run) else data:
        for row in run.info.get("sites", []):
            if row.get("verified") is False:
                reason = row.get("unverified")
                reason = reason if isinstance(reason, str) and reason else "no reason is recorded"
                found.append(Unverified(run.run_id, run.label, row["site"], row["kind"], reason))
    return found


def remember_unverified(frame: pd.DataFrame, data: Source) -> pd.DataFrame:
    """Return the frame, with the unverified sites of its runs in its attrs, if they have any."""
    facts = [asdict(one) for one in unverified(data)]
    if facts:
        frame.attrs[_ATTRS] = facts
    return frame


def unverified_sentence(
    data: Source, *, kind: str | None = None, sites: Iterable[str] | None = None
) -> str:
    """Name the unverified sites among those that are shown, with the reason, in one sentence; empty without any.

    Args:
        data: Runs, or a table or frame of them; of a frame the sites and runs that have rows in it.
        kind: What is shown: 'weight', 'activation' or 'attention'; None takes every kind.
        sites: Names of those that are shown; None takes all.
    """
    shown = None if sites is None else set(sites)
    present: dict[str, set[str]] = {}
    found = unverified(data)
    if found and isinstance(data, pd.DataFrame):
        present = {
            name: set(data[name].astype(str)) for name in ("run_id", "site") if name in data.columns
        }
    groups: dict[tuple[str, str], list[str]] = {}
    for one in found:
        if kind is not None and one.kind != kind or shown is not None and one.site not in shown:
            continue
        if all(getattr(one, name) in values for name, values in present.items()):
            groups.setdefault((one.label, one.reason), []).append(one.site)
    if not groups:
        return ""
    parts = [
        f"{named(names)} ({clip(label, 40)}: {clip(reason, 160)})"
        for (label, reason), names in groups.items()
    ]
    return f"Not verified to be the signs that the forward pass uses: {'; '.join(parts)}."
