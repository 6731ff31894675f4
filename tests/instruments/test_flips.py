from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from bvit_analysis import measures
from bvit_analysis.errors import CheckpointError
from bvit_analysis.instruments.base import Rows
from bvit_analysis.instruments.flips import FlipInstrument, late_start
from bvit_analysis.sites import Site


def make_sites(shapes: list[tuple[int, int]], *, centred: bool = False) -> dict[int, Site]:
    def effective(layer: nn.Linear) -> torch.Tensor:
        return layer.weight - layer.weight.mean(1, keepdim=True) if centred else layer.weight

    layers = [nn.Linear(i, o, bias=False) for o, i in shapes]
    return {
        3 * n: Site(
            name=f"layer{n}",
            kind="weight",
            module=layer,
            shape=tuple(layer.weight.shape),
            effective_sign=effective,
            latent=layer.weight,
        )
        for n, layer in enumerate(layers)
    }


def walk(sites: dict[int, Site], seed: int) -> None:
    """Move the weights a little, some of them onto the boundary."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for site in sites.values():
            move = torch.randn(site.shape, generator=generator)
            site.latent.add_(0.1 * move).clamp_(-0.3, 0.3)
            hit = torch.rand(site.shape, generator=generator) < 0.05
            site.latent[hit] = torch.where(move[hit] > 0, 0.0, -0.0)


def record(instrument: FlipInstrument) -> dict[int, dict[str, float]]:
    rows = Rows(instrument.steps)
    instrument.record(rows)
    return rows.metrics


@pytest.mark.parametrize("centred", [False, True])
def test_rows_equal_measures_of_saved_signs(centred: bool) -> None:
    sites = make_sites([(6, 20), (3, 7)], centred=centred)
    every, steps = 20, 120
    instrument = FlipInstrument(sites, every=every, threshold=0.1, total_steps=steps)
    instrument.start()
    weights = {i: [site.effective().clone()] for i, site in sites.items()}
    for t in range(1, steps + 1):
        walk(sites, t)
        for i, site in sites.items():
            weights[i].append(site.effective().clone())
        instrument.update()
        if not instrument.is_due(t):
            continue
        for i, row in record(instrument).items():
            signs = torch.stack(weights[i]).numpy() >= 0
            window = signs[t - every :]
            flips = window[1:] != window[:-1]
            gross, net = measures.gross_flips(signs), measures.net_flips(signs)
            update = (weights[i][-1] - weights[i][-2]).double().abs().mean()
            expected = {
                "flip_rate": flips.mean(),
                "gross_flips": gross.mean(),
                "net_flips": net.mean(),
                "oscillating_flips": measures.oscillating_flips(signs).mean(),
                "flip_flop_ratio": measures.flip_flop_ratio(gross, net),
                "frequent_share": measures.frequent_share(gross, t, 0.1),
                "concentration": measures.concentration(gross),
                "near_threshold_share": measures.near_threshold_share(weights[i][-1], update),
            }
            for name, value in expected.items():
                assert row[name] == pytest.approx(value, rel=1e-12), (t, i, name)


def test_flip_back_is_the_share_of_flips_that_undo_a_recent_one() -> None:
    sites = make_sites([(5, 40)])
    every = 25
    instrument = FlipInstrument(sites, every=every)
    instrument.start()
    history = [sites[0].effective() >= 0]
    for t in range(1, 201):
        walk(sites, t)
        history.append(sites[0].effective() >= 0)
        instrument.update()
        if not instrument.is_due(t):
            continue
        row = record(instrument)[0]
        signs = torch.stack(history).flatten(1).numpy()
        flips = signs[1:] != signs[:-1]  # flips[s] is of step s + 1
        for k in (1, 5, 10, 50, 100):
            back = total = 0
            for s in range(t - every, t):
                total += flips[s].sum()
                back += (flips[s] & flips[max(0, s - k) : s].any(0)).sum()
            expected = back / total if t - every >= k else math.nan
            assert row[f"flip_back_{k}"] == pytest.approx(expected, nan_ok=True), (t, k)


def test_flip_back_mirrors_the_forward_probability() -> None:
    sites = make_sites([(5, 40)])
    steps, k = 60, 5
    instrument = FlipInstrument(sites, every=k)
    instrument.start()
    history = [sites[0].effective() >= 0]
    back = total = 0.0
    for t in range(1, steps + 1):
        walk(sites, t)
        history.append(sites[0].effective() >= 0)
        instrument.update()
        if instrument.is_due(t):
            row = record(instrument)[0]
            if t > k:
                back += row["flip_back_5"] * row["flip_rate"]
                total += row["flip_rate"]
    mirrored = np.stack(history[::-1])
    assert back / total == pytest.approx(measures.flip_back_probability(mirrored, k))


def test_without_flips_shares_of_flips_are_unknown() -> None:
    sites = make_sites([(2, 8)])
    instrument = FlipInstrument(sites, every=1)
    instrument.start()
    instrument.update()
    record(instrument)
    instrument.update()
    row = record(instrument)[0]
    assert row["flip_rate"] == row["flip_flop_ratio"] == row["near_threshold_share"] == 0
    assert math.isnan(row["flip_back_1"])
    assert math.isnan(row["concentration"])


@pytest.mark.parametrize("every", [1, 2, 7])
def test_resumed_rows_equal_uninterrupted_ones(every: int) -> None:
    sites = make_sites([(6, 30), (2, 9)])
    start = [site.latent.detach().clone() for site in sites.values()]

    def run(stop_at: int | None) -> list[dict[int, dict[str, float]]]:
        with torch.no_grad():
            for site, weight in zip(sites.values(), start, strict=True):
                site.latent.copy_(weight)
        instrument = FlipInstrument(sites, every=every, total_steps=40)
        instrument.start()
        rows = []
        for t in range(1, 41):
            walk(sites, t)
            instrument.update()
            if instrument.is_due(t):
                rows.append(record(instrument))
            if t == stop_at:
                state = {name: value.clone() for name, value in instrument.state_dict().items()}
                instrument = FlipInstrument(sites, every=every, total_steps=40)
                instrument.load_state_dict(state)
        rows.append({n: instrument.counts(n) for n in range(2)})
        return rows

    whole = run(None)
    for stop_at in (6, 7, 20, 39):
        np.testing.assert_equal(run(stop_at), whole)


def test_counts_are_what_is_stored() -> None:
    sites = make_sites([(2, 3)])
    unknown = FlipInstrument(sites, every=10)
    unknown.start()
    first = np.where(sites[0].effective().numpy() >= 0, 1, -1)
    with torch.no_grad():
        sites[0].latent[0].neg_()
    unknown.update()
    counts = unknown.counts(0)
    np.testing.assert_array_equal(counts["gross"], [[1, 1, 1], [0, 0, 0]])
    np.testing.assert_array_equal(counts["first_sign"], first)
    np.testing.assert_array_equal(counts["last_sign"], first * [[-1], [1]])
    np.testing.assert_array_equal(counts["late"], -np.ones((2, 3)))
    assert counts["steps"] == 1
    known = FlipInstrument(sites, every=10, total_steps=100)
    known.start()
    np.testing.assert_array_equal(known.counts(0)["late"], np.zeros((2, 3)))


@pytest.mark.parametrize(("total", "start"), [(100, 90), (1200, 1080), (9, 8), (1, 0)])
def test_the_last_tenth(total: int, start: int) -> None:
    assert late_start(total) == start


def test_state_without_parts_is_refused() -> None:
    instrument = FlipInstrument(make_sites([(2, 3)]), every=10)
    with pytest.raises(CheckpointError, match="lacks"):
        instrument.load_state_dict({"progress": torch.tensor([1, 0])})
