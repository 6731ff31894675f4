"""Sites: the places in a model where something is binarized, named by their module paths."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bvit_analysis.errors import ConfigError
from bvit_analysis.layers.attention import BinaryProbabilities
from bvit_analysis.layers.linear import BinaryLinear
from bvit_analysis.layers.shift import BinarySign

EffectiveSign = Callable[[nn.Module], Tensor]
"Module -> what the sign of its weight is taken of."
SignArgument = Callable[[nn.Module, Any], Tensor]
"Module and its first input -> what the sign of its activation is taken of."

Kind = Literal["weight", "activation", "attention"]
"What is binarized at a site."

_FOREIGN: tuple[tuple[str, Kind], ...] = (
    ("activation_sign", "activation"),
    ("attention_sign", "attention"),
)
_WRAPPERS = ("_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module")
"Children by which torch.compile, activation checkpointing and FSDP hold what they wrap."
_PARALLEL = ("DistributedDataParallel", "DataParallel", "AveragedModel")
"Classes that hold what they wrap as `module`, a name that others use for what belongs to the model."


@dataclass(kw_only=True, eq=False)
class Site:
    """A place where something is binarized.

    A weight site has a latent weight; an activation site is a sign of activations; an attention site turns scores
    into {0, a}.
    """

    name: str
    "Module path, for example 'blocks.3.attn.qkv'; without what torch.compile, DDP and checkpointing put around a module."
    kind: Kind
    "What is binarized."
    module: nn.Module
    "The module at that path."
    shape: tuple[int, ...]
    "(O, I, ...) of a weight, (C,) of an activation, (heads,) of an attention; () where the first pass will tell."
    effective_sign: EffectiveSign | None = None
    "For a weight site: module -> tensor of the weight's shape whose sign the forward pass uses."
    latent: nn.Parameter | None = None
    "For a weight site: the parameter that the optimizer moves; a watch sets it anew where the model's was replaced."
    centred: bool = False
    "Whether the sign is of the weight minus its row mean."
    effective_level: EffectiveSign | None = None
    "For a weight of more than two levels: module -> whole number of each weight's level, in their order, (O, I, ...)."
    argument: SignArgument | None = None
    "For somebody else's activation or attention: module and its first input -> what is compared with 0."

    @torch.no_grad()
    def effective(self) -> Tensor:
        """Return the argument of the weight's sign, detached: the effective sign is +1 where it is >= 0."""
        if self.effective_sign is None:
            raise ConfigError(
                f"site {self.name} is of kind {self.kind}; only weight sites have an effective sign"
            )
        return self.effective_sign(self.module).detach()


def find_sites(
    model: nn.Module,
    *,
    effective_sign: Mapping[type[nn.Module], EffectiveSign] | None = None,
    activation_sign: Mapping[type[nn.Module], SignArgument] | None = None,
    attention_sign: Mapping[type[nn.Module], SignArgument] | None = None,
    effective_level: Mapping[type[nn.Module], EffectiveSign] | None = None,
) -> list[Site]:
    """List the binary sites of a model in module order; tied weights are listed once.

    A class stands for its subclasses too; of several the nearest one is taken.

    Args:
        model: Any module; one without binary layers and without effective_sign has no sites.
        effective_sign: Somebody else's layers: class -> function of the module that returns a tensor of its weight's
            shape whose effective sign is +1 where it is >= 0, for example
            ``{CentredLinear: lambda m: m.weight - m.weight.mean(1, keepdim=True)}``.
        activation_sign: Somebody else's binarizers of activations: class -> function of the module and its first input
            that returns what the sign is taken of, channels last, (..., C), for example
            ``{TheirSign: lambda m, x: x + m.shift}``.
        attention_sign: Somebody else's binarizers of attention: the same, (B, heads, N, N).
        effective_level: For layers of effective_sign whose weights have more than two levels: class -> function of the
            module that returns whole numbers, one more for each next level, for example
            ``{LSQLinear: lambda m: (m.weight / m.step).round().clamp(-2, 1)}``; without it the levels are read off
            the computation that a forward pass shows.

    Returns:
        Sites with unique names.

    Raises:
        ConfigError: If a key is no class of modules or the model has none of it, a function fails, or its result does
            not have the shape of the module's weight.
    """
    weights, levels = _checked(effective_sign), _checked(effective_level)
    activations, attentions = _checked(activation_sign), _checked(attention_sign)
    given: dict[str, Mapping[type[nn.Module], Any]] = {
        "effective_sign": weights,
        "effective_level": levels,
        "activation_sign": activations,
        "attention_sign": attentions,
    }
    used: set[tuple[str, type[nn.Module]]] = set()

    def nearest(what: str, module: nn.Module) -> Any:
        for one in type(module).__mro__:
            if one in given[what]:
                used.add((what, one))
                return given[what][one]
        return None

    sites: list[Site] = []
    for name, module in model.named_modules():
        function = nearest("effective_sign", module)
        if function is not None:
            site = _foreign_weight(_own_name(model, name), module, function)
            sites.append(replace(site, effective_level=nearest("effective_level", module)))
            continue
        for what, kind in _FOREIGN:
            argument = nearest(what, module)
            if argument is not None:
                own = _own_name(model, name)
                sites.append(Site(name=own, kind=kind, module=module, shape=(), argument=argument))
                break
        else:
            sites += _own_site(_own_name(model, name), module)
    for what, mapping in given.items():
        for key in mapping:
            if (what, key) not in used:
                raise ConfigError(_unmatched(model, what, key))
    return distinct(sites)


def distinct(sites: Sequence[Site]) -> list[Site]:
    """Return sites without those whose latent weight is an earlier one's, or shares its storage.

    Raises:
        ConfigError: If two of the rest have one name, or a weight is on the meta device or a DTensor.
    """
    kept: list[Site] = []
    seen: set[object] = set()
    for site in sites:
        if site.latent is not None:
            _check_plain(site)
            keys = {id(site.latent), (site.latent.data_ptr(), site.latent.numel())}
            if site.latent.data_ptr() == 0:  # empty
                keys = {id(site.latent)}
            if keys & seen:
                continue
            seen |= keys
        kept.append(site)
    names = [site.name for site in kept]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"two sites are named {twice[0]!r}; give each site its own name")
    return kept


def describe_sites(sites: Sequence[Site]) -> list[dict[str, object]]:
    """Return the site table of a run record: one row a site with site_id, site, kind, shape and n_weights."""
    return [
        {
            "site_id": index,
            "site": site.name,
            "kind": site.kind,
            "shape": list(site.shape),
            "n_weights": site.latent.numel() if site.latent is not None else 0,
        }
        for index, site in enumerate(sites)
    ]


def _own_site(name: str, module: nn.Module) -> Iterator[Site]:
    if isinstance(module, BinaryLinear):
        yield Site(
            name=name,
            kind="weight",
            module=module,
            shape=tuple(module.weight.shape),
            effective_sign=_latent,
            latent=module.weight,
            centred=module.centred,
        )
    elif isinstance(module, BinarySign):
        yield Site(name=name, kind="activation", module=module, shape=(module.dim,))
    elif isinstance(module, BinaryProbabilities):
        yield Site(name=name, kind="attention", module=module, shape=(module.num_heads,))


def _latent(module: nn.Module) -> Tensor:
    assert isinstance(module, BinaryLinear)
    return module.latent()


def _foreign_weight(name: str, module: nn.Module, function: EffectiveSign) -> Site:
    kind = type(module).__name__
    try:
        with torch.no_grad():
            found = function(module)
    except ConfigError:
        raise
    except Exception as error:  # somebody else's code may fail in any way
        text = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ConfigError(
            f"effective_sign[{kind}] failed at {name}: {text}; it is given the module alone and returns a tensor"
        ) from error
    if not isinstance(found, Tensor):
        raise ConfigError(
            f"effective_sign[{kind}] must return a tensor, got {type(found).__name__} at {name}; return what the sign of"
            " the weight is taken of"
        )
    return Site(
        name=name,
        kind="weight",
        module=module,
        shape=tuple(found.shape),
        effective_sign=function,
        latent=_latent_of(name, module, tuple(found.shape)),
    )


def _latent_of(name: str, module: nn.Module, shape: tuple[int, ...]) -> nn.Parameter:
    """Find the parameter behind a foreign layer's weight: `weight`, else the only one of as many elements."""
    kind = type(module).__name__
    parametrized = getattr(getattr(module, "parametrizations", None), "weight", None)
    weight = getattr(parametrized, "original", module._parameters.get("weight"))
    if isinstance(weight, nn.Parameter):
        if tuple(weight.shape) != shape:
            raise ConfigError(
                f"effective_sign[{kind}] must return the weight's shape {tuple(weight.shape)}, got {shape} at {name}"
            )
        return weight
    size = torch.Size(shape).numel()
    fitting = {n: p for n, p in module.named_parameters() if p.numel() == size}
    if len(fitting) == 1:
        return next(iter(fitting.values()))
    have = ", ".join(f"{n} {tuple(p.shape)}" for n, p in module.named_parameters()) or "none"
    raise ConfigError(
        f"{name} ({kind}) has no parameter 'weight', and {len(fitting)} of its parameters ({have}) have the {size} elements"
        f" of what effective_sign[{kind}] returns; make the site yourself: bv.Site(name={name!r}, kind='weight',"
        " module=m, shape=..., effective_sign=f, latent=m.your_parameter)"
    )


def _checked(mapping: Mapping[type[nn.Module], Any] | None) -> dict[type[nn.Module], Any]:
    for key, value in (mapping or {}).items():
        if not (isinstance(key, type) and issubclass(key, nn.Module)):
            raise ConfigError(
                f"expected a class of modules as key, got {key!r}; pass the class itself, such as {{TheirLinear: fn}}"
            )
        if not callable(value):
            raise ConfigError(
                f"expected a function for {key.__name__}, got {type(value).__name__}; pass one that takes the module"
            )
    return dict(mapping or {})


def _unmatched(model: nn.Module, what: str, key: type[nn.Module]) -> str:
    names = sorted({type(module).__name__ for module in model.modules()})
    near = difflib.get_close_matches(key.__name__, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}? " if near else ""
    cure = (
        "layers of effective_level must be in effective_sign, too"
        if what == "effective_level"
        else f"its modules are {', '.join(names[:12])}"
    )
    return (
        f"{what} names {key.__module__}.{key.__qualname__}, but the {type(model).__name__} has no module of that class;"
        f" {hint}{cure}"
    )


def _own_name(model: nn.Module, path: str) -> str:
    """Return a module's path without the names that wrappers put into it."""
    kept: list[str] = []
    module: Any = model
    for part in path.split(".") if path else []:
        wrapped = part in _WRAPPERS or (part == "module" and type(module).__name__ in _PARALLEL)
        if not wrapped:
            kept.append(part)
        module = getattr(module, part)
    return ".".join(kept)


def _check_plain(site: Site) -> None:
    assert site.latent is not None
    if site.latent.is_meta:
        raise ConfigError(
            f"the weight of {site.name} is on the meta device and holds no values; materialise the model first"
        )
    if type(site.latent).__name__ == "DTensor" or type(site.latent.data).__name__ == "DTensor":
        raise ConfigError(
            f"the weight of {site.name} is a DTensor, sharded over processes; flips are counted in one process only, so"
            " watch an unsharded model"
        )
