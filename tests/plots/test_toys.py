"""Figures of the toys: what is drawn equals the toy's own numbers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bvit_analysis import toys
from bvit_analysis.errors import ConfigError
from bvit_analysis.plots import style, toy_networks
from bvit_analysis.plots import toys as draw

WEIGHTS = np.random.default_rng(0).normal(size=300)
ALL: dict[str, Callable[..., Axes]] = {
    "estimator": lambda **ax: draw.plot_estimator("clipped", 0.4, **ax),
    "slope": lambda **ax: draw.plot_slope("polynomial", 0.4, **ax),
    "one_weight": lambda **ax: draw.plot_one_weight(toys.train_one_weight(steps=40), **ax),
    "push": lambda **ax: draw.plot_push(target=0.3, strength=2.0, **ax),
    "xnor": lambda **ax: draw.plot_xnor(toys.xnor_popcount(5, 77), **ax),
    "xnor_sums": lambda **ax: draw.plot_xnor_sums(toys.xnor_popcount(5, 77), **ax),
    "scale_error": lambda **ax: draw.plot_scale_error(WEIGHTS, **ax),
    "shift_entropy": lambda **ax: draw.plot_shift_entropy(WEIGHTS, [-1.0, 0.0, 1.0], **ax),
    "loss": lambda **ax: toy_networks.plot_network_loss(toys.train_two_layers(steps=40), **ax),
    "weights": lambda **ax: toy_networks.plot_network_weights(
        toys.train_two_layers(steps=40), **ax
    ),
    "map": lambda **ax: toy_networks.plot_network_map(toys.train_two_layers(steps=40), **ax),
}


@pytest.mark.parametrize("name", ALL)
def test_draws_on_a_new_or_given_axes_and_describes_itself(name: str) -> None:
    fresh = ALL[name]()
    assert isinstance(fresh.figure, style.Picture)
    given = Figure(layout="constrained").subplots()
    assert ALL[name](ax=given) is given
    for ax in (fresh, given):
        assert ax.get_title(loc="left")
        assert ax.get_xlabel()
        assert style.alt_text(ax)
        assert style.to_png(ax)


def test_every_plot_is_covered_here() -> None:
    names = {n for module in (draw, toy_networks) for n in dir(module) if n.startswith("plot_")}
    short = {name.removeprefix("plot_").removeprefix("network_") for name in names}
    assert short == set(ALL)


def test_an_estimator_is_drawn_as_it_is_computed() -> None:
    one = toys.estimator("polynomial")
    step, curve = draw.plot_estimator("polynomial").get_lines()
    x = curve.get_xdata()
    np.testing.assert_allclose(curve.get_ydata(), one.pretended(x))
    levels = step.get_ydata()
    np.testing.assert_array_equal(levels[~np.isnan(levels)], one.forward(x)[~np.isnan(levels)])
    assert np.isnan(levels).sum() == 1, "no line joins the two levels"
    np.testing.assert_allclose(
        draw.plot_slope("polynomial").get_lines()[1].get_ydata(), one.slope(x)
    )
    with pytest.raises(ConfigError, match="did you mean"):
        draw.plot_estimator("polynomal")


def test_a_moved_point_is_the_same_three_marks() -> None:
    ax = draw.plot_slope("polynomial", 0.4)
    count = len(ax.get_children())
    marks = draw.move_point(ax, "polynomial", -0.75, slope=True)
    assert len(ax.get_children()) == count
    assert len(marks) == 3
    assert [list(v) for v in marks[1].get_data()] == [[-0.75], [0.5]]
    assert style.alt_text(ax).count("At x =") == 1
    assert "becomes 0.5" in style.alt_text(ax)


def test_flips_are_marked_where_the_sign_changed() -> None:
    run = toys.train_one_weight(steps=60)
    ax = draw.plot_one_weight(run)
    marked = ax.get_lines()[2].get_xdata()
    changed = [t for t in range(1, 61) if (run.latent[t] >= 0) != (run.latent[t - 1] >= 0)]
    assert list(marked) == changed
    assert len(changed) > 5
    background = np.asarray(ax.get_images()[0].get_array())[0]
    np.testing.assert_array_equal(background, run.latent >= 0)


@pytest.mark.parametrize(
    ("target", "strength", "words"),
    [
        (0.3, 0.0, "sent back from both sides"),
        (0.3, 2.5, "sent back from both sides"),
        (0.3, 3.0, "held on +1 only"),
        (-0.3, 3.0, "held on -1 only"),
        (0.3, 6.0, "held on either side"),
        (1.2, 0.0, "held on +1 only"),
    ],
)
def test_the_push_beside_zero_tells_what_is_held(
    target: float, strength: float, words: str
) -> None:
    ax = draw.plot_push(target=target, strength=strength)
    assert words in ax.get_title(loc="left")
    settled = toys.train_one_weight(target=target, strength=strength, noise=0).verdict == "settled"
    assert settled == (words != "sent back from both sides")


def test_the_sums_of_a_product_end_at_the_product() -> None:
    product = toys.xnor_popcount(0b10110010, 0b11010110)
    bars = draw.plot_xnor_sums(product).patches
    assert bars[-1].get_y() + bars[-1].get_height() == product.product == 2


def test_scale_and_entropy_are_measured() -> None:
    ax = draw.plot_scale_error(WEIGHTS)
    curve = ax.get_lines()[0]
    lowest = curve.get_xdata()[int(np.argmin(curve.get_ydata()))]
    assert lowest == pytest.approx(np.abs(WEIGHTS).mean(), abs=0.02)
    bits = (
        draw.plot_shift_entropy(WEIGHTS, [-9.0, -np.median(WEIGHTS), 9.0])
        .get_lines()[0]
        .get_ydata()
    )
    np.testing.assert_allclose(bits, [0, 1, 0], atol=1e-9)
