"""Controls that several explorers have alike: a run, a second one beside it, and a recorded step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ipywidgets as W

NO_RUN = ""
"Value of a choice without a run."


def run_choices(names: Sequence[str], first: int | None, second: int | None) -> dict[str, Any]:
    """Return the controls `run` and `beside` over named runs.

    Args:
        names: Of the runs.
        first: Position of the run shown first, None for none.
        second: Position of the one beside it, None for none.
    """
    options = [(name, name) for name in names]
    return {
        "run": W.Dropdown(
            options=options or [("no run", NO_RUN)],
            value=NO_RUN if first is None else names[first],
            description="run",
            layout=W.Layout(width="24em"),
        ),
        "beside": W.Dropdown(
            options=[("nothing", NO_RUN), *options],
            value=NO_RUN if second is None else names[second],
            description="beside",
            layout=W.Layout(width="24em"),
        ),
    }


def step_choice(steps: Sequence[int]) -> Any:
    """Return a slider over recorded steps that stands at the last."""
    return W.SelectionSlider(
        options=steps,
        value=steps[-1],
        description="step",
        continuous_update=False,
        layout=W.Layout(width="24em"),
    )
