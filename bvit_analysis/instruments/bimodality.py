"""Bimodality of the latent weights, and their histograms over training."""

from __future__ import annotations

from typing import final

import torch

from bvit_analysis.instruments.base import Instrument, Rows, Watched
from bvit_analysis.measures import (
    histogram,
    mass_near_zero,
    normalise_rows,
    otsu_ratio,
    skew_and_kurtosis,
    valley_depth,
)
from bvit_analysis.records.columns import NEAR_ZERO, catalogued
from bvit_analysis.sites import Site

_LO, _HI, _BINS = -4.0, 4.0, 81


@final
class BimodalityInstrument(Instrument):
    """Describes the distribution of each weight site's latent weights, each row divided by its own mean size.

    u = w / mean_row|w| with w the argument of the sign (centred where the binarizer centres). weight_scale is the
    mean over rows of mean_row|w|, in weight units. The histogram `latent_normalised` has 81 bins on [-4, 4].

    Args:
        sites: Weight sites by site_id; None takes those of the watch.
        every: Steps between rows; None takes distribution_every of the watch.
    """

    measures = catalogued(
        "bimodality_coefficient",
        "kurtosis",
        "otsu_ratio",
        *(f"mass_near_zero_{name}" for name in NEAR_ZERO),
        "valley_depth",
        "weight_scale",
    )
    cadence = "distribution_every"
    from_start = True

    def __init__(self, sites: dict[int, Site] | None = None, *, every: int | None = None) -> None:
        super().__init__(every)
        self.sites = sites or {}

    def attach(self, watched: Watched) -> None:
        super().attach(watched)
        self.sites = watched.weights

    @torch.no_grad()
    def record(self, rows: Rows) -> None:
        for site_id, site in self.sites.items():
            w = site.effective()
            w = w.reshape(len(w), -1)
            u = normalise_rows(w)
            counts = histogram(u, _LO, _HI, _BINS)
            skew, kurtosis = skew_and_kurtosis(u)
            # A large layer takes longest for what each measure would do anew.
            size = u.double().abs()
            rows.put(
                site_id,
                bimodality_coefficient=(skew * skew + 1) / kurtosis,
                kurtosis=kurtosis,
                otsu_ratio=otsu_ratio(size),
                valley_depth=valley_depth(counts, _LO, _HI),
                weight_scale=float(w.abs().mean(dtype=torch.float64)),
                **{
                    f"mass_near_zero_{name}": mass_near_zero(size, d)
                    for name, d in NEAR_ZERO.items()
                },
            )
            rows.histogram(site_id, "latent_normalised", _LO, _HI, counts)
