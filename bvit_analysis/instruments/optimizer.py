"""What an optimizer does with the watched weights: which it moves, when it steps, and with which gradients."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, final

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from bvit_analysis.errors import ConfigError
from bvit_analysis.sites import Site


def innermost(optimizer: Any, latents: Sequence[Tensor] = ()) -> Optimizer:
    """Return the optimizer that a wrapper steps in the end: of Lookahead, SAM, PARQ, accelerate or Lightning.

    A wrapper is whatever holds an optimizer in an attribute; a torch optimizer whose held ones do not move the weights
    is itself the innermost.

    Args:
        optimizer: Or what wraps one.
        latents: The weights in question; of several optimizers the one that moves them is meant.

    Raises:
        ConfigError: If there is no torch optimizer in it, or several that may be meant.
    """
    seen: set[int] = set()
    one = optimizer
    while id(one) not in seen:
        seen.add(id(one))
        held = {id(each): each for each in _held(one) if each is not one}
        moving = [each for each in held.values() if _owned(each) & {id(p) for p in latents}]
        inner = moving or ([] if isinstance(one, Optimizer) and latents else list(held.values()))
        if len(inner) > 1:
            raise ConfigError(
                f"{type(optimizer).__name__} holds {len(inner)} optimizers; give the one that moves the binary weights"
            )
        if inner:
            one = inner[0]
    if not isinstance(one, Optimizer):
        raise ConfigError(
            f"expected a torch optimizer or what wraps one, got {type(optimizer).__name__}; leave optimizer out and call"
            " step(applied=...) instead"
        )
    return one


def _held(one: Any) -> list[Optimizer]:
    found: list[Optimizer] = []
    for value in getattr(one, "__dict__", {}).values():
        many = value.values() if isinstance(value, dict) else value
        each = list(many) if isinstance(value, (list, tuple, dict)) else [value]
        found += [v for v in each if isinstance(v, Optimizer)]
    return found


def _owned(optimizer: Optimizer) -> set[int]:
    return {id(p) for group in optimizer.param_groups for p in group["params"]}


def check_moves(optimizer: Optimizer, sites: Sequence[Site]) -> None:
    """See that an optimizer owns the watched weights.

    Raises:
        ConfigError: If it owns none of them.
    """
    owned = _owned(optimizer)
    latents = [site for site in sites if site.latent is not None and site.latent.requires_grad]
    foreign = [site.name for site in latents if id(site.latent) not in owned]
    if latents and len(foreign) == len(latents):
        raise ConfigError(
            f"the optimizer ({type(optimizer).__name__}) owns none of the {len(latents)} watched weights, such as that of"
            f" {foreign[0]}; give the one that moves them, made from the same model's parameters"
        )
    if foreign:
        named = ", ".join(foreign[:5]) + (", ..." if len(foreign) > 5 else "")
        warnings.warn(
            f"the optimizer does not own {len(foreign)} of {len(latents)} watched weights ({named}); their gradients are"
            " read when it steps",
            RuntimeWarning,
            stacklevel=4,
        )


@final
class StepHooks:
    """Sees each step of an optimizer: whether it was applied, and the gradients that the update used.

    The gradients are read before the update; where the optimizer is given a closure, as Lightning does, when the first
    call of the closure returns, with the weights still where the step began.

    Args:
        optimizer: Or what wraps one.
        latents: The weights in question.
        gather: Called when the gradients that the update uses are there, with the factor they are scaled by.

    Raises:
        ConfigError: If there is no torch optimizer in it.
    """

    def __init__(
        self, optimizer: Any, latents: Sequence[Tensor], gather: Callable[[float], None]
    ) -> None:
        self.optimizer = innermost(optimizer, latents)
        self._gather = gather
        self._handles: list[RemovableHandle] = []
        self.stepped = 0
        "Applied steps since this was last set to 0."

    def attach(self) -> None:
        """Put the hooks into the optimizer."""
        self._handles = [
            self.optimizer.register_step_pre_hook(self._before),
            self.optimizer.register_step_post_hook(self._after),
        ]

    def remove(self) -> None:
        """Take the hooks out again."""
        while self._handles:
            self._handles.pop().remove()

    def take(self, *, warn: bool) -> int:
        """Return how many steps were applied since the last call, and say if they were several.

        Args:
            warn: Whether to say it.
        """
        stepped, self.stepped = self.stepped, 0
        if warn and stepped > 1:
            warnings.warn(
                f"the optimizer stepped {stepped} times since the last watch.step(); call it after each step,"
                " or flips between them are missed",
                RuntimeWarning,
                stacklevel=5,
            )
        return stepped

    def _before(self, optimizer: Optimizer, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        # The first argument is the optimizer itself in some versions of torch.
        own = tuple(args)
        lead = own[:1] if own and own[0] is optimizer else ()
        rest = own[len(lead) :]
        closure = rest[0] if rest else kwargs.get("closure")
        if not callable(closure):
            self._gather(_grad_scale(optimizer))
            return None
        heard = _Closure(closure, lambda: self._gather(_grad_scale(optimizer)))
        if rest:
            return (*lead, heard, *rest[1:]), kwargs
        return own, {**kwargs, "closure": heard}

    def _after(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        # Fused optimizers take the scaler's verdict with them and skip inside; it is 1 where a gradient overflowed.
        found_inf = getattr(optimizer, "found_inf", None)
        if not (isinstance(found_inf, Tensor) and bool((found_inf != 0).any())):
            self.stepped += 1


@final
class _Closure:
    """A closure that says when its first call has returned."""

    def __init__(self, closure: Callable[..., Any], after: Callable[[], None]) -> None:
        self._closure = closure
        self._after: Callable[[], None] | None = after

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        made = self._closure(*args, **kwargs)
        after, self._after = self._after, None
        if after is not None:
            with torch.no_grad():
                after()
        return made

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._closure, name)


def _grad_scale(optimizer: Optimizer) -> float:
    scale = getattr(optimizer, "grad_scale", None)
    return float(scale) if isinstance(scale, Tensor) else 1.0
