"""Activations and attention that somebody else binarizes: recorded rows against the tensors that were really seen.

The test's own hooks keep the input and the output of each foreign binarizer in every training pass of a watched
training; scipy and numpy then say what the rows of the record should be.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor, nn
from torch.nn import functional

from bvit_analysis.config import WatchConfig
from bvit_analysis.errors import ConfigError
from bvit_analysis.records import Run, load_run
from bvit_analysis.sites import find_sites
from bvit_analysis.tables import channel_entropy, channel_steps
from bvit_analysis.watch import Watch
from tests.support.foreign_run import (
    BATCH,
    EVERY,
    HEADS,
    STEPS,
    TOKENS,
    WIDTH,
    Bits,
    Sign,
    watched_model,
)

Seen = dict[str, list[tuple[np.ndarray, np.ndarray]]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Seen]:
    """A watched run, and by binarizer what entered and left it in each training pass, channels last."""
    seen: Seen = {"sign": [], "bits": []}

    def before(model: nn.Module) -> None:
        def keep(name: str, last: int):
            def hook(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
                shift = module.shift.detach() if name == "sign" else 0.0
                x = inputs[0].detach() + shift
                pair = (one.detach().movedim(last, -1).clone() for one in (x, output))
                seen[name].append(tuple(t.reshape(-1, t.shape[-1]).double().numpy() for t in pair))

            return hook

        model.sign.register_forward_hook(keep("sign", -1))
        model.bits.register_forward_hook(keep("bits", 1))

    run = load_run(watched_model(tmp_path_factory.mktemp("watched") / "run", before=before))
    return run, seen


def argument(name: str, x: np.ndarray) -> np.ndarray:
    """Return what is compared with 0, (elements, channels), from what entered."""
    if name == "sign":
        return x
    rows = x.reshape(BATCH, TOKENS, TOKENS, HEADS)  # (B, query, key, head)
    p = np.exp(rows) / np.exp(rows).sum(2, keepdims=True)
    return (p - 1 / TOKENS).reshape(-1, HEADS)


def recorded_steps(run: Run, name: str) -> list[int]:
    rows = run.sites[run.sites["site"] == name]
    return rows.loc[rows["sign_entropy_bits"].notna(), "step"].tolist()


def test_every_sampled_pass_was_seen(trained: tuple[Run, Seen]) -> None:
    run, seen = trained
    for name in ("sign", "bits"):
        assert len(seen[name]) == STEPS
        assert recorded_steps(run, name) == [*range(EVERY, STEPS + 1, EVERY)]
        assert channel_steps(run, name) == recorded_steps(run, name)


@pytest.mark.parametrize("name", ["sign", "bits"])
def test_entropy_equals_scipy_on_the_outputs_channel_by_channel(
    trained: tuple[Run, Seen], name: str
) -> None:
    run, seen = trained
    table = run.sites[run.sites["site"] == name].set_index("step")
    for step in recorded_steps(run, name):
        made = seen[name][step - 1][1]  # of the pass that this step's update came from
        positive = (made > 0).sum(0)
        counts = np.stack([positive, len(made) - positive])
        plain = scipy.stats.entropy(counts, base=2, axis=0)
        corrected = plain + ((counts > 0).sum(0) - 1) / (2 * len(made) * np.log(2))
        single = channel_entropy(run, name, step)
        np.testing.assert_allclose(single["entropy_bits"], corrected, rtol=1e-12)
        np.testing.assert_allclose(single["positive_share"], positive / len(made), rtol=1e-12)
        row = table.loc[step]
        assert row["sign_entropy_plugin_bits"] == pytest.approx(plain.mean(), rel=1e-6)
        assert row["sign_entropy_bits"] == pytest.approx(corrected.mean(), rel=1e-6)
        assert row["positive_share"] == pytest.approx(positive.mean() / len(made), rel=1e-6)
        assert row["constant_share"] == (counts == 0).any(0).mean()
        assert row["near_constant_share"] == (corrected < 0.5).mean()
    channels = {"sign": WIDTH, "bits": HEADS}[name]
    elements = {"sign": BATCH * TOKENS, "bits": BATCH * TOKENS * TOKENS}[name]
    assert made.shape == (elements, channels)
    assert not np.isclose(plain, plain[0]).all(), "channels must differ, or a mix-up would not show"


@pytest.mark.parametrize("name", ["sign", "bits"])
def test_error_and_spread_equal_numpy_on_the_inputs(trained: tuple[Run, Seen], name: str) -> None:
    run, seen = trained
    table = run.sites[run.sites["site"] == name].set_index("step")
    for step in recorded_steps(run, name):
        x = argument(name, seen[name][step - 1][0])
        sign = np.where(x >= 0, 1.0, -1.0)
        errors = [
            1 - np.corrcoef(x[:, c], sign[:, c])[0, 1] ** 2
            for c in range(x.shape[1])
            if np.ptp(sign[:, c])
        ]
        assert len(errors) == x.shape[1]
        row = table.loc[step]
        assert row["binarization_error"] == pytest.approx(np.mean(errors), rel=1e-4)
        if name == "sign":
            spread = (x.mean(0) / x.std(0)).std()
            assert row["channel_spread"] == pytest.approx(spread, rel=1e-4)
        else:
            assert np.isnan(row["channel_spread"])


@pytest.mark.parametrize("name", ["sign", "bits"])
def test_the_record_says_how_it_was_verified(trained: tuple[Run, Seen], name: str) -> None:
    (row,) = (row for row in trained[0].info["sites"] if row["site"] == name)
    assert row["verified"]["how"] == "output of its forward pass"
    assert row["verified"]["differing"] == 0.0
    assert row["unverified"] is None
    assert row["levels"] == 2
    assert row["shape"] == []


def accumulated(folder: Path, arguments: dict[type[nn.Module], object], passes: int = 1) -> Run:
    """Train a sign and a head for two steps of some micro-batches each."""
    torch.manual_seed(1)
    model = nn.Sequential(Sign(6), nn.Linear(6, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    config = WatchConfig(activation_every=1, trajectory_weights=0)
    sites = find_sites(model, activation_sign=arguments)
    with Watch(model, folder, sites=sites, config=config, optimizer=optimizer) as watch:
        for _ in range(2):
            for x in torch.randn(passes, 7, 6, generator=torch.Generator().manual_seed(3)):
                functional.cross_entropy(model(x), x[:, :3].argmax(1)).backward()
            optimizer.step()
            optimizer.zero_grad()
            watch.step()
    return load_run(folder)


def test_micro_batches_of_a_step_are_summed(tmp_path: Path) -> None:
    run = accumulated(tmp_path / "run", {Sign: lambda m, x: x + m.shift}, passes=3)
    x = torch.randn(3, 7, 6, generator=torch.Generator().manual_seed(3)).reshape(-1, 6).numpy()
    positive = (x + np.linspace(-0.5, 0.5, 6, dtype=np.float32) >= 0).sum(0)
    row = run.channels[run.channels["step"] == 1].iloc[0]
    assert row["n"] == 21
    assert row["counts"].tolist() == positive.tolist()


def test_a_subclass_is_found_by_its_base(tmp_path: Path) -> None:
    class Theirs(Sign):
        pass

    (site,) = find_sites(nn.Sequential(Theirs(6)), activation_sign={Sign: lambda m, x: x})
    assert (site.kind, site.shape) == ("activation", ())


@pytest.mark.parametrize("kind", ["activation", "attention"])
def test_a_wrong_argument_is_refused_in_the_first_pass(tmp_path: Path, kind: str) -> None:
    if kind == "activation":
        model, x = nn.Sequential(Sign(6)), torch.randn(9, 6)
        sites = find_sites(model, activation_sign={Sign: lambda m, x: x})  # without its shift
    else:
        model, x = nn.Sequential(Bits()), torch.randn(2, 2, 5, 5)
        sites = find_sites(model, attention_sign={Bits: lambda m, s: s})  # the score itself
    with (
        pytest.raises(
            ConfigError, match=r"site 0: \d+\.\d+% of the tracked activation signs differ"
        ),
        Watch(model, tmp_path / "run", sites=sites),
    ):
        model(x.requires_grad_())
    assert not (tmp_path / "run").exists()


def test_an_activation_that_turns_later_is_said_and_does_not_end_a_training(tmp_path) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(0.05))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.scale * torch.where(x >= 0, 1.0, -1.0)

    def sites_of(model):
        return find_sites(model, activation_sign={Scaled: lambda module, x: x})

    model = nn.Sequential(nn.Linear(6, 6), Scaled())
    config = WatchConfig(verification_every=2)
    with Watch(model, tmp_path / "run", sites=sites_of(model), config=config) as watch:
        for step in range(6):
            if step == 3:
                with torch.no_grad():
                    model[1].scale.neg_()  # a learned scale crosses zero
            if step == 4:
                with pytest.warns(
                    RuntimeWarning, match=r"100\.00% .* at step 4.*opposite sign fits"
                ):
                    model(torch.randn(8, 6)).sum().backward()
            else:
                model(torch.randn(8, 6)).sum().backward()
            watch.step()
    run = load_run(tmp_path / "run")
    assert (run.state, run.step) == ("finished", 6)
    assert run.info["sites"][0]["verified"] is False
    wrong = Watch(model, tmp_path / "wrong", sites=sites_of(model))
    with pytest.raises(ConfigError, match=r"100\.00% .*the opposite sign fits"), wrong:
        model(torch.randn(8, 6))


def test_a_binarizer_that_is_called_by_keyword(tmp_path) -> None:
    class Sign(nn.Module):
        def forward(self, values: torch.Tensor) -> torch.Tensor:
            return torch.where(values >= 0, 1.0, -1.0)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.sign = nn.Linear(6, 6), Sign()

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.sign(values=self.linear(images))

    model = Model()
    sites = find_sites(model, activation_sign={Sign: lambda module, x: x})
    config = WatchConfig(activation_every=1)
    with Watch(model, tmp_path / "run", sites=sites, config=config) as watch:
        x = torch.randn(8, 6)
        made = model(images=x)
        watch.step()
    (counts,) = load_run(tmp_path / "run").channels["counts"]
    np.testing.assert_array_equal(counts, (made > 0).sum(0).numpy())
