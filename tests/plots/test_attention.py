"""Attention of one image: every map lies where its patch lies, and every number is that of the table."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from bvit_analysis import plots, tables
from bvit_analysis.errors import ConfigError
from bvit_analysis.plots import style
from bvit_analysis.records import AttentionExamples, Run
from tests.support.synthetic_run import attention_examples


@pytest.fixture
def examples() -> AttentionExamples:
    return attention_examples(np.random.default_rng(5), ["blocks.0.attn", "$x_{ <b>"])


def cell(ax: object, x: float, y: float) -> float:
    """Return the value of the cell of a mesh in which a point lies."""
    mesh = ax.collections[0]
    corners = mesh.get_coordinates()
    column = np.searchsorted(corners[0, :, 0], x) - 1
    row = np.searchsorted(corners[:, 0, 1], y) - 1
    return float(mesh.get_array()[row, column])


@pytest.mark.parametrize("token", [0, 1, 11])
def test_maps_lie_as_the_patches_lie(token: int, examples: AttentionExamples) -> None:
    figure = plots.plot_attention(examples, image=2, block=0, token=token)
    picture, teacher, student, bits = figure.axes
    np.testing.assert_array_equal(picture.images[0].get_array(), examples.images[2, 0])
    drawn = ((teacher, examples.teacher), (student, examples.scores), (bits, examples.bits))
    for ax, values in drawn:
        for head in (0, 1):
            left = head * 4.6
            for row in range(4):
                for column in range(4):
                    expected = values[2, 0, head, token, 1 + 4 * row + column]
                    found = cell(ax, left + column + 0.5, 1.6 + row + 0.5)
                    assert found == pytest.approx(float(expected))
            assert cell(ax, left + 0.5, 0.5) == pytest.approx(float(values[2, 0, head, token, 0]))
    assert teacher.collections[0].get_clim()[1] == pytest.approx(
        examples.teacher[2, 0, :, token].max()
    )


def test_the_query_is_marked_on_image_and_maps(examples: AttentionExamples) -> None:
    figure = plots.plot_attention(examples, token=7)
    (mark,) = figure.axes[0].patches
    assert mark.get_xy() == (2 * 7 - 0.5, 1 * 7 - 0.5)
    assert (mark.get_width(), mark.get_height()) == (7, 7)
    for ax in figure.axes[1:]:
        corners = [segment[0].tolist() for segment in ax.collections[2].get_segments()]
        np.testing.assert_allclose(corners, [[2, 2.6], [6.6, 2.6]])
    (frame,) = plots.plot_attention(examples, token=0).axes[0].patches
    assert (frame.get_width(), frame.get_height()) == (28, 28)


def test_numbers_and_title(examples: AttentionExamples) -> None:
    names = ["zero", "one", "two"]
    figure = plots.plot_attention(examples, image=1, block=0, token=3, names=names)
    table = tables.attention_table(examples, image=1, block=0, token=3)
    words = [text.get_text() for text in figure.axes[-1].texts]
    for row in table.itertuples():
        numbers = (row.share_of_ones, row.teacher_mass, row.best_mass)
        assert "\n".join(f"{number:.0%}" for number in numbers) in words
        assert f"head {row.head} sets {row.share_of_ones:.0%}" in style.alt_text(figure)
    title = figure.texts[0].get_text()
    assert title == (
        "blocks.0.attn: image 1, true class 1 one\n"
        "student says 2 two, wrong; float teacher says 1 one, right"
    )


def test_without_teacher_or_class_token_and_in_colour(examples: AttentionExamples) -> None:
    alone = dataclasses.replace(examples, teacher=None, teacher_predictions=None)
    figure = plots.plot_attention(alone)
    assert len(figure.axes) == 3
    assert "float teacher says none" in figure.texts[0].get_text()
    patches = dataclasses.replace(
        alone,
        images=np.repeat(examples.images, 3, axis=1),
        bits=examples.bits[..., 1:, 1:],
        scores=examples.scores[..., 1:, 1:],
    )
    figure = plots.plot_attention(patches, token=15)
    assert figure.axes[0].images[0].get_array().shape == (28, 28, 3)
    ax = figure.axes[-1]
    assert cell(ax, 3.5, 3.5) == float(patches.bits[0, 0, 0, 15, 15])
    assert style.to_png(figure)


def test_tokens_that_are_no_grid_are_one_row(examples: AttentionExamples) -> None:
    odd = dataclasses.replace(
        examples,
        images=examples.images[..., :13, :],
        bits=examples.bits[..., :16, :16],
        scores=examples.scores[..., :16, :16],
        teacher=examples.teacher[..., :16, :16],
    )
    figure = plots.plot_attention(odd, token=9)
    assert figure.axes[1].collections[0].get_array().shape == (1, 33)
    assert style.to_png(figure)


def test_many_heads_fit(examples: AttentionExamples) -> None:
    many = dataclasses.replace(
        examples,
        bits=np.tile(examples.bits, (1, 1, 6, 1, 1)),
        scores=np.tile(examples.scores, (1, 1, 6, 1, 1)),
        teacher=np.tile(examples.teacher, (1, 1, 6, 1, 1)),
    )
    figure = plots.plot_attention(many)
    assert figure.get_figwidth() < 8.5
    for ax in figure.axes:
        box = ax.get_position()
        assert 0 <= box.x0 < box.x1 <= 1
        assert 0 <= box.y0 < box.y1 <= 1


def test_nothing_and_nowhere(runs: list[Run], examples: AttentionExamples) -> None:
    assert runs[-1].attention is None
    figure = plots.plot_attention(runs[-1].attention)
    assert not figure.axes[0].axison
    assert style.alt_text(figure).startswith("No attention")
    with pytest.raises(ConfigError, match=r"expected token in 0\.\.16, got 17"):
        plots.plot_attention(examples, token=17)


def test_site_names_are_drawn_literally(examples: AttentionExamples) -> None:
    figure = plots.plot_attention(examples, block=1)
    assert "$x_{ <b>" in figure.texts[0].get_text()
    assert style.to_png(figure)
