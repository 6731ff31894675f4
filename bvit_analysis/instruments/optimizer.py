"""What an optimizer does with the watched weights: which it moves, when it steps, and with which gradients."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
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


_PASSING = {"AcceleratedOptimizer": "accelerate", "LightningOptimizer": "lightning"}
"Wrappers that add nothing to the update, and the package of each."


def describe_optimizer(
    optimizer: Optimizer, sites: Sequence[Site], *, given: Any = None
) -> dict[str, Any]:
    """Return what run.json says of the optimizer that moves the watched weights.

    Args:
        optimizer: The innermost one.
        sites: The watched sites.
        given: What the watch was given, which may wrap it.

    Returns:
        name; class; wrapped_by (a name, or None where nothing around it changes the update); groups, one for each of
        its groups that own watched weights: sites, lr_factor (its rate / that of the first) and every setting that is a
        number, a pair or a switch; changed_at, the first step at which these differed (None so far).
    """
    kind = type(optimizer)
    outer = None if given is None or given is optimizer else type(given)
    if outer is not None and outer.__module__.split(".")[0] in ("lightning", "pytorch_lightning"):
        passes = outer.__name__.startswith("Lightning")
    else:
        passes = (
            outer is not None and _PASSING.get(outer.__name__) == outer.__module__.split(".")[0]
        )
    groups = _owning(optimizer, sites)
    first = _rate(groups[0][0]) if groups else 0.0
    return {
        "name": kind.__name__,
        "class": f"{kind.__module__}.{kind.__qualname__}",
        "wrapped_by": None if outer is None or passes else outer.__name__,
        "groups": [
            {
                "sites": names,
                "lr_factor": _rate(group) / first if first else 1.0,
                **_settings(group),
            }
            for group, names in groups
        ],
        "changed_at": None,
    }


def _owning(optimizer: Optimizer, sites: Sequence[Site]) -> list[tuple[dict[str, Any], list[str]]]:
    """Return the groups that own watched weights, and the names of the sites of each."""
    found = []
    for group in optimizer.param_groups:
        own = {id(parameter) for parameter in group["params"]}
        names = [site.name for site in sites if site.latent is not None and id(site.latent) in own]
        if names:
            found.append((group, names))
    return found


def _rate(group: Mapping[str, Any]) -> float:
    return float(group.get("lr", 0.0))


def _settings(group: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a group that say how it updates, without its rate, which each step records."""
    left_out = ("params", "lr", "initial_lr", "max_lr", "min_lr", "param_names")
    kept: dict[str, Any] = {}
    for name, value in group.items():
        if name in left_out:
            continue
        if isinstance(value, (bool, int, float)):
            kept[name] = value
        elif isinstance(value, (tuple, list)) and all(isinstance(v, (int, float)) for v in value):
            kept[name] = [float(v) for v in value]
    return kept


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
        sites: Whose weights are in question.
        gather: Called when the gradients that the update uses are there, with the factor they are scaled by.

    Raises:
        ConfigError: If there is no torch optimizer in it.
    """

    def __init__(
        self, optimizer: Any, sites: Sequence[Site], gather: Callable[[float], None]
    ) -> None:
        latents = [site.latent for site in sites if site.latent is not None]
        self.optimizer = innermost(optimizer, latents)
        self._given = optimizer
        self._sites = sites
        self._gather = gather
        self.rate: float | None = None
        "Learning rate of the watched weights in the last step."
        self._handles: list[RemovableHandle] = []
        self.stepped = 0
        "Applied steps since this was last set to 0."

    def describe(self) -> dict[str, Any]:
        """Return what run.json says of the optimizer as it is now; see describe_optimizer."""
        return describe_optimizer(self.optimizer, self._sites, given=self._given)

    def attach(self) -> None:
        """Put the hooks into the optimizer."""
        self._groups = [group for group, _ in _owning(self.optimizer, self._sites)]
        self._last = self._began = self._state(())
        self._handles = [
            self.optimizer.register_step_pre_hook(self._before),
            self.optimizer.register_step_post_hook(self._after),
        ]

    def remove(self) -> None:
        """Take the hooks out again."""
        while self._handles:
            self._handles.pop().remove()

    def changed(self) -> bool:
        """Return whether a setting other than the rate was another in the last step than in the first."""
        return self._last != self._began

    def _state(self, before: tuple[float, ...]) -> tuple[list[dict[str, Any]], tuple[float, ...]]:
        """Return the settings of the groups, and the rate of each / that of the first; at rate 0 those before."""
        rates = [_rate(group) for group in self._groups]
        factors = tuple(round(rate / rates[0], 6) for rate in rates) if any(rates[:1]) else before
        return [_settings(group) for group in self._groups], factors

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
        self.rate = _rate(self._groups[0]) if self._groups else None
        self._last = self._state(self._last[1])
        if not self._began[1]:
            self._began = (self._began[0], self._last[1])
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
