from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from bvit_analysis import measures
from bvit_analysis.instruments.base import Rows
from bvit_analysis.instruments.bimodality import BimodalityInstrument
from bvit_analysis.sites import Site


def centred(layer: nn.Module) -> torch.Tensor:
    weight = layer.weight.flatten(1)
    return (weight - weight.mean(1, keepdim=True)).view_as(layer.weight)


@pytest.mark.parametrize("layer", [nn.Linear(50, 12), nn.Conv2d(4, 6, 3)], ids=["linear", "conv"])
def test_figures_are_of_rows_divided_by_their_own_size(layer: nn.Module) -> None:
    with torch.no_grad():
        layer.weight.mul_(
            torch.logspace(-3, 3, len(layer.weight)).view(-1, *[1] * (layer.weight.ndim - 1))
        )
    site = Site(
        name="layer",
        kind="weight",
        module=layer,
        shape=tuple(layer.weight.shape),
        effective_sign=centred,
        latent=layer.weight,
    )
    rows = Rows(7)
    BimodalityInstrument({4: site}, every=7).record(rows)

    w = layer.weight.detach().double().flatten(1).numpy()
    w = w - w.mean(1, keepdims=True)
    u = w / np.abs(w).mean(1, keepdims=True)
    moments = [((u - u.mean()) ** k).mean() for k in (2, 3, 4)]
    skew, kurtosis = moments[1] / moments[0] ** 1.5, moments[2] / moments[0] ** 2
    counts, _ = np.histogram(np.clip(u, -4, 4 - 1e-9), 81, (-4, 4))
    expected = {
        "kurtosis": kurtosis,
        "bimodality_coefficient": (skew**2 + 1) / kurtosis,
        "otsu_ratio": np.abs(u).mean() ** 2 / (u**2).mean(),
        "mass_near_zero_005": (np.abs(u) < 0.05).mean(),
        "mass_near_zero_010": (np.abs(u) < 0.1).mean(),
        "mass_near_zero_020": (np.abs(u) < 0.2).mean(),
        "valley_depth": measures.valley_depth(counts, -4, 4),
        "weight_scale": np.abs(w).mean(),
    }
    assert rows.metrics[4] == pytest.approx(expected, rel=1e-5)
    assert rows.histograms["kind"] == ["latent_normalised"]
    assert rows.histograms["site_id"] == [4]
    np.testing.assert_array_equal(rows.histograms["counts"][0], counts)
