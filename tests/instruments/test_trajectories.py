from __future__ import annotations

import copy

import numpy as np
import torch
from torch import nn

from bvit_analysis.instruments.base import Rows
from bvit_analysis.instruments.counters import SignTracker
from bvit_analysis.instruments.trajectories import TrajectoryInstrument
from bvit_analysis.sites import Site


def make(every: int = 1, number: int = 3, seed: int = 0):
    layers = [nn.Linear(6, 4, bias=False), nn.Linear(2, 1, bias=False)]
    sites = {
        7 * i: Site(
            name=f"layer{i}",
            kind="weight",
            module=layer,
            shape=tuple(layer.weight.shape),
            effective_sign=lambda m: m.weight,
            latent=layer.weight,
        )
        for i, layer in enumerate(layers)
    }
    tracker = SignTracker(list(sites.values()))
    tracker.start()
    return (
        layers,
        tracker,
        TrajectoryInstrument(sites, every=every, number=number, seed=seed, tracker=tracker),
    )


def test_rows_are_exact_with_accumulated_gradients() -> None:
    layers, tracker, instrument = make(every=2)
    handles = instrument.hook_gradients()
    expected = []
    for t in range(1, 5):
        for _ in range(2):  # two micro-batches
            for layer in layers:
                layer(torch.randn(5, layer.in_features)).square().sum().backward()
        gradients = [layer.weight.grad.clone() for layer in layers]
        with torch.no_grad():
            for layer in layers:
                layer.weight.sub_(0.1 * layer.weight.grad)
                layer.weight.grad = None
        tracker.update()
        if instrument.is_due(t):
            instrument.record(Rows(t))
            expected.append((t, [layer.weight.detach().clone() for layer in layers], gradients))
    for handle in handles:
        handle.remove()
    columns = instrument.drain()
    assert instrument.drain() == {}
    assert columns["step"].tolist() == [2] * 5 + [4] * 5
    for row in range(10):
        t, weights, gradients = expected[row // 5]
        position = columns["site_id"][row] // 7
        index = columns["index"][row]
        value = weights[position].view(-1)[index]
        assert columns["latent"][row] == value.numpy()
        assert columns["gradient"][row] == gradients[position].view(-1)[index].numpy()
        assert columns["sign"][row] == (1 if value >= 0 else -1)


def test_the_sample_is_fixed_by_the_seed_and_draws_from_no_global_generator() -> None:
    before = torch.get_rng_state()
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    first = [make(seed=seed)[2]._weight.tolist() for seed in (0, 0, 1)]
    assert first[0] == first[1] != first[2]
    assert first[0][3:] == [0, 1]
    np.testing.assert_array_equal(state, np.random.get_state()[1])  # noqa: NPY002
    torch.set_rng_state(before)


def test_a_missing_gradient_is_unknown_and_zero_weights_record_nothing() -> None:
    _, tracker, instrument = make()
    tracker.update()
    instrument.record(Rows(1))
    assert np.isnan(instrument.drain()["gradient"]).all()
    _, tracker, nothing = make(number=0)
    nothing.record(Rows(1))
    assert nothing.drain() == {}


def test_copied_layers_do_not_feed_it() -> None:
    layers, tracker, instrument = make()
    instrument.hook_gradients()
    copied = copy.deepcopy(layers[0])
    copied(torch.ones(1, 6)).sum().backward()
    tracker.update()
    instrument.record(Rows(1))
    assert np.isnan(instrument.drain()["gradient"]).all()
