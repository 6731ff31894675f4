"""Predict, then reveal, outside a kernel."""

from __future__ import annotations

import pytest
from matplotlib.figure import Figure

from bvit_analysis.errors import ConfigError
from bvit_analysis.outputs import FRAMES_MIME
from bvit_analysis.plots import style
from bvit_analysis.widgets.prediction import NOTE, Prediction

OPTIONS = ["as many <script>", "{fewer}", "$none$"]


def counted(answer: str | Figure) -> tuple[list[int], Prediction]:
    calls: list[int] = []

    def reveal() -> str | Figure:
        calls.append(1)
        return answer

    return calls, Prediction("How many\nflips & why?", OPTIONS, reveal)


def figure() -> Figure:
    ax = style.figure(3, 2).subplots()
    style.describe(ax, "Seven <flips>.")
    return ax.figure


def test_nothing_is_measured_before_a_choice() -> None:
    calls, one = counted("7 <b>")
    assert one.choice.value is None
    assert one.button.disabled
    one.reveal()
    assert calls == []
    assert NOTE in one.answer.value
    assert "7" not in one.answer.value


def test_the_answer_stands_beside_the_choice_and_is_escaped() -> None:
    calls, one = counted("7 <b>")
    one.choice.value = OPTIONS[0]
    assert not one.button.disabled
    assert calls == []
    one.button.click()
    assert calls == [1]
    assert "as many &lt;script&gt;" in one.answer.value
    assert "Measured: 7 &lt;b&gt;" in one.answer.value
    assert one.choice.disabled, "a prediction is not changed after the fact"
    assert one.image.layout.display == "none"


def test_a_figure_is_shown_with_its_words() -> None:
    _, one = counted(figure())
    one.choice.value = OPTIONS[1]
    one.button.click()
    assert bytes(one.image.value).startswith(b"\x89PNG")
    assert one.image.layout.display is None
    assert "Seven &lt;flips&gt;." in one.answer.value


def test_an_answer_that_fails_says_so_and_can_be_asked_again() -> None:
    def fails() -> str:
        raise ValueError("no <run>")

    one = Prediction("How many?", OPTIONS, fails)
    one.choice.value = OPTIONS[0]
    one.button.click()
    assert "ValueError: no &lt;run&gt;" in one.answer.value
    assert not one.button.disabled


def test_where_buttons_do_nothing_the_question_is_read() -> None:
    calls, one = counted("7")
    data, metadata = one._repr_mimebundle_()
    assert calls == []
    assert "How many\nflips" in data["text/plain"]
    assert NOTE in data["text/plain"]
    assert all(option in data["text/plain"] for option in OPTIONS)
    assert data["image/png"]
    assert metadata["image/png"]["alt"] == data["text/plain"]
    assert FRAMES_MIME not in data


@pytest.mark.parametrize("answer", ["7", "figure"])
def test_a_stored_copy_reveals_after_a_choice(answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, one = counted(figure() if answer == "figure" else answer)
    monkeypatch.setenv("BVIT_FRAMES", "24")
    frames = one._repr_mimebundle_()[0][FRAMES_MIME]
    (control,) = frames["controls"]
    assert control["options"] == ["not yet", *OPTIONS]
    assert control["start"] == 0
    assert "Measured" not in frames["findings"][0]
    assert all("Measured: " in text for text in frames["findings"][1:])
    (panel,) = frames["panels"]
    assert panel["frames"] == ([0, 1, 1, 1] if answer == "figure" else [0, 0, 0, 0])
    assert len(frames["pictures"]) == max(panel["frames"]) + 1


@pytest.mark.parametrize("options", [[], ["one"], ["same", "same"]])
def test_options_must_be_two_different_ones(options: list[str]) -> None:
    with pytest.raises(ConfigError, match="two or more different options"):
        Prediction("?", options, lambda: "")
