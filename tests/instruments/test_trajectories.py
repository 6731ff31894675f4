from __future__ import annotations

import copy
import zlib

import numpy as np
import torch
from torch import nn

from bvit_analysis.config import WatchConfig
from bvit_analysis.instruments.base import Rows, Watched
from bvit_analysis.instruments.counters import SignTracker
from bvit_analysis.instruments.trajectories import TrajectoryInstrument, start_latents
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


def walk(instrument: TrajectoryInstrument, tracker: SignTracker, layers: list, steps: int) -> None:
    """Move weights so that some flip often, and let all be seen as a panel does."""
    for t in range(1, steps + 1):
        draw = torch.Generator().manual_seed(t)
        with torch.no_grad():
            for layer in layers:
                layer.weight.grad = torch.randn(layer.weight.shape, generator=draw)
                layer.weight.sub_(0.1 * layer.weight.grad)
        instrument.gather_gradients()
        tracker.update()
        instrument.update()
        instrument.record(Rows(t))


def panel(number: int, size: int = 20, **config: int) -> tuple:
    layer = nn.Linear(size, size, bias=False)
    site = Site(
        name="layer",
        kind="weight",
        module=layer,
        shape=(size, size),
        effective_sign=lambda m: m.weight,
        latent=layer.weight,
    )
    watched = Watched(
        layer, {0: site}, WatchConfig(trajectory_weights=number, **config), total_steps=40
    )
    instrument = TrajectoryInstrument()
    instrument.attach(watched)
    instrument.tracker.start()
    return [layer], instrument.tracker, instrument


def test_the_first_of_a_larger_sample_are_those_of_a_smaller_one() -> None:
    small, large = (set(panel(number)[2]._weight.tolist()) for number in (8, 64))
    generator = np.random.default_rng([0, zlib.crc32(b"layer")])
    assert small == set(generator.choice(400, 8, replace=False, shuffle=False).tolist())
    assert small < large
    assert len(large) == 64
    assert len(panel(64, size=5)[2]._weight) == 25


def test_the_restless_are_those_that_flipped_most_and_are_marked_apart() -> None:
    layers, tracker, instrument = panel(16)
    first = set(instrument._weight.tolist())
    chosen: dict[int, list[int]] = {}
    for quarter in (10, 20, 30):
        walk_from = tracker.steps
        for t in range(walk_from + 1, quarter + 1):
            draw = torch.Generator().manual_seed(t)
            with torch.no_grad():
                layers[0].weight.grad = torch.randn(layers[0].weight.shape, generator=draw)
                layers[0].weight.sub_(0.1 * layers[0].weight.grad)
            instrument.gather_gradients()
            tracker.update()
            gross = tracker.gross(0).numpy()
            followed = first | {index for indices in chosen.values() for index in indices}
            instrument.update()
            instrument.record(Rows(t))
        order = [i for i in np.argsort(-gross, kind="stable").tolist() if i not in followed]
        chosen[quarter] = order[:2]
    columns = instrument.drain()
    for quarter, indices in chosen.items():
        rows = columns["since"] == quarter
        assert set(columns["index"][rows].tolist()) == set(indices)
        assert columns["step"][rows].min() == quarter
        unknown = np.isnan(columns["gradient"][rows])
        assert (unknown == (columns["step"][rows] == quarter)).all()
    assert set(columns["index"][columns["since"] == 0].tolist()) == first
    assert (np.isfinite(columns["gradient"][columns["since"] == 0])).all()


def test_a_state_goes_on_with_the_same_restless() -> None:
    layers, tracker, instrument = panel(16)
    walk(instrument, tracker, layers, 25)
    state = instrument.state_dict()
    whole = instrument._layout
    other = panel(16)[2]
    other.load_state_dict(state)
    assert (other._layout.index == whole.index).all()
    assert (other._layout.since == whole.since).all()
    assert len(state["restless"]) == 4


def test_a_small_budget_follows_fewer_weights_and_says_so() -> None:
    said = panel(64, trajectory_bytes=40 * 9 * 20)[2].describe()
    assert said["asked_for"] == 64
    assert 8 < said["random_a_site"] < 20
    assert panel(64, trajectory_bytes=0)[2].describe()["random_a_site"] == 8
    assert panel(4, trajectory_bytes=0)[2].describe()["random_a_site"] == 4


def test_start_latents_are_whole_rows_of_what_the_sign_is_taken_of() -> None:
    (layer,), _, instrument = panel(8, size=90)
    before = layer.weight.detach().clone().numpy()
    instrument.start()
    start = instrument.drain_starts()["layer"]
    assert start.latent.size >= 4096
    np.testing.assert_array_equal(start.latent, before[start.rows])
    assert start.argument == "latent"
    for function, argument in (
        (lambda m: m.weight - m.weight.mean(1, keepdim=True), "centred"),
        (lambda m: -m.weight, "other"),
    ):
        site = Site(
            name="layer",
            kind="weight",
            module=layer,
            shape=(90, 90),
            effective_sign=function,
            latent=layer.weight,
        )
        found = start_latents(site, 0)
        assert found is not None
        assert found.argument == argument
