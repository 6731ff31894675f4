"""One offline HTML gallery of executed notebooks, in which explorers stay operable."""

from __future__ import annotations

from bvit_analysis.report.build import build_report
from bvit_analysis.report.rendering import RenderedNotebook, render_notebook

__all__ = ["RenderedNotebook", "build_report", "render_notebook"]
