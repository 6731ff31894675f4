"""What stands under a figure: unverified sites and weights of several levels, where it shows them and nowhere else."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bvit_analysis import plots, tables
from bvit_analysis.plots import style
from bvit_analysis.plots.export import to_svg
from bvit_analysis.records import Run, load_run
from tests.support.foreign_run import watched_model
from tests.support.noted_run import noted
from tests.support.synthetic_run import make_run

WEIGHT, ACTIVATION = "blocks.0.attn.qkv", "blocks.1.mlp.fc1.sign"
REASON = "no forward pass was seen"
Draw = Callable[[Run], Axes | Figure]

OF_WEIGHTS: dict[str, Draw] = {
    "flip rate": plots.plot_flip_rate,
    "flip rate by site": lambda run: plots.plot_flip_rate(run, by="site"),
    "flip rate of a frame": lambda run: plots.plot_flip_rate(
        tables.site_frame(run, ["flip_rate"], kind="weight")
    ),
    "atlas": plots.plot_flip_atlas,
    "atlas of bimodality": lambda run: plots.plot_flip_atlas(run, metric="bimodality_coefficient"),
    "distribution of flips": plots.plot_flip_distribution,
    "flip-back": plots.plot_flip_back,
    "ranks": lambda run: plots.plot_flip_ranks(run, site=WEIGHT),
    "ranking": lambda run: plots.plot_flip_ranking(run, site=WEIGHT),
    "a ranking": lambda run: plots.plot_flip_ranking(tables.flip_ranking(run, WEIGHT)),
    "weight": lambda run: plots.plot_weight(run, site=WEIGHT),
    "trajectories": lambda run: plots.plot_trajectories(run, site=WEIGHT),
    "histogram": plots.plot_latent_histogram,
    "histogram of a site": lambda run: plots.plot_latent_histogram(run, site=WEIGHT, kind="ridge"),
    "bimodality": plots.plot_bimodality,
    "near zero": plots.plot_near_zero,
    "density": plots.plot_latent_density,
    "ridges": plots.plot_latent_ridges,
    "nulls": plots.plot_bimodality_nulls,
    "compared": lambda run: plots.plot_compared(run, "flip_rate"),
    "scatter": plots.plot_run_scatter,
    "evidence": plots.plot_evidence,
    "ablation": plots.plot_ablation,
}
OF_ACTIVATIONS: dict[str, Draw] = {
    "entropy": plots.plot_sign_entropy,
    "entropy over steps": lambda run: plots.plot_sign_entropy(run, over="steps"),
    "error": plots.plot_binarization_error,
    "twin": plots.plot_twin_agreement,
    "near-constant": plots.plot_near_constant,
    "channel entropy": plots.plot_channel_entropy,
    "channels": lambda run: plots.plot_channels(run, site=ACTIVATION),
    "compared": lambda run: plots.plot_compared(run, "sign_entropy_bits"),
    "scatter": lambda run: plots.plot_run_scatter(run, "sign_entropy_bits"),
}
OF_NONE_OF_THEM: dict[str, Draw] = {
    "accuracy": plots.plot_accuracy,
    "loss": plots.plot_loss,
    "compared": lambda run: plots.plot_compared(run, "accuracy"),
    "attention": lambda run: plots.plot_sign_entropy(run, kind="attention"),
    "another site": lambda run: plots.plot_flip_ranks(run, site="blocks.1.mlp.fc1"),
    "another weight": lambda run: plots.plot_weight(run, site="blocks.1.mlp.fc1"),
    "other channels": lambda run: plots.plot_channels(run, site="blocks.0.attn.q_sign"),
    "another histogram": lambda run: plots.plot_latent_histogram(run, site="blocks.1.mlp.fc1"),
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return load_run(make_run(tmp_path_factory.mktemp("plain") / "run", recipe="grs", steps=40))


@pytest.fixture(scope="module")
def doubted(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = make_run(tmp_path_factory.mktemp("doubted") / "run", recipe="grs", steps=40)
    reason = {"verified": False, "unverified": REASON}
    return noted(folder, {WEIGHT: reason, ACTIVATION: reason})


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return load_run(watched_model(tmp_path_factory.mktemp("mixed") / "mixed"))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return load_run(watched_model(tmp_path_factory.mktemp("alone") / "alone", binary=False))


def canvas_of(drawn: Axes | Figure) -> Figure:
    figure = drawn if isinstance(drawn, Figure) else drawn.get_figure(root=True)
    assert figure is not None
    return figure


def words(figure: Figure) -> str:
    return " ".join(figure.get_supxlabel().split())


@pytest.mark.parametrize(
    ("draw", "site"),
    [*((draw, WEIGHT) for draw in OF_WEIGHTS.values()),
     *((draw, ACTIVATION) for draw in OF_ACTIVATIONS.values())],
    ids=[*(f"weights, {name}" for name in OF_WEIGHTS),
         *(f"activations, {name}" for name in OF_ACTIVATIONS)],
)  # fmt: skip
def test_a_figure_names_the_unverified_site_that_it_shows(
    draw: Draw, site: str, plain: Run, doubted: Run
) -> None:
    figure, before = canvas_of(draw(doubted)), canvas_of(draw(plain))
    said = (
        f"Not verified to be the signs that the forward pass uses: {site} (grs, seed 0: {REASON})."
    )
    other = {WEIGHT: ACTIVATION, ACTIVATION: WEIGHT}[site]
    assert said in words(figure)
    assert (other in words(figure)) == (draw is plots.plot_ablation)  # which shows both
    assert said in style.alt_text(figure)
    assert words(before) == style.noted(before) == ""
    # the rest is the same figure
    assert (
        style.alt_text(figure).replace(said, "").split()[:6] == style.alt_text(before).split()[:6]
    )
    for one, other in zip(figure.axes, before.axes, strict=True):
        assert [len(one.lines), len(one.collections), one.get_title("left")] == [
            *(len(other.lines), len(other.collections)),
            other.get_title("left"),
        ]
        for line, same in zip(one.lines, other.lines, strict=True):
            np.testing.assert_array_equal(line.get_xydata(), same.get_xydata())


@pytest.mark.parametrize("draw", OF_NONE_OF_THEM.values(), ids=OF_NONE_OF_THEM)
def test_a_figure_of_other_sites_says_nothing(draw: Draw, doubted: Run) -> None:
    assert words(canvas_of(draw(doubted))) == ""


def test_a_saved_figure_has_the_sentence_as_text(doubted: Run) -> None:
    svg = to_svg(canvas_of(plots.plot_flip_rate(doubted))).decode()
    assert WEIGHT in svg
    assert "Not verified" in svg


def test_panels_share_one_sentence(doubted: Run) -> None:
    figure, axes = style.panels(1, 2)
    for ax in axes[0]:
        plots.plot_flip_rate(doubted, ax=ax)
    assert words(figure).count(WEIGHT) == 1
    assert all(WEIGHT in style.alt_text(ax) for ax in axes[0])
    style.forget_notes(figure)
    assert words(figure) == ""


def test_a_figure_of_fixed_layout_grows_and_keeps_the_size_of_its_axes(doubted: Run) -> None:
    figure = style.figure(6.0, 3.0)
    figure.set_layout_engine(None)
    ax = figure.add_axes((0.1, 0.2, 0.7, 0.6))
    plots.plot_flip_rate(doubted, ax=ax)
    width, height = figure.get_size_inches()
    assert width == 6.0
    assert height > 3.0
    box = ax.get_position()
    assert box.height * height == pytest.approx(0.6 * 3.0)
    assert (1 - box.y1) * height == pytest.approx(0.2 * 3.0)
    plots.plot_flip_rate(doubted, ax=ax)
    assert figure.get_size_inches()[1] == height, "a sentence that is there already takes no room"


FLIPS: dict[str, Draw] = {
    name: OF_WEIGHTS[name]
    for name in ("flip rate", "flip rate by site", "flip rate of a frame", "atlas", "flip-back",
                 "distribution of flips", "compared", "scatter", "evidence")
}  # fmt: skip
FLIPS["ranks"] = lambda run: plots.plot_flip_ranks(run, site="tern")
FLIPS["differences"] = lambda run: plots.plot_differences(run, "late_flip_rate")
SAID = "The weights of tern (foreign, seed 0) have 3 levels: level changes are recorded in place of flips"


@pytest.mark.parametrize("draw", FLIPS.values(), ids=FLIPS)
def test_flips_of_several_levels_are_answered_in_a_sentence(draw: Draw, alone: Run) -> None:
    ax = draw(alone)
    assert isinstance(ax, Axes)
    assert not ax.axison
    assert " ".join(ax.texts[0].get_text().split()).startswith(SAID)
    assert style.alt_text(ax).startswith(SAID)


@pytest.mark.parametrize(
    "draw",
    [draw for name, draw in FLIPS.items() if name not in ("ranks", "differences", "scatter", "evidence")],
)  # fmt: skip
def test_flips_of_other_sites_are_drawn_and_the_sentence_stands_below(
    draw: Draw, mixed: Run
) -> None:
    figure = canvas_of(draw(mixed))
    assert figure.axes[0].axison
    assert words(figure).count(SAID) == 1
    assert "unseen (foreign, seed 0: no product" in words(figure)


def test_level_changes_are_drawn_and_never_called_flips(alone: Run) -> None:
    for name in ("level_change_rate", "level_reversal_rate"):
        for ax in (plots.plot_flip_atlas(alone, metric=name), plots.plot_compared(alone, name)):
            assert ax.axison
            assert "flip" not in style.alt_text(ax)
            assert words(canvas_of(ax)) == ""
    for ax in (plots.plot_trajectories(alone), plots.plot_flip_ranking(alone, site="tern")):
        assert ax.axison
        shown = [ax.get_title("left"), ax.get_xlabel(), *(t.get_text() for t in ax.texts)]
        legend = ax.get_legend()
        shown += [] if legend is None else [text.get_text() for text in legend.get_texts()]
        assert "flip" not in " ".join(shown)
        assert "sign changes" in " ".join(shown)


def test_a_measure_that_is_missing_is_named_as_such(plain: Run) -> None:
    ax = plots.plot_flip_atlas(plain, metric="level_change_rate")
    assert "No level_change_rate of weight sites is recorded" in style.alt_text(ax)
    assert "No weight flips" in style.alt_text(plots.plot_flip_atlas(None))


@pytest.mark.parametrize("kind", ["activation", "attention"])
def test_sites_without_a_shape_are_drawn(kind: str, mixed: Run) -> None:
    for over in ("sites", "steps"):
        for draw in (plots.plot_sign_entropy, plots.plot_binarization_error):
            ax = draw(mixed, kind=kind, over=over)
            assert ax.axison
            assert len(ax.lines) > 0
    site = {"activation": "sign", "attention": "bits"}[kind]
    channels = {"activation": 16, "attention": 2}[kind]
    line = plots.plot_channels(mixed, site=site).lines[0]
    assert len(line.get_xdata()) == channels
    if kind == "activation":
        assert plots.plot_channel_entropy(mixed).axison
        assert plots.plot_near_constant(mixed).axison
