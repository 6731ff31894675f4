from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from bvit_analysis.instruments.base import Rows
from bvit_analysis.instruments.bimodality import BimodalityInstrument
from bvit_analysis.instruments.flips import FlipInstrument
from bvit_analysis.measures import chance
from bvit_analysis.measures.pulls import Pull
from bvit_analysis.measures.updates import make_update
from bvit_analysis.records.columns import FLIP_BACK_STEPS, NEAR_ZERO
from bvit_analysis.sites import Site

STEPS, SHAPE, EVERY, SHOWN = 150, (12, 30), 7, 25
RATES = 0.01 * (1 + np.cos(np.linspace(0, np.pi, STEPS))) / 2
KNOBS = {
    "back": FLIP_BACK_STEPS,
    "near": NEAR_ZERO,
    "threshold": 0.02,
    "late_after": 135,
    "flip_steps": range(EVERY, STEPS + 1, EVERY),
    "distribution_steps": range(0, STEPS + 1, SHOWN),
}


class Given(chance.Gradients):
    """Gradients that are known beforehand."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def at(self, position: int) -> np.ndarray:
        return self.values[position]


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize(("name", "settings"), [("AdamW", {}), ("SGD", {"momentum": 0.9})])
def test_a_simulation_is_recorded_as_instruments_record_a_training(
    name: str, settings: dict, centred: bool
) -> None:
    random = np.random.default_rng(3)
    start, values = random.normal(0.005, 0.02, SHAPE), random.normal(0, 0.3, (STEPS, *SHAPE))
    layer = nn.Linear(SHAPE[1], SHAPE[0], bias=False, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(start))
    site = Site(
        name="layer",
        kind="weight",
        module=layer,
        shape=SHAPE,
        effective_sign=lambda m: m.weight - m.weight.mean(1, keepdim=True) if centred else m.weight,
        latent=layer.weight,
        centred=centred,
    )
    flips = FlipInstrument({0: site}, every=EVERY, total_steps=STEPS)
    modes = BimodalityInstrument({0: site}, every=SHOWN)
    optimizer = getattr(torch.optim, name)([layer.weight], lr=1.0, **settings)
    flips.start()
    recorded = {0: Rows(0)}
    modes.record(recorded[0])
    for step in range(1, STEPS + 1):
        optimizer.param_groups[0]["lr"] = float(RATES[step - 1])
        layer.weight.grad = torch.from_numpy(values[step - 1].copy())
        optimizer.step()
        flips.update()
        rows = recorded[step] = Rows(step)
        for instrument in (flips, modes):
            if instrument.is_due(step):
                instrument.record(rows)
    found = chance.simulate(
        start, RATES, make_update(name, settings), Given(values), centred=centred, **KNOBS
    )
    counts = flips.counts(0)
    np.testing.assert_array_equal(found.gross, counts["gross"])
    np.testing.assert_array_equal(found.late, counts["late"])
    np.testing.assert_array_equal(found.net, counts["first_sign"] != counts["last_sign"])
    assert found.gross.sum() > 100
    for place, step in enumerate(found.rows["step"]):
        row = recorded[int(step)].metrics[0]
        for measure, column in found.rows.items():
            if measure != "step":
                expected = row.get(measure, np.nan)
                np.testing.assert_allclose(column[place], expected, rtol=1e-9, err_msg=measure)
    assert set(found.rows) > {"flip_rate", "flip_back_10", "concentration", "mass_near_zero_010"}


def test_noise_that_knows_no_sign_is_white_or_re_dealt() -> None:
    random = np.random.default_rng(0)
    white = chance.WhiteGradients((40, 100), random, size=np.array([1.0, 3.0]))
    assert white.at(0).std() == pytest.approx(1, rel=0.05)
    assert white.at(1).std() == pytest.approx(3, rel=0.05)
    series = random.normal(0, 1, (5, 64)).cumsum(axis=0) + 10
    dealt = chance.RedealtGradients(series, (64, 64), random)
    drawn = np.stack([dealt.at(step) for step in range(5)]).reshape(5, -1)
    # every simulated weight has one series for all steps, with one sign
    owner = np.abs(series[0][:, None] - np.abs(drawn[0])).argmin(axis=0)
    sign = np.sign(drawn[0])
    np.testing.assert_allclose(drawn, series[:, owner] * sign)
    assert len(np.unique(owner)) == 64
    assert abs(sign.mean()) < 4 / 64


def test_few_rows_are_drawn_again_until_they_are_enough() -> None:
    random = np.random.default_rng(0)
    rows = random.normal(0, 1, (3, 50))
    drawn = chance.enough_rows(rows, random)
    assert drawn.size >= chance.LEAST_WEIGHTS > drawn.size - 50
    assert {tuple(row) for row in drawn} == {tuple(row) for row in rows}
    assert chance.enough_rows(np.ones((2, 5000)), random).shape == (2, 5000)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strength", "flips", "coefficient", "mass"),
    [(0, 0.69, 0.337, 0.062), (0.1, 0.50, 0.408, 0.037), (0.3, 0.32, 0.509, 0.021)],
)
def test_what_the_resilient_term_does_to_noise(
    strength: float, flips: float, coefficient: float, mass: float
) -> None:
    """The figures of docs/science.md, which torch gave: AdamW, cosine from 2e-3, 600 steps, white noise."""
    rates = 2e-3 * (1 + np.cos(np.arange(600) / 600 * np.pi)) / 2
    shape = (64, 256)
    random = np.random.default_rng(0)
    found = chance.simulate(
        random.normal(0, 0.05, shape),
        rates,
        make_update("AdamW", {"weight_decay": 0.0}),
        chance.WhiteGradients(shape, random),
        **KNOBS | {"flip_steps": [600], "distribution_steps": [600], "late_after": 540},
        pull=Pull("resilient", strength) if strength else None,
    ).rows
    assert found["oscillating_flips"][-1] == pytest.approx(flips, abs=0.03)
    assert found["bimodality_coefficient"][-1] == pytest.approx(coefficient, abs=0.02)
    assert found["mass_near_zero_010"][-1] == pytest.approx(mass, abs=0.004)
