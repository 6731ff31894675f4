"""Figures of recorded runs: ``plot_xxx(data, *, ax=None) -> Axes``, drawn without pyplot.

Every function takes a run, a list of runs or the table behind the figure, draws a sentence where there
is nothing to draw, and attaches a description (``style.alt_text``). ``ax.figure`` as the last line of a
notebook cell shows the picture.
"""

from __future__ import annotations

from bvit_analysis.extras import missing_extra

try:
    import matplotlib as _matplotlib  # noqa: F401  only to say which extra is missing
except ModuleNotFoundError as error:
    raise missing_extra("bvit_analysis.plots", ["matplotlib"], "notebooks") from error

from bvit_analysis.plots import style
from bvit_analysis.plots.ablation import plot_ablation, plot_differences, plot_evidence
from bvit_analysis.plots.attention import plot_attention
from bvit_analysis.plots.bimodality import (
    density_limit,
    plot_bimodality,
    plot_latent_histogram,
    plot_near_zero,
)
from bvit_analysis.plots.comparison import plot_compared, plot_run_scatter
from bvit_analysis.plots.costs import (
    plot_operations_by_part,
    plot_ratios,
    plot_reconciliation,
    plot_size_by_part,
)
from bvit_analysis.plots.distribution import plot_latent_density, plot_latent_ridges
from bvit_analysis.plots.flips import (
    colour_limits,
    plot_flip_atlas,
    plot_flip_back,
    plot_flip_distribution,
    plot_flip_rate,
)
from bvit_analysis.plots.information import (
    plot_binarization_error,
    plot_channel_entropy,
    plot_channels,
    plot_near_constant,
    plot_sign_entropy,
    plot_twin_agreement,
)
from bvit_analysis.plots.nulls import plot_bimodality_nulls
from bvit_analysis.plots.packed import plot_savings, plot_speedups, plot_time_by_part
from bvit_analysis.plots.training import plot_accuracy, plot_loss
from bvit_analysis.plots.trajectories import (
    plot_flip_ranking,
    plot_flip_ranks,
    plot_trajectories,
    plot_weight,
)

__all__ = [
    "colour_limits",
    "density_limit",
    "plot_ablation",
    "plot_accuracy",
    "plot_attention",
    "plot_bimodality",
    "plot_bimodality_nulls",
    "plot_binarization_error",
    "plot_channel_entropy",
    "plot_channels",
    "plot_compared",
    "plot_differences",
    "plot_evidence",
    "plot_flip_atlas",
    "plot_flip_back",
    "plot_flip_distribution",
    "plot_flip_ranking",
    "plot_flip_ranks",
    "plot_flip_rate",
    "plot_latent_density",
    "plot_latent_histogram",
    "plot_latent_ridges",
    "plot_loss",
    "plot_near_constant",
    "plot_near_zero",
    "plot_operations_by_part",
    "plot_ratios",
    "plot_reconciliation",
    "plot_run_scatter",
    "plot_savings",
    "plot_sign_entropy",
    "plot_size_by_part",
    "plot_speedups",
    "plot_time_by_part",
    "plot_trajectories",
    "plot_twin_agreement",
    "plot_weight",
    "style",
]
