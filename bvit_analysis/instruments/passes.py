"""Which forward passes belong to one applied step.

A step may run the model more often than it updates it: passes without a backward pass, passes of a step that a
gradient scaler skipped, passes that probe the loss elsewhere (SAM, a line search), beside the micro-batches whose
gradients are added up. A pass belongs to the step if its backward pass ran, the gradients that it left were not thrown
away, and the weights were those that the step began with.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten
from torch.utils.hooks import RemovableHandle

from bvit_analysis.instruments.base import Watched
from bvit_analysis.instruments.listening import Listener

_PROBED = 4
_VALUES = 64


@final
class Passes(Listener):
    """Tells the passes of the model in one sampled step apart.

    Args:
        model: The model; each of its forward passes is one pass.
        latents: Parameters that the optimizer moves; a few of them tell whether gradients were thrown away and whether the
            weights are where they were.
    """

    def __init__(self, model: nn.Module, latents: Sequence[nn.Parameter]) -> None:
        super().__init__()
        self._model = weakref.ref(model)
        # In the order of the forward pass: a backward pass reaches the first of them last.
        self._latents = [p for p in latents if p.requires_grad][:_PROBED]
        self._leaves: list[RemovableHandle] = []
        self.forget()

    def _attach(self) -> None:
        model = self._model()
        if model is not None:
            self.tap_start(model, None)
            self.tap(model, None)

    def forget(self) -> None:
        """Begin a step: no pass so far, the weights as they are."""
        self._passes = 0
        self._inside = False
        self._used: set[int] = set()
        self._dropped: set[int] = set()
        self._seen: set[object] = set()
        self._task = -1
        self._probing = False
        self._begin_weights = self._weights()
        while self._leaves:
            self._leaves.pop().remove()

    def skip(self) -> None:
        """Note that no step was applied: what comes next starts from the weights as they are."""
        self._begin_weights = self._weights()
        self._probing = False

    def start(self, key: Any, inputs: tuple[Any, ...]) -> None:
        self._begin()
        self._inside = True

    def hear(self, key: Any, inputs: tuple[Any, ...], output: Any) -> None:
        self._inside = False
        self._mark_when_backward_runs(output)

    def of(self, site_id: int, output: Any) -> int:
        """Return the number of the pass in which a site is heard, and mark the pass when its backward runs.

        Args:
            site_id: Of the site; one that is heard a second time outside the model's own pass begins a new one.
            output: What its module returned.
        """
        if not self._passes or (not self._inside and site_id in self._seen and not _in_backward()):
            self._begin()
        self._seen.add(site_id)
        number = self._passes
        if _in_backward():  # a checkpoint that is run again, whose first run had no gradients
            self.mark(number)
        elif not self._mark_when_backward_runs(output) and not self._leaves:
            # In a compiled graph: that the gradient arrives at a weight tells of the backward pass.
            self._leaves = [p.register_hook(_Mark(self, None)) for p in self._latents[:1]]
        return number

    def _mark_when_backward_runs(self, output: Any) -> bool:
        made = [one for one in tree_flatten(output)[0] if isinstance(one, Tensor)]
        made = [one for one in made if one.grad_fn is not None]
        for tensor in made:
            tensor.register_hook(_Mark(self, self._passes))
        return bool(made)

    def mark(self, number: int | None) -> None:
        """Note that a pass's backward runs; None means all that have not had theirs."""
        task = torch._C._current_graph_task_id()
        if task != self._task:
            self._task = task
            if self._used and self._cleared(self._latents[:1] if number is None else self._latents):
                if not torch.equal(self._weights(), self._begin_weights):
                    self._probing = True
                else:
                    self._dropped |= self._used - {number}
                    self._used -= self._dropped
                    self._probing = False
        unknown = set(range(1, self._passes + 1)) - self._used - self._dropped
        for one in unknown if number is None else {number} - self._used:
            (self._dropped if self._probing else self._used).add(one)

    def kept(self) -> set[int]:
        """Return the numbers of the passes that belong to the step; all, where no backward pass was seen."""
        used = self._used - self._dropped
        return used if self._used or self._dropped else set(range(1, self._passes + 1))

    def _begin(self) -> None:
        self._passes += 1
        self._seen = set()

    def _cleared(self, latents: Sequence[nn.Parameter]) -> bool:
        """Return whether gradients were thrown away, by those that this backward pass has not reached yet."""
        if not latents:
            return False  # nothing tells
        gradients = [p.grad for p in latents if p.grad is not None]
        return not any(bool(gradient.any()) for gradient in gradients)

    @torch.no_grad()
    def _weights(self) -> Tensor:
        parts = [p.detach().reshape(-1)[:_VALUES].float() for p in self._latents]
        return torch.cat(parts).clone() if parts else torch.zeros(0)


@final
class _Mark:
    """A gradient hook that holds its passes weakly and leaves the gradient alone."""

    def __init__(self, passes: Passes | None = None, number: int | None = None) -> None:
        self._passes = None if passes is None else weakref.ref(passes)
        self._number = number

    def __call__(self, gradient: Tensor) -> None:
        passes = None if self._passes is None else self._passes()
        if passes is not None:
            passes.mark(self._number)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Mark:
        return _Mark()

    def __reduce__(self) -> tuple[type[_Mark], tuple[()]]:
        return _Mark, ()


def passes_of(watched: Watched) -> Passes:
    """Return what tells the passes of a watch's sampled steps apart, one for all its instruments."""
    latents = [site.latent for site in watched.weights.values() if site.latent is not None]
    # Where activations alone are watched, the model's first parameters tell.
    probed = latents or list(watched.model.parameters())
    return watched.share(Passes, lambda: Passes(watched.model, probed))


def _in_backward() -> bool:
    return torch._C._current_graph_task_id() != -1
