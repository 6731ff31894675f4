"""What a reader of several runs looks at first: two runs of one seed, and a step that was recorded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bvit_analysis.records import Run
from bvit_analysis.tables.selection import recipe_of


def pair_of_seed(
    runs: Sequence[Run], other: str, *, first: str = "baseline"
) -> tuple[int | None, int | None]:
    """Choose two runs to lay over each other: two recipes of one seed where there are such.

    Args:
        runs: Runs to choose from.
        other: Recipe of the second run.
        first: Recipe of the first run.

    Returns:
        Positions in ``runs``: the first seed that has both recipes; else one of each recipe; else the first two
        runs; None where there are too few.
    """
    places: dict[str, dict[object, int]] = {first: {}, other: {}}
    for position, run in enumerate(runs):
        if recipe_of(run) in places:
            places[recipe_of(run)].setdefault(run.info.get("seed"), position)
    for seed, position in places[first].items():
        if seed in places[other]:
            return position, places[other][seed]
    a = next(iter(places[first].values()), None)
    b = next(iter(places[other].values()), None)
    if a is None:
        a = next((position for position in range(len(runs)) if position != b), b)
    if b is None or b == a:
        b = next((position for position in range(len(runs)) if position != a), None)
    return a, b


def step_at(steps: Iterable[int], step: int | None = None) -> int | None:
    """Return the recorded step that stands for a step: the last one at or before it.

    Args:
        steps: Recorded steps, in any order.
        step: None asks for the last.

    Returns:
        A recorded step, the first where all are later; None where none is recorded.

    Example:
        >>> step_at([0, 50, 100], 70)
        50
    """
    listed = sorted({int(one) for one in steps})
    if not listed:
        return None
    if step is None:
        return listed[-1]
    return max((one for one in listed if one <= step), default=listed[0])
