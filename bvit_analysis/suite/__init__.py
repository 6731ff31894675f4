"""Notebooks executed over runs, in batches: plans, executions, what became of each, and lessons."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bvit_analysis.suite.batch import discover_notebooks as discover_notebooks
    from bvit_analysis.suite.batch import estimate as estimate
    from bvit_analysis.suite.batch import execute as execute
    from bvit_analysis.suite.batch import exit_code as exit_code
    from bvit_analysis.suite.batch import plan as plan
    from bvit_analysis.suite.batch import read_statuses as read_statuses
    from bvit_analysis.suite.batch import read_summary as read_summary
    from bvit_analysis.suite.jobs import JobStatus as JobStatus
    from bvit_analysis.suite.jobs import NotebookJob as NotebookJob
    from bvit_analysis.suite.jobs import read_status as read_status
    from bvit_analysis.suite.parameters import Parameter as Parameter
    from bvit_analysis.suite.parameters import ParameterText as ParameterText
    from bvit_analysis.suite.parameters import declared_parameters as declared_parameters
    from bvit_analysis.suite.parameters import parse_assignments as parse_assignments
    from bvit_analysis.suite.parameters import parse_parameter as parse_parameter
    from bvit_analysis.suite.plan_file import plan_from_file as plan_from_file
    from bvit_analysis.suite.planning import PlanError as PlanError

# A child that executes one notebook imports a module of this package, and must not wait for pandas.
_HOMES = {
    "JobStatus": "jobs",
    "NotebookJob": "jobs",
    "Parameter": "parameters",
    "ParameterText": "parameters",
    "PlanError": "planning",
    "declared_parameters": "parameters",
    "discover_notebooks": "batch",
    "estimate": "batch",
    "execute": "batch",
    "exit_code": "batch",
    "parse_assignments": "parameters",
    "parse_parameter": "parameters",
    "plan": "batch",
    "plan_from_file": "plan_file",
    "read_status": "jobs",
    "read_statuses": "batch",
    "read_summary": "batch",
}

__all__ = sorted(_HOMES)  # noqa: PLE0605 - built from the table above


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"bvit_analysis.suite.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'bvit_analysis.suite' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
