"""Predict, then reveal: a question that shows the measured answer only after the reader has chosen one."""

from __future__ import annotations

import base64
import html
import os
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, final

import ipywidgets as W
from matplotlib.figure import Figure

from bvit_analysis.errors import ConfigError
from bvit_analysis.outputs import (
    ALT_KEY,
    FRAMES_MIME,
    FRAMES_VARIABLE,
    FRAMES_VERSION,
    StoredFrames,
    StoredPicture,
)
from bvit_analysis.plots import style
from bvit_analysis.widgets.screen import ScreenImage, lighter, quick_png

NOTE = "Pick an answer, then press Reveal. Without a running kernel nothing is revealed here."
"What a reader sees where the buttons do nothing."

_WIDTH = 92  # characters of a line in the picture


@final
class Prediction(W.VBox):  # type: ignore[misc]
    """A question with options; Reveal measures the answer and shows it beside what was predicted.

    Args:
        question: Plain text.
        options: Possible answers, plain text, two or more.
        reveal: Measures, and returns the answer as text or as a figure; called once, when it is asked for.

    Raises:
        ConfigError: If there are not two different options.
    """

    def __init__(
        self, question: str, options: Sequence[str], reveal: Callable[[], str | Figure]
    ) -> None:
        if len(options) < 2 or len(set(options)) < len(options):
            raise ConfigError(
                f"a prediction needs two or more different options, got {list(options)!r}; give each answer once"
            )
        super().__init__()
        self.question = question
        self.options = [str(option) for option in options]
        self.measure = reveal
        self.choice = W.RadioButtons(
            options=self.options, value=None, layout=W.Layout(width="max-content")
        )
        self.button = W.Button(
            description="Reveal", disabled=True, tooltip="Pick an answer first", icon="eye"
        )
        self.answer = W.HTML()
        self.image = ScreenImage(layout=W.Layout(max_width="100%", display="none"))
        self._known: tuple[str, Figure | None] | None = None
        asked = W.HTML(f"<p><b>Predict.</b> {html.escape(question)}</p>")
        self.children = [asked, self.choice, self.button, self.answer, self.image]
        for name, widget in {
            "prediction": self,
            "choice": self.choice,
            "reveal": self.button,
            "answer": self.answer,
        }.items():
            widget.add_class(f"bvit-{name}")
        self.choice.observe(self._picked, names="value")
        self.button.on_click(lambda _: self.reveal())

    def _picked(self, change: Any) -> None:
        self.button.disabled = change["new"] is None
        self.button.tooltip = "Show what is measured"

    def reveal(self) -> None:
        """Measure and show the answer beside the choice, which cannot be changed after it."""
        if self.choice.value is None:
            self.answer.value = f"<p>{html.escape(NOTE)}</p>"
            return
        self.choice.disabled = self.button.disabled = True
        try:
            text, figure = self._measured()
        except Exception as error:  # an error in a button's answer would only reach a log
            self.choice.disabled = self.button.disabled = False
            said = html.escape(f"{type(error).__name__}: {error}")
            self.answer.value = f"<p>The answer could not be measured. {said}</p>"
            return
        chosen = html.escape(self.choice.value)
        self.answer.value = (
            f"<p>You predicted: <b>{chosen}</b></p><p>Measured: {html.escape(text)}</p>"
        )
        if figure is not None:
            self.image.value = quick_png(figure)
            self.image.tooltip = text
            self.image.layout.display = None

    def _measured(self) -> tuple[str, Figure | None]:
        if self._known is None:
            answer = self.measure()
            if isinstance(answer, Figure):
                self._known = style.alt_text(answer), answer
            else:
                self._known = str(answer), None
        return self._known

    def text(self) -> str:
        """Return the question with its options, as plain text."""
        return " ".join([self.question, *(f"[ ] {option}" for option in self.options)])

    def frames(self) -> StoredFrames:
        """Return what each choice reveals, for a page without a kernel; as Explorer.frames does."""
        text, figure = self._measured()
        shown: list[StoredPicture] = [{"png": _base64(lighter(self._card())), "alt": self.text()}]
        if figure is not None:
            shown.append({"png": _base64(lighter(quick_png(figure))), "alt": text})
        revealed = len(shown) - 1
        return {
            "version": FRAMES_VERSION,
            "title": self.question,
            "controls": [
                {
                    "name": "choice",
                    "label": "my prediction",
                    "options": ["not yet", *self.options],
                    "start": 0,
                }
            ],
            "panels": [{"name": "answer", "frames": [0, *[revealed for _ in self.options]]}],
            "findings": [
                "Choose what you predict, then see what was measured.",
                *[f"You predicted: {option}. Measured: {text}" for option in self.options],
            ],
            "pictures": shown,
        }

    def _card(self) -> bytes:
        lines = textwrap.wrap(f"Predict. {self.question}", _WIDTH)
        for option in self.options:
            first, *rest = textwrap.wrap(option, _WIDTH - 6)
            lines += [f"  \N{WHITE CIRCLE} {first}", *(f"      {line}" for line in rest)]
        figure = style.figure(7.2, 0.22 * len(lines) + 0.25)
        figure.set_layout_engine(None)
        height = figure.get_size_inches()[1]
        for place, line in enumerate(lines):
            y = 1 - (0.12 + 0.22 * place) / height
            figure.text(0.01, y, line, va="top", fontsize=10, parse_math=False)
        return quick_png(figure)

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        bundle = super()._repr_mimebundle_(**kwargs)
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        data["text/plain"] = f"{self.text()} {NOTE}"
        data["image/png"] = _base64(self._card())
        metadata = {**metadata, "image/png": {ALT_KEY: f"{self.text()} {NOTE}"}}
        if int(os.environ.get(FRAMES_VARIABLE, "0") or 0) > 0:
            data[FRAMES_MIME] = self.frames()
        return data, metadata


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
