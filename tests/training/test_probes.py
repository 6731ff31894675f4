"""Signs that are turned in a trained model, against the same by hand."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from bvit_analysis.cli.main import main
from bvit_analysis.errors import ConfigError, RunError
from bvit_analysis.packed.run import model_of_run
from bvit_analysis.records import load_run
from bvit_analysis.sites import find_sites
from bvit_analysis.tables.probes import probe_table
from bvit_analysis.training import probes
from bvit_analysis.training.probes import GROUPS, choose, probe_signs, size_of, turned
from bvit_analysis.training.run import train
from tests.support.tiny_run import tiny

SHIPPED = Path(__file__).resolve().parents[2] / "data" / "runs"


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tiny(), tmp_path_factory.mktemp("probed") / "run", progress=False)


def weight_sites(model):
    return [site for site in find_sites(model) if site.kind == "weight"]


@pytest.mark.slow
def test_a_turned_model_is_the_one_with_those_signs_turned(run_dir: Path) -> None:
    model, _ = model_of_run(run_dir)
    other = copy.deepcopy(model)
    images = torch.randn(4, 1, 28, 28)
    sites = weight_sites(model)
    generator = np.random.default_rng(0)
    chosen = {site.name: generator.choice(site.latent.numel(), 9, replace=False) for site in sites}
    with torch.no_grad():
        plain = model(images)
        with turned(sites, {site.name: np.zeros(0, np.int64) for site in sites}):
            assert torch.equal(model(images), plain)
        with turned(sites, chosen):
            found = model(images)
        assert torch.equal(model(images), plain)  # everything is back
        # by hand: -w has the same size and so the same scale, and the other sign
        for site in weight_sites(other):
            flat = site.latent.data.view(-1)
            flat[torch.from_numpy(chosen[site.name])] *= -1
        assert torch.equal(other(images), found)
    assert not torch.equal(found, plain)


def test_groups_hold_the_weights_that_their_names_say() -> None:
    generator = np.random.default_rng(1)
    flips, size = generator.integers(0, 4, (20, 10)), generator.random((20, 10))
    flat_flips, flat_size = flips.ravel(), size.ravel()

    def chosen(group, share=0.1):
        found = choose(group, flips, size, share, np.random.default_rng(2))
        assert len(set(found.tolist())) == len(found)
        return found

    for group in GROUPS:
        assert len(chosen(group)) == 20
    rest = np.setdiff1d(np.arange(200), chosen("restless"))
    assert flat_flips[chosen("restless")].min() >= flat_flips[rest].max()
    np.testing.assert_array_equal(np.sort(chosen("near zero")), np.sort(np.argsort(flat_size)[:20]))
    np.testing.assert_array_equal(np.sort(chosen("far")), np.sort(np.argsort(flat_size)[-20:]))
    assert (flat_flips[chosen("never flipped")] == 0).all()
    still = int((flat_flips == 0).sum())
    assert len(chosen("never flipped", 0.5)) == still < 100  # all that there are
    assert len(choose("random", flips[:1, :3], size[:1, :3], 0.01, generator)) == 1


@pytest.mark.slow
def test_a_probe_measures_stores_and_is_not_made_twice(run_dir: Path, monkeypatch, capsys) -> None:
    probe = probe_signs(run_dir, share=0.2, draws=2, progress=False)
    model, _ = model_of_run(run_dir)
    sites = weight_sites(model)
    run = load_run(run_dir)
    assert [(row["group"], row["draw"]) for row in probe.rows] == [
        ("restless", 0),
        ("near zero", 0),
        ("random", 0),
        ("random", 1),
        ("never flipped", 0),
        ("never flipped", 1),
        ("far", 0),
    ]
    number = sum(round(0.2 * site.latent.numel()) for site in sites)
    assert {row["turned"] for row in probe.rows if row["group"] != "never flipped"} == {number}
    assert (probe.step, probe.images) == (24, 100)
    assert probe.accuracy == pytest.approx(float(run.scalars["accuracy"].dropna().iloc[-1]))
    # one row by hand, from the images themselves
    from bvit_analysis.config import RunConfig, from_dict
    from bvit_analysis.data import evaluation_batches, load_dataset

    dataset = load_dataset(from_dict(RunConfig, run.config).data)
    row = probe.rows[1]
    for site in sites:
        size = size_of(site).ravel()
        nearest = np.argsort(size, kind="stable")[: round(0.2 * len(size))]
        site.latent.data.view(-1)[torch.from_numpy(nearest)] *= -1
    losses = []
    for images, labels in evaluation_batches(dataset, "validation", batch_size=50):
        with torch.no_grad():
            losses.append(
                torch.nn.functional.cross_entropy(model(images), labels, reduction="none")
            )
    assert torch.cat(losses).mean().item() == pytest.approx(row["loss"], rel=1e-5)

    monkeypatch.setattr(probes, "evaluate", lambda *args: pytest.fail("it is stored already"))
    assert probe_signs(run_dir, share=0.2, draws=2, progress=False) == probe
    assert load_run(run_dir).sign_probe == probe
    table = probe_table([load_run(run_dir)])
    assert table["group"].tolist() == list(GROUPS)
    assert main(["probe", str(run_dir), "--share", "0.2", "--draws", "2", "--quiet"]) == 0
    printed = capsys.readouterr().out
    assert "binaryvit: turning the 20% most restless weights costs" in printed
    assert "n=1, no interval" in printed


def test_what_cannot_be_probed_is_refused(capsys) -> None:
    with pytest.raises(RunError, match="has no checkpoints"):
        probe_signs(SHIPPED / "grs-seed0")
    with pytest.raises(ConfigError, match="share must be above 0 and at most 0.5.*got 2"):
        probe_signs(SHIPPED / "grs-seed0", share=2)
    with pytest.raises(ConfigError, match="groups must be some of restless, .*got \\['restles'\\]"):
        probe_signs(SHIPPED / "grs-seed0", groups=["restles"])
    assert main(["probe", str(SHIPPED / "grs-seed0"), "--quiet"]) == 1
    assert "has no checkpoints" in capsys.readouterr().err
