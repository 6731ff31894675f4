"""What activations keep after their sign, channel by channel, and where binary attention looks on one image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import ipywidgets as W
from matplotlib.figure import Figure

from bvit_analysis import plots, tables
from bvit_analysis.plots import style
from bvit_analysis.plots.attention import class_text, token_text
from bvit_analysis.plots.information import channels_at
from bvit_analysis.plots.overlay import looks
from bvit_analysis.records import AttentionExamples, Run
from bvit_analysis.widgets.base import Explorer, read_runs, run_names
from bvit_analysis.widgets.choices import run_choices, step_choice
from bvit_analysis.widgets.screen import fixed

NONE = ""
"Value of `beside` for no second run, and of a choice that has nothing to choose from."


@final
class InformationExplorer(Explorer):
    """Sign entropy of each channel of a site, run over run, and the attention of single images against the teacher.

    Opens on a baseline and the run with activation shift of the same seed where there is one, at the site where
    the first run has most near-constant channels, and on the attention of the first run in its last block.

    Controls: run, beside (a second run or none), step and site (of the channels); image, block and token (of the
    attention of `run`).
    Pictures: channels (sorted by entropy), attention (head by head).

    Args:
        runs: Run, runs, or folders of runs; float runs are left out.
    """

    def __init__(self, runs: Run | str | Path | Sequence[Run | str | Path]) -> None:
        super().__init__("Information explorer")
        listed = tables.binary_runs(read_runs(runs))
        self.runs = run_names(listed)
        names = list(self.runs)
        first, second = tables.pair_of_seed(listed, "asm")
        sites = list(dict.fromkeys(site for run in listed for site in activation_sites(run)))
        counted = [run.channels["step"].unique().tolist() for run in listed]
        steps = sorted({int(step) for one in counted for step in one}) or [0]
        start = None if first is None else dullest_site(listed[first])
        wide = W.Layout(width="24em")
        for name, choice in run_choices(names, first, second).items():
            self.control(name, choice)
        self.control(
            "site",
            W.Select(
                options=[(style.clip(site), site) for site in sites] or [("no site", NONE)],
                value=start if start in sites else (sites[0] if sites else NONE),
                description="site",
                rows=6,
                layout=W.Layout(width="26em"),
            ),
        )
        self.control("step", step_choice(steps))
        self.control(
            "image", W.Dropdown(options=[("no image", 0)], description="image", layout=wide)
        )
        self.control(
            "block",
            W.SelectionSlider(
                options=[("none", 0)],
                description="attention",
                continuous_update=False,
                layout=W.Layout(width="30em"),
            ),
        )
        self.control(
            "token",
            W.IntSlider(min=0, max=0, description="query", continuous_update=False, layout=wide),
        )
        self._offer()
        self.controls["block"].value = len(self.controls["block"].options) - 1
        channels = self.panel("channels", self._draw_channels, ("run", "beside", "site", "step"))
        attention = self.panel(
            "attention", self._draw_attention, ("run", "image", "block", "token")
        )
        wrap = W.Layout(flex_flow="row wrap")
        choices = W.VBox([self.controls[name] for name in ("run", "beside", "step")])
        maps = W.VBox([self.controls[name] for name in ("image", "block", "token")])
        self.children = [
            W.HBox([choices, self.controls["site"]], layout=wrap),
            self.finding,
            channels,
            maps,
            attention,
        ]
        self.begin()

    def adapt(self, name: str) -> None:
        if name == "run":
            self._offer()

    def story(self) -> dict[str, list[Any]]:
        sites = [value for _, value in self.controls["site"].options]
        third = max(1, len(sites) // 3)
        chosen = list(dict.fromkeys([self.value("site"), *sites[::third]]))[:4]
        images = [value for _, value in self.controls["image"].options][:3]
        blocks = [value for _, value in self.controls["block"].options]
        ends = dict.fromkeys([blocks[0], self.value("block")])
        present = dict.fromkeys([*images, self.value("image")])
        return {
            "site": [site for site in sites if site in chosen],
            "image": sorted(present),
            "block": sorted(ends),
        }

    def say(self) -> str:
        shown, site, parts = self._shown(), self.value("site"), []
        for run, look in zip(shown, looks(shown), strict=True):
            taken, table = channels_at(run, site or None, self.value("step"))
            if len(table):
                late = "" if taken == self.value("step") else f" (at its step {taken})"
                parts.append(
                    f"{look.name}{late} has {int(table['near_constant'].sum())} of {len(table)} channels below half a "
                    f"bit{_everywhere(run, self.value('step'))}, {table['entropy_bits'].mean():.2f} bits on average"
                )
        text = "The signs of single channels are not recorded here."
        if parts:
            text = f"At {style.clip(site)}, step {self.value('step')}: {'; '.join(parts)}."
        doubt = tables.unverified_sentence(shown, sites=[site, *self._attention_site()])
        return " ".join(filter(None, (text, self._say_attention(), doubt)))

    def _say_attention(self) -> str:
        examples = self._examples()
        if examples is None:
            return "No attention of single images is recorded in this run."
        image, block, token = (self.value(name) for name in ("image", "block", "token"))
        query = token_text(
            token, tables.token_grid(examples.bits.shape[-1], *examples.images.shape[2:])
        )
        text = f"On image {image} at {style.clip(examples.sites[block])}: "
        queries = {f"the {query}": token, "the mean query": None}
        parts = []
        for name, chosen in queries.items():
            table = tables.attention_table(examples, image=image, block=block, token=chosen)
            part = f"{name} attends to {table['share_of_ones'].mean():.0%} of the tokens"
            if examples.teacher is not None:
                part += (
                    f", which hold {table['teacher_mass'].mean():.0%} of the float teacher's attention (as many at "
                    f"best {table['best_mass'].mean():.0%})"
                )
            parts.append(part)
        return f"{text}{'; '.join(parts)}. Means over heads."

    def _shown(self) -> list[Run]:
        names = dict.fromkeys((self.value("run"), self.value("beside")))
        return [self.runs[name] for name in names if name in self.runs]

    def _examples(self) -> AttentionExamples | None:
        run = self.runs.get(self.value("run"))
        return None if run is None else run.attention

    def _attention_site(self) -> list[str]:
        examples = self._examples()
        return [] if examples is None else [examples.sites[self.value("block")]]

    def _offer(self) -> None:
        """Offer the images, attention sites and tokens of the run, and keep what is chosen where it has them."""
        examples = self._examples()
        images: list[tuple[str, int]] = [("no image", 0)]
        blocks: list[tuple[str, int]] = [("none", 0)]
        tokens = 1
        if examples is not None:
            names = tables.class_names(self.runs[self.value("run")])
            images = [
                (f"{position}: {class_text(int(label), names)}", position)
                for position, label in enumerate(examples.labels)
            ]
            # The slider has room for a dozen letters: "blocks.3", not the whole path.
            blocks = [
                (style.clip(site.removesuffix(".attn.probabilities"), 24), place)
                for place, site in enumerate(examples.sites)
            ]
            tokens = examples.bits.shape[-1]
        for name, options in (("image", images), ("block", blocks)):
            control = self.controls[name]
            if tuple(options) != tuple(control.options):
                kept = control.value
                control.options = options
                control.value = min(kept or 0, len(options) - 1)
        self.controls["token"].max = tokens - 1

    def _draw_channels(self) -> Figure:
        figure, (ax,) = fixed(7.8, 2.9, right=1.95)
        site = self.value("site") or None
        plots.plot_channels(self._shown(), ax=ax, site=site, step=self.value("step"))
        return figure

    def _draw_attention(self) -> Figure:
        run = self.runs.get(self.value("run"))
        figure = plots.plot_attention(
            self._examples(),
            image=self.value("image"),
            block=self.value("block"),
            token=self.value("token"),
            names=() if run is None else tables.class_names(run),
        )
        doubt = tables.unverified_sentence(run, sites=self._attention_site())
        style.note(figure.axes[-1], doubt)
        return figure


def activation_sites(run: Run) -> list[str]:
    """Return the names of a run's activation sites in model order."""
    table = run.site_table
    return table.loc[table["kind"] == "activation", "site"].tolist()


def dullest_site(run: Run) -> str | None:
    """Return the activation site with the largest share of near-constant channels at the last step, if recorded."""
    sites = set(tables.channel_sites(run)) & set(activation_sites(run))
    shares = {
        site: tables.channel_entropy(run, site)["near_constant"].mean() for site in sorted(sites)
    }
    return max(shares, key=lambda site: shares[site], default=None)


def _everywhere(run: Run, step: int) -> str:
    """Return in brackets the share of near-constant channels over all activation sites, where it is recorded."""
    frame = run.sites
    if "near_constant_share" not in frame.columns:
        return ""
    rows = frame[frame["near_constant_share"].notna().to_numpy()]
    rows = rows[rows["kind"] == "activation"]
    rows = rows[rows["step"] == tables.step_at(rows["step"].unique(), step)]
    if rows.empty:
        return ""
    return f" (over all sites {rows['near_constant_share'].mean():.1%} of the channels)"
