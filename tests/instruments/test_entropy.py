from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import scipy.stats
import torch
from torch import nn

from bvit_analysis import measures
from bvit_analysis.errors import ConfigError
from bvit_analysis.instruments.base import Rows
from bvit_analysis.instruments.entropy import (
    ActivationListener,
    EntropyInstrument,
    by_channel,
    moments_of,
)
from bvit_analysis.instruments.listening import Tap
from bvit_analysis.layers import BinaryProbabilities, BinarySign, ElasticRule, StaticShift
from bvit_analysis.sites import Site, find_sites


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.sign = BinarySign(StaticShift(5), dim=5, gradient="clip")
        self.probabilities = BinaryProbabilities(2, tokens=6, rule=ElasticRule())
        with torch.no_grad():
            self.sign.shift.bias.copy_(torch.tensor([0.0, 0.5, 9.0, -9.0, 0.1]))

    def forward(self, x: torch.Tensor, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.sign(x), self.probabilities(scores)


def listening(net: nn.Module) -> tuple[ActivationListener, dict[int, Site]]:
    sites = dict(enumerate(find_sites(net)))
    listener = ActivationListener(sites)
    listener.listen()
    return listener, sites


def inputs(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(3, 6, 5, generator=generator)
    x[0, 0] = torch.tensor([0.0, -0.0, -9.0, 9.0, 0.0]) - torch.tensor([0, 0.5, 9, -9, 0.1])
    return x, torch.randn(3, 2, 6, 6, generator=generator)


def rows_of(listener: ActivationListener) -> Rows:
    rows = Rows(1)
    EntropyInstrument(listener, every=1).record(rows)
    return rows


def test_entropy_equals_scipy_on_the_same_counts() -> None:
    net = Net()
    listener, _ = listening(net)
    batches = [inputs(0), inputs(1)]  # two micro-batches of one step
    outputs = [net(*batch) for batch in batches]
    listener.deafen()
    rows = rows_of(listener)

    signs = torch.cat([o[0] for o in outputs]).detach().reshape(-1, 5).numpy()
    bits = torch.cat([o[1] for o in outputs]).detach().movedim(1, -1).reshape(-1, 2).numpy()
    for site_id, values in ((0, signs > 0), (1, bits > 0)):
        counts = np.stack([(~values).sum(0), values.sum(0)])  # (2, C)
        plugin = scipy.stats.entropy(counts, base=2, axis=0)
        corrected = plugin + ((counts > 0).sum(0) - 1) / (2 * len(values) * np.log(2))
        row = rows.metrics[site_id]
        assert row["sign_entropy_plugin_bits"] == pytest.approx(plugin.mean(), rel=1e-12)
        assert row["sign_entropy_bits"] == pytest.approx(corrected.mean(), rel=1e-12)
        assert row["positive_share"] == pytest.approx(values.mean(), rel=1e-12)
        assert row["constant_share"] == ((counts == 0).any(0)).mean()
        assert row["near_constant_share"] == (corrected < 0.5).mean()
    spread = torch.cat([batch[0] for batch in batches]) + net.sign.shift.bias.detach()
    spread = spread.reshape(-1, 5).double()
    expected = (spread.mean(0) / spread.std(0, correction=0)).std(correction=0)
    assert rows.metrics[0]["channel_spread"] == pytest.approx(float(expected), rel=1e-5)
    assert "channel_spread" not in rows.metrics[1]
    assert [int(counts.sum()) for counts in rows.histograms["counts"]] == [5, 2]


def test_micro_batches_add_up_to_the_whole_batch() -> None:
    x = torch.randn(9000, 4)
    whole, parts = moments_of(x), moments_of(x[:1000]) + moments_of(x[1000:])
    assert whole.n == parts.n == 9000
    assert torch.equal(whole.positive, parts.positive)
    torch.testing.assert_close(whole.square, parts.square, rtol=1e-6, atol=0)
    torch.testing.assert_close(whole.absolute, x.double().abs().sum(0), rtol=1e-6, atol=0)


def test_only_training_passes_of_the_watched_module_are_heard() -> None:
    net = Net()
    listener, _ = listening(net)
    copied = copy.deepcopy(net)
    copied(*inputs(0))
    net.eval()(*inputs(0))
    with torch.no_grad():
        net.train()(*inputs(0))
    assert listener.moments == {}
    pickle.loads(pickle.dumps(net)).train()(*inputs(0))
    assert listener.moments == {}
    net(*inputs(0))
    assert set(listener.moments) == {0, 1}
    listener.deafen()
    before = listener.moments[0]
    net(*inputs(1))
    assert listener.moments[0] is before
    listener.remove()
    assert not net.sign.shift._forward_hooks


def test_a_tap_dies_with_its_listener() -> None:
    net = Net()
    listener, _ = listening(net)
    del listener
    net(*inputs(0))
    Tap()(net, (), {}, None)


def test_heads_become_channels() -> None:
    net = Net()
    site = find_sites(net)[0]
    x = torch.randn(2, 5, 7, 1)  # (B, h, N, d)
    torch.testing.assert_close(by_channel(x, site), x[..., 0].transpose(1, 2).reshape(-1, 5))
    with pytest.raises(ConfigError, match=r"sign has 5 channels.*shape \(2, 3\)"):
        by_channel(torch.randn(2, 3), site)


def test_memory_of_a_sampled_step_does_not_grow() -> None:
    net = Net()
    listener, _ = listening(net)
    sizes = []
    for seed in range(5):
        net(*inputs(seed))
        sizes.append(sum(m.total.numel() for m in listener.moments.values()))
    assert set(sizes) == {7}
    assert listener.moments[0].n == 5 * 18
    assert not listener.moments[0].total.requires_grad


def test_null_of_a_gaussian_channel() -> None:
    m = moments_of(torch.randn(20_000, 3, generator=torch.Generator().manual_seed(0)))
    error = measures.binarization_error_from_sums(m.n, m.total, m.square, m.absolute, m.positive)
    torch.testing.assert_close(
        error, torch.full((3,), 1 - 2 / torch.pi).double(), atol=0.01, rtol=0
    )
