"""Figures of recorded runs: ``plot_xxx(data, *, ax=None) -> Axes``, drawn without pyplot.

Every function takes a run, a list of runs or the table behind the figure, draws a sentence where there
is nothing to draw, and attaches a description (``style.alt_text``). ``ax.figure`` as the last line of a
notebook cell shows the picture.
"""

from __future__ import annotations

from bvit_analysis.errors import MissingExtraError

try:
    import matplotlib as _matplotlib  # noqa: F401  only to say which extra is missing
except ModuleNotFoundError as error:
    raise MissingExtraError(
        "bvit_analysis.plots needs matplotlib; install it with: pip install 'bvit_analysis[notebooks]'"
    ) from error

from bvit_analysis.plots import style
from bvit_analysis.plots.ablation import plot_ablation, plot_differences, plot_evidence
from bvit_analysis.plots.bimodality import (
    density_limit,
    plot_bimodality,
    plot_latent_histogram,
    plot_near_zero,
)
from bvit_analysis.plots.flips import (
    colour_limits,
    plot_flip_atlas,
    plot_flip_back,
    plot_flip_distribution,
    plot_flip_rate,
    plot_trajectories,
)
from bvit_analysis.plots.information import (
    plot_binarization_error,
    plot_channel_entropy,
    plot_near_constant,
    plot_sign_entropy,
    plot_twin_agreement,
)
from bvit_analysis.plots.training import plot_accuracy, plot_loss

__all__ = [
    "colour_limits",
    "density_limit",
    "plot_ablation",
    "plot_accuracy",
    "plot_bimodality",
    "plot_binarization_error",
    "plot_channel_entropy",
    "plot_differences",
    "plot_evidence",
    "plot_flip_atlas",
    "plot_flip_back",
    "plot_flip_distribution",
    "plot_flip_rate",
    "plot_latent_histogram",
    "plot_loss",
    "plot_near_constant",
    "plot_near_zero",
    "plot_sign_entropy",
    "plot_trajectories",
    "plot_twin_agreement",
    "style",
]
