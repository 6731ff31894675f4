from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from bvit_analysis.errors import CheckpointError
from bvit_analysis.instruments.counters import BUCKETS, ByteCounter, SignTracker
from bvit_analysis.records.columns import FLIP_BACK_STEPS
from bvit_analysis.sites import Site

SHAPES = [(4, 16), (3, 5), (1, 1), (7, 64), (2, 3, 2, 2)]


class Layer(nn.Module):
    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(shape))


def centred(layer: Layer) -> torch.Tensor:
    dims = tuple(range(1, layer.weight.ndim))
    return layer.weight - layer.weight.mean(dims, keepdim=True)


def make_sites(shapes: list[tuple[int, ...]], effective=lambda layer: layer.weight) -> list[Site]:
    layers = [Layer(shape) for shape in shapes]
    return [
        Site(
            name=f"layer{i}",
            kind="weight",
            module=layer,
            shape=tuple(layer.weight.shape),
            effective_sign=effective,
            latent=layer.weight,
        )
        for i, layer in enumerate(layers)
    ]


def histories(sites: list[Site], steps: int, *, share: float, seed: int = 0) -> list[np.ndarray]:
    """Weights before and after each step, (steps + 1, ...); values include 0.0, -0.0, NaN and infinities."""
    rng = np.random.default_rng(seed)
    values = np.array([1.0, 0.5, 0.0, -0.0, -1e-45, -0.5, -1.0, np.nan, np.inf, -np.inf])
    result = []
    for site in sites:
        history = np.empty((steps + 1, *site.shape), np.float32)
        history[0] = rng.choice(values, site.shape)
        for t in range(1, steps + 1):
            moved = rng.random(site.shape) < share
            history[t] = np.where(moved, rng.choice(values, site.shape), history[t - 1])
        result.append(history)
    return result


def set_weights(sites: list[Site], found: list[np.ndarray], t: int) -> None:
    with torch.no_grad():
        for site, history in zip(sites, found, strict=True):
            site.latent.copy_(torch.from_numpy(history[t]))


def effective_signs(sites: list[Site], found: list[np.ndarray]) -> list[np.ndarray]:
    """The loop a reader would write: keep every weight tensor, ask each for its signs."""
    result = [[] for _ in sites]
    for t in range(len(found[0])):
        set_weights(sites, found, t)
        for site, signs in zip(sites, result, strict=True):
            signs.append(np.where(site.effective().numpy() >= 0, 1, -1))
    return [np.stack(signs) for signs in result]


def brute_buckets(signs: np.ndarray, since: int) -> np.ndarray:
    """Flips of steps after `since` by the first of FLIP_BACK_STEPS that holds the gap to the weight's flip before."""
    flat = signs.reshape(len(signs), -1)
    counts = np.zeros(BUCKETS, np.int64)
    for weight in range(flat.shape[1]):
        before = None
        for t in range(1, len(flat)):
            if flat[t, weight] != flat[t - 1, weight]:
                if t > since:
                    gap = np.inf if before is None else t - before
                    counts[
                        next((i for i, k in enumerate(FLIP_BACK_STEPS) if gap <= k), BUCKETS - 1)
                    ] += 1
                before = t
    return counts


@pytest.mark.parametrize(
    "effective", [lambda layer: layer.weight, centred], ids=["plain", "centred"]
)
@pytest.mark.parametrize("share", [0.01, 0.9])
def test_tracker_equals_a_loop_over_saved_weights(effective, share: float) -> None:
    sites = make_sites(SHAPES, effective)
    steps, since, late_after = 270, 130, 200
    found = histories(sites, steps, share=share)
    if effective is centred:
        found = [np.nan_to_num(history, nan=0.25, posinf=2, neginf=-2) for history in found]
    signs = effective_signs(sites, found)

    set_weights(sites, found, 0)
    tracker = SignTracker(sites, late_after=late_after)
    tracker.start()
    for t in range(1, steps + 1):
        set_weights(sites, found, t)
        tracker.update()
        if t == since:
            tracker.window.zero_()

    window = tracker.window.view(-1, BUCKETS).numpy()
    for position, history in enumerate(signs):
        start, stop = tracker.spans[position]
        flips = history[1:] != history[:-1]
        gross = tracker.gross(position).view(sites[position].shape).numpy()
        np.testing.assert_array_equal(gross, flips.sum(0))
        late = tracker.late.dense(start, stop).view(sites[position].shape).numpy()
        np.testing.assert_array_equal(late, flips[late_after:].sum(0))
        assert tracker.net(position) == (history[-1] != history[0]).sum()
        first = tracker.first(position).view(sites[position].shape).numpy()
        np.testing.assert_array_equal(first, history[0] == 1)
        last = tracker.signs(torch.arange(start, stop)).view(sites[position].shape).numpy()
        np.testing.assert_array_equal(last, history[-1])
        histogram = tracker.count_histogram(position).numpy()
        np.testing.assert_array_equal(histogram, np.bincount(flips.sum(0).ravel()))
        np.testing.assert_array_equal(window[position], brute_buckets(history, since))


def test_zero_and_minus_zero_are_positive_and_nan_is_negative() -> None:
    (site,) = make_sites([(1, 4)])
    with torch.no_grad():
        site.latent.copy_(torch.tensor([[0.0, -0.0, float("nan"), -1e-45]]))
    tracker = SignTracker([site])
    tracker.start()
    assert tracker.signs(torch.arange(4)).tolist() == [1, 1, -1, -1]


@pytest.mark.slow
def test_counts_are_exact_far_beyond_a_byte() -> None:
    sites = make_sites([(8, 64)])
    tracker = SignTracker(sites, late_after=100)
    with torch.no_grad():
        sites[0].latent.fill_(1)
    tracker.start()
    always, often = torch.zeros(8, 64, dtype=torch.bool), torch.arange(64) < 3
    always[0, :5] = True
    steps = 17_000  # units of 128 fill their own byte as well
    expected = torch.zeros(8, 64, dtype=torch.int64)
    flip_always = torch.where(always, -1.0, 1.0)
    flip_often = torch.where(always | often, -1.0, 1.0)
    for t in range(1, steps + 1):
        both = t % 3 == 0
        with torch.no_grad():
            sites[0].latent.mul_(flip_often if both else flip_always)
        expected += (always | often) if both else always
        tracker.update()
    assert expected.max() == steps
    np.testing.assert_array_equal(tracker.gross(0).view(8, 64).numpy(), expected.numpy())
    late = tracker.late.dense(0, 512).view(8, 64)
    assert late[0, 0] == steps - 100
    assert tracker.counts.high is not None
    np.testing.assert_array_equal(
        tracker.count_histogram(0).numpy(), np.bincount(expected.numpy().ravel())
    )


def test_byte_counter_stays_exact_with_a_sparse_carry() -> None:
    counter = ByteCounter(torch.zeros(4096, dtype=torch.uint8))
    index = torch.tensor([5, 4000])
    counter.add(index, torch.tensor([1000, 40_000]))
    counter.add(index, torch.tensor([127, 1]))
    assert counter.high is None
    assert counter.dense(0, 4096)[index].tolist() == [1127, 40_001]
    assert counter.has_carry(0, 10)
    assert not counter.has_carry(10, 4000)
    assert int(counter.dense(0, 4096).sum()) == 41_128


def test_state_round_trip_equals_an_uninterrupted_count() -> None:
    sites = make_sites(SHAPES)
    found = histories(sites, 300, share=0.8, seed=1)
    whole, resumed = (SignTracker(sites, late_after=150) for _ in range(2))
    set_weights(sites, found, 0)
    whole.start()
    for t in range(1, 301):
        set_weights(sites, found, t)
        whole.update()
        if t > 180:
            resumed.update()
        if t == 180:
            state = {name: value.clone() for name, value in whole.tensors().items()}
            resumed.load(state, 180)
    assert resumed.tensors().keys() == whole.tensors().keys()
    for name, value in whole.tensors().items():
        assert torch.equal(value, resumed.tensors()[name]), name


def test_state_of_other_sites_is_refused() -> None:
    one, other = SignTracker(make_sites([(4, 4)])), SignTracker(make_sites([(16, 16)]))
    with pytest.raises(CheckpointError, match="state is of 64 weights, expected 256"):
        other.load(one.tensors(), 0)


def test_state_takes_at_most_four_bytes_a_weight() -> None:
    sites = make_sites([(192, 64), (64, 64), (256, 64), (64, 256)] * 4)
    tracker = SignTracker(sites, late_after=1)
    tracker.start()
    for _ in range(3):
        with torch.no_grad():
            for site in sites:
                site.latent.neg_().sub_(1e-3)
        tracker.update()
    assert tracker.late is not None
    assert tracker.state_bytes() <= 4 * sum(site.latent.numel() for site in sites)


def test_no_sites_is_no_error() -> None:
    tracker = SignTracker([])
    tracker.start()
    tracker.update()
    assert tracker.steps == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_equals_cpu() -> None:
    here, there = make_sites(SHAPES), make_sites(SHAPES)
    for site in there:
        site.module.cuda()
    there = [
        Site(
            name=s.name,
            kind="weight",
            module=s.module,
            shape=s.shape,
            effective_sign=s.effective_sign,
            latent=s.module.weight,
        )
        for s in there
    ]
    found = histories(here, 200, share=0.5)
    trackers = []
    for sites in (here, there):
        set_weights(sites, found, 0)
        tracker = SignTracker(sites, late_after=100)
        tracker.start()
        for t in range(1, 201):
            set_weights(sites, found, t)
            tracker.update()
        trackers.append({name: value.cpu() for name, value in tracker.tensors().items()})
    for name, value in trackers[0].items():
        assert torch.equal(value, trackers[1][name]), name
