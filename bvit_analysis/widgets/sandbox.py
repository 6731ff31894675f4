"""The binarization sandbox: one lesson at a time, with every number of it on a slider."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, final

import ipywidgets as W
import numpy as np
from matplotlib.figure import Figure

from bvit_analysis import toys
from bvit_analysis.errors import ConfigError, unknown_name
from bvit_analysis.plots import toy_networks
from bvit_analysis.plots import toys as draw
from bvit_analysis.widgets.base import Explorer
from bvit_analysis.widgets.screen import Ground, fixed

LESSONS = {
    "curve": "sign and estimator on a curve",
    "weight": "one weight",
    "layers": "two layers",
    "words": "XNOR and popcount by hand",
}
"Lessons of the sandbox, with what their choice says."

_TRAINED = ("estimator", "kind", "strength", "learning_rate", "momentum", "clip")
_USES = {
    "curve": ("estimator", "point"),
    "weight": (*_TRAINED, "target", "noise", "start"),
    "layers": _TRAINED,
    "words": ("word_a", "word_b"),
}
_RATES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
_SIZE = (4.7, 3.2)  # inches; two side by side fit a notebook's column

_one_weight = lru_cache(maxsize=64)(toys.train_one_weight)
_two_layers = lru_cache(maxsize=64)(toys.train_two_layers)


@final
class BinarizationSandbox(Explorer):
    """Try what binarization does: drag a point along an estimator, make a weight oscillate or settle, count bits.

    Args:
        lesson: Which of LESSONS it opens with.

    Raises:
        ConfigError: If there is no such lesson.
    """

    def __init__(self, lesson: str = "curve") -> None:
        if lesson not in LESSONS:
            raise ConfigError(unknown_name("lesson", lesson, LESSONS))
        super().__init__("Binarization sandbox")
        self._drawn: dict[tuple[str, bool], Figure] = {}
        choices = [(text, name) for name, text in LESSONS.items()]
        self.control("lesson", W.Select(options=choices, value=lesson, rows=len(LESSONS)))
        self.control(
            "estimator",
            W.Dropdown(
                options=list(toys.ESTIMATORS), value="clipped", description="estimator", **_wide()
            ),
        )
        # A point is for dragging, so it follows the hand; the others draw when they are let go.
        self._slider("point", "x", 0.4, -2, 2, 0.05).continuous_update = True
        self.control(
            "kind",
            W.Dropdown(
                options=list(toys.TERMS), value="resilient", description="GRS term", **_wide()
            ),
        )
        self._slider("strength", "GRS strength", 0.0, 0, 8, 0.25)
        self._slider("target", "target", 0.3, -1.5, 1.5, 0.05)
        self._slider("start", "start", 0.5, -1, 1, 0.05)
        self.control(
            "learning_rate",
            W.SelectionSlider(
                options=_RATES,
                value=0.1,
                description="learning rate",
                continuous_update=False,
                **_wide(),
            ),
        )
        self._slider("momentum", "momentum", 0.0, 0, 0.95, 0.05)
        self._slider("clip", "clipped at", 1.0, 0.1, 2, 0.1)
        self._slider("noise", "noise", 0.2, 0, 1, 0.05)
        for name, word in (("word_a", 178), ("word_b", 214)):
            self.control(
                name,
                W.IntSlider(
                    value=word,
                    min=0,
                    max=255,
                    description=name.replace("_", " "),
                    continuous_update=False,
                    **_wide(),
                ),
            )
        pictures = [
            self.panel("main", self._main, list(self.controls)),
            self.panel("detail", self._detail, list(self.controls)),
        ]
        for picture in pictures:
            picture.layout.flex = "1 1 330px"
            picture.layout.min_width = "0"  # else it never shrinks below its own size
            picture.layout.max_width = "min(100%, 520px)"
        controls = W.VBox(list(self.controls.values()), layout=W.Layout(flex="0 0 auto"))
        shown = W.HBox(pictures, layout=W.Layout(flex="1 1 340px", flex_flow="row wrap"))
        body = W.HBox([controls, shown], layout=W.Layout(flex_flow="row wrap"))
        self.children = [self.finding, body]
        self.adapt("lesson")
        self.begin()

    def _slider(
        self, name: str, label: str, value: float, low: float, high: float, step: float
    ) -> Any:
        return self.control(
            name,
            W.FloatSlider(
                value=value,
                min=low,
                max=high,
                step=step,
                description=label,
                continuous_update=False,
                **_wide(),
            ),
        )

    def adapt(self, name: str) -> None:
        """Show the controls of the lesson and hide the others; without strength no term can be told from another."""
        lesson = self.value("lesson")
        if name == "strength":
            self.controls["kind"].disabled = "kind" not in _USES[lesson] or not self.value(name)
        if name != "lesson":
            return
        for other, control in self.controls.items():
            used = other == "lesson" or other in _USES[lesson]
            control.disabled = not used
            control.layout.display = None if used else "none"
        self.controls["kind"].disabled |= not self.value("strength")
        estimator = self.controls["estimator"]
        # A weight of levels 0 and 1 is another lesson: the toys train signs.
        offered = tuple(toys.ESTIMATORS) if lesson == "curve" else toys.SIGN_ESTIMATORS
        if tuple(estimator.options) != offered:
            before = estimator.value
            estimator.options = offered
            estimator.value = before if before in offered else "clipped"

    def rows(self) -> list[list[str]]:
        """Return both pictures beside each other."""
        return [["main", "detail"]]

    def story(self) -> dict[str, list[Any]]:
        """Return every lesson with every estimator, without and with a gradient term."""
        return {
            "lesson": list(LESSONS),
            "estimator": list(toys.SIGN_ESTIMATORS),
            "strength": [0.0, 4.0],
        }

    def say(self) -> str:
        """Return what the lesson's pictures show."""
        tell = {
            "curve": self._say_curve,
            "weight": self._say_weight,
            "layers": self._say_layers,
            "words": self._say_words,
        }
        return tell[self.value("lesson")]()

    def _say_curve(self) -> str:
        one, x = toys.estimator(self.value("estimator")), np.asarray(self._point())
        passes = float(one.slope(x))
        text = f"At x = {x:g} the forward pass gives {float(one.forward(x)):+g}. "
        text += "The step is flat there, so its own slope would pass nothing back; "
        if passes:
            return text + f"the {self.value('estimator')} estimator lets {passes:g} of 1 through."
        return (
            text + f"so does the {self.value('estimator')} estimator this far out: x cannot learn."
        )

    def _say_weight(self) -> str:
        run, target = self._weight(), self.value("target")
        text = f"The weight is {run.verdict}: {draw.flip_count(int(run.flips.sum()))} in {len(run.flips)} steps, "
        text += f"{run.late_flips} in the last quarter; its sign averages {run.mean_sign:+.2f} in the last half. "
        if abs(target) >= 1:
            return text + f"The target {target:+.2f} is not between -1 and +1: one sign is best."
        if run.verdict == "settled":
            nearer = run.signs[-1] == toys.sign(target)
            return text + f"It holds the {'nearer' if nearer else 'farther'} value of the two."
        return text + f"No sign equals the target {target:+.2f}, but their average can."

    def _say_layers(self) -> str:
        run = self._layers()
        return (
            f"{int(run.flips.sum())} flips of 12 weights in {len(run.flips)} steps, {int(run.flips[-50:].sum())} in "
            f"the last quarter; in the last 20 steps the loss is {run.loss[-20:].mean():.2f} on average, between "
            f"{run.loss[-20:].min():.2f} and {run.loss[-20:].max():.2f}, and {run.accuracy[-20:].mean():.0%} of the "
            "points are right. The best direction lies between the two that binary weights can have."
        )

    def _say_words(self) -> str:
        product = self._words()
        n = len(product.a)
        return (
            f"{product.popcount} of {n} places are equal, so the dot product of the signs is 2 x {product.popcount} - "
            f"{n} = {product.product}: one XNOR and one popcount in place of {n} products and {n - 1} additions."
        )

    def _settings(self) -> dict[str, Any]:
        names = ("kind", "strength", "learning_rate", "momentum", "clip")
        return {"estimator_name": self.value("estimator")} | {
            name: self.value(name) for name in names
        }

    def _weight(self) -> toys.OneWeight:
        own = {name: self.value(name) for name in ("target", "noise", "start")}
        return _one_weight(**self._settings(), **own)

    def _layers(self) -> toys.TwoLayers:
        return _two_layers(**self._settings())

    def _words(self) -> toys.XnorProduct:
        return toys.xnor_popcount(self.value("word_a"), self.value("word_b"))

    def _main(self) -> Figure:
        lesson = self.value("lesson")
        if lesson == "curve":
            return self._curve(slope=False)
        figure, (ax,) = fixed(*_SIZE, left=0.7, right=0.55 if lesson == "layers" else 0.15)
        if lesson == "weight":
            draw.plot_one_weight(self._weight(), ax=ax)
        elif lesson == "layers":
            toy_networks.plot_network_loss(self._layers(), ax=ax)
        else:
            draw.plot_xnor(self._words(), ax=ax)
        return figure

    def _detail(self) -> Figure:
        lesson = self.value("lesson")
        if lesson == "curve":
            return self._curve(slope=True)
        figure, (ax,) = fixed(*_SIZE, left=0.7)
        if lesson == "weight":
            settings = {name: self.value(name) for name in ("target", "strength", "kind")}
            draw.plot_push(**settings, estimator_name=self.value("estimator"), ax=ax)
        elif lesson == "layers":
            toy_networks.plot_network_weights(self._layers(), ax=ax)
        else:
            draw.plot_xnor_sums(self._words(), ax=ax)
        return figure

    def _curve(self, *, slope: bool) -> Figure:
        """Return the figure of an estimator with its point moved: while it is dragged nothing else is drawn."""
        name, x = self.value("estimator"), self._point()
        if (name, slope) not in self._drawn:
            figure, (ax,) = fixed(*_SIZE, left=0.7)
            (draw.plot_slope if slope else draw.plot_estimator)(name, x, ax=ax)
            Ground(figure, draw.move_point(ax, name, x, slope=slope))
            self._drawn[name, slope] = figure
        figure = self._drawn[name, slope]
        draw.move_point(figure.axes[0], name, x, slope=slope)
        return figure

    def _point(self) -> float:
        return round(float(self.value("point")), 2)  # steps of 0.05 gather rounding errors


def _wide() -> dict[str, Any]:
    return {"style": {"description_width": "88px"}, "layout": W.Layout(width="300px")}
