"""Which sites have weights of more than two levels, and the sentence that takes the place of their flips."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import pandas as pd

from bvit_analysis.records import Run
from bvit_analysis.records.columns import FLIP_MEASURES
from bvit_analysis.tables.metrics import Source
from bvit_analysis.tables.site_names import clip, named

NOT_QUANTIZED = 17
"What a run records as the number of levels where there are more than 16."
_ATTRS = "multilevel"


@dataclass(frozen=True)
class Multilevel:
    """A weight site that has level changes or sign changes in place of flips."""

    run_id: str
    label: str
    site: str
    levels: int | None
    "Most different values that a row of the used weight has had; None if unknown."
    counted: bool
    "Whether level changes are recorded, and not only sign changes."


def multilevel(data: Source) -> list[Multilevel]:
    """Return the weight sites of runs that have no flips because their weights have several levels.

    Args:
        data: Runs, or a table or frame of them.
    """
    if data is None:
        return []
    if isinstance(data, pd.DataFrame):
        return [Multilevel(**facts) for facts in data.attrs.get(_ATTRS, [])]
    found: list[Multilevel] = []
    for run in [data] if isinstance(data, Run) else data:
        rows = [row for row in run.info.get("sites", []) if row["kind"] == "weight"]
        if not any("levels" in row for row in rows):
            continue  # recorded before levels were looked at
        counted, signs = (
            _recorded(run, name) for name in ("level_change_rate", "sign_change_rate")
        )
        for row in rows:
            site, levels = row["site"], row.get("levels")
            levels = levels if type(levels) is int and 0 < levels <= NOT_QUANTIZED else None
            if (levels or 0) > 2 or site in counted or site in signs:
                found.append(Multilevel(run.run_id, run.label, site, levels, site in counted))
    return found


def _recorded(run: Run, name: str) -> set[str]:
    frame = run.sites
    if name not in frame.columns:  # opened with few columns
        return set()
    return set(frame.loc[frame[name].notna(), "site"])


def remember_levels(frame: pd.DataFrame, data: Source) -> pd.DataFrame:
    """Return the frame, with the multi-level sites of its runs in its attrs, if they have any."""
    facts = [asdict(one) for one in multilevel(data)]
    if facts:
        frame.attrs[_ATTRS] = facts
    return frame


def levels_sentence(
    data: Source, *, measure: str = "flip_rate", sites: Iterable[str] | None = None
) -> str:
    """Say in one sentence which weights have several levels and what is recorded in place of their flips.

    Args:
        data: Runs, or a table or frame of them.
        measure: What was asked for; where it is no measure of flips, nothing has to be said.
        sites: Names of the sites it was asked for; None takes all.

    Returns:
        The sentence; empty where no weight has more than two levels.
    """
    if measure not in FLIP_MEASURES:
        return ""
    shown = None if sites is None else set(sites)
    groups: dict[tuple[str, int | None, bool], list[str]] = {}
    for one in multilevel(data):
        if shown is None or one.site in shown:
            groups.setdefault((one.label, one.levels, one.counted), []).append(one.site)
    if not groups:
        return ""
    parts = [
        f"the weights of {named(names)} ({clip(label, 40)}) {_have(levels)}: {_instead(counted)}"
        for (label, levels, counted), names in groups.items()
    ]
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def _have(levels: int | None) -> str:
    if levels == NOT_QUANTIZED:
        return f"have more than {NOT_QUANTIZED - 1} levels"
    return "have levels of their own" if levels is None else f"have {levels} levels"


def _instead(counted: bool) -> str:
    if counted:
        return "level changes are recorded in place of flips, as level_change_rate and level_reversal_rate"
    return "sign changes are recorded in place of flips, as sign_change_rate"
