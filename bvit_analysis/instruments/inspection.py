"""What a watch says about itself: which signs were verified, what is quantized how, and what it could not see."""

from __future__ import annotations

import warnings
from typing import Any, final

from bvit_analysis.instruments.base import Watched
from bvit_analysis.instruments.standard import Panel
from bvit_analysis.instruments.verification import MOST_LEVELS, Verifier, levels_of


@final
class Inspection:
    """Looks at the forward passes of a watched model every so often, and says once what is amiss.

    Args:
        watched: What is watched.
        panel: The watch's instruments.
    """

    def __init__(self, watched: Watched, panel: Panel) -> None:
        self._watched = watched
        self._panel = panel
        self._verifier = Verifier(watched.sites, self._see)
        self._said: set[str] = set()
        self._first_step = 1

    def begin(self) -> None:
        """Look at the next pass, before the first step of this watch."""
        self._first_step = self._panel.flips.steps + 1
        self.look()

    def look(self) -> None:
        """Look at the next pass of every site."""
        self._verifier.ask(self._panel.flips.steps)

    def remove(self) -> None:
        """Take all hooks out of the model."""
        self._verifier.remove()

    def step(self) -> bool:
        """See that a step was applied; say what its passes did not show, and return whether there is news to record."""
        step, levels = self._panel.flips.steps, self._panel.levels
        first = step == self._first_step
        if first:
            self._verifier.ask_own()
            self._verifier.warn()
            verdicts = self._verifier.verdicts.values()
            unquantized = any((one.levels or 0) > MOST_LEVELS for one in verdicts)
            if unquantized or (levels is not None and levels.unfollowed()):
                self.look()  # a layer that sets itself up in its first step shows more in the next pass
        elif step == self._first_step + 1 and levels is not None:
            levels.warn()
        if self._panel.heard_nothing:
            self._warn(
                "heard nothing",
                f"no training pass of the watched {type(self._watched.model).__name__} was heard in step {step}, so that it"
                " has no activation rows; train this very model, in train mode and with gradients on",
            )
        if step % self._watched.config.verification_every == 0:
            self.look()
        return first

    def finish(self) -> None:
        """Compare a last time, and say what changed since the last step that was seen."""
        step = self._panel.flips.steps
        self._verifier.finish(step)
        missed = self._panel.flips.tracker.differing()
        if missed:
            self._warn(
                "missed",
                f"{missed} signs changed after the last watch.step(), at step {step}, and are not counted; call it after"
                " each optimizer step",
            )

    def describe(self) -> dict[str, dict[str, Any]]:
        """Return by site what run.json says of it beside its shape: verified, unverified, levels."""
        verdicts = self._verifier.verdicts
        return {self._watched.sites[i].name: verdict.describe() for i, verdict in verdicts.items()}

    def _see(self, site_id: int) -> None:
        """Take up that a forward pass has shown the used weight of a site."""
        site, levels = self._watched.sites[site_id], self._verifier.verdicts[site_id].levels or 0
        self._panel.flips.take_again(site_id)
        if self._panel.trajectories is not None:
            self._panel.trajectories.take_again(site_id)
        if levels > MOST_LEVELS:
            self._watched.multilevel.add(site_id)
            self._warn(
                site.name,
                f"the forward pass of site {site.name} uses a weight of more than {MOST_LEVELS} levels, which is not"
                " quantized; its sign changes are recorded, and are no flips",
            )
        elif levels > 2 or site.effective_level is not None:
            self._watched.multilevel.add(site_id)
            if self._panel.levels is not None:
                self._panel.levels.follow(site_id, self._verifier.programs.get(site_id))
        else:
            self._watched.multilevel.discard(site_id)
        argument = site.effective()
        long = argument[:1].numel() > 2 * MOST_LEVELS
        if long and (values := levels_of(argument)) <= MOST_LEVELS:
            self._warn(
                f"{site.name} latent",
                f"what the sign of site {site.name} is taken of has {values} values a row: it is a quantized"
                " weight and no latent one, so measures of its distribution say nothing; return the latent weight from"
                " effective_sign, of PARQ opt.state[m.weight]['latent']",
            )

    def _warn(self, what: str, text: str) -> None:
        if what not in self._said:
            self._said.add(what)
            warnings.warn(text, RuntimeWarning, stacklevel=5)
