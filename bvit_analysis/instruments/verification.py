"""Whether the sign that is tracked is the sign that the forward pass uses, seen in the model's own passes."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from bvit_analysis.errors import ConfigError
from bvit_analysis.instruments.compiled import is_compiled
from bvit_analysis.instruments.program import WeightProgram
from bvit_analysis.instruments.spy import SeenWeight, WeightSpy
from bvit_analysis.sites import Site

MOST_LEVELS = 16
"A used weight of more levels than this is not quantized: 4 bits have 16."
_ROWS = 64
_CLOSE = 1e-4  # of the largest: a straight-through sum leaves rounding noise around each level
_SPANNED = 0.01  # of the largest
_NAMED = 5


@final
@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What is known of a site's sign."""

    how: str = ""
    "What it was compared with; empty if it never was."
    step: int = 0
    "Applied steps at the last comparison."
    compared: float = 0.0
    "Share of the weights that were compared; those that are used as 0 have no sign."
    differing: float = 0.0
    "Share of the compared that differ."
    levels: int | None = None
    "Most different values that a row of the used weight has had; None if unknown."
    reason: str = "no forward pass was seen"
    "Why it never was compared."

    @property
    def holds(self) -> bool:
        """Whether it was compared and did not differ."""
        return bool(self.how) and self.differing == 0.0

    def describe(self) -> dict[str, Any]:
        """Return what run.json says of the site: `verified` and `levels`."""
        record: dict[str, Any] = {"verified": False, "levels": self.levels}
        if self.how:
            found = {
                "how": self.how,
                "step": self.step,
                "compared": self.compared,
                "differing": self.differing,
            }
            record |= {"verified": found if self.holds else False, "unverified": None}
            if not self.holds:
                record["unverified"] = (
                    f"{self.differing:.2%} of the signs differed at step {self.step}"
                )
        else:
            record["unverified"] = self.reason
        return record


@final
class Verifier:
    """Compares the tracked signs of all sites with what the model's own forward passes use.

    It looks at the first pass with gradients after it is asked to, of each site once, and then takes its hooks out.
    The pass is the model's own: nothing is copied, no input is made up, and no bit of it changes. Inside a compiled
    graph nothing can be seen; a layer of this package is asked for its binary_weight() then.

    Args:
        sites: By site_id; those of kind weight, and activations and attentions that are somebody else's.
        seen: Called with the site_id when a site's used weight has been seen.
    """

    def __init__(self, sites: Mapping[int, Site], seen: Callable[[int], None]) -> None:
        self.sites = {
            site_id: site
            for site_id, site in sites.items()
            if site.kind == "weight" or site.argument is not None
        }
        self.verdicts = {site_id: Verdict() for site_id in self.sites}
        self.programs: dict[int, WeightProgram] = {}
        "How the used weight of a site comes to be, where that can be run again."
        self._seen = seen
        self._handles: dict[int, list[RemovableHandle]] = {}
        self._spies: dict[int, WeightSpy] = {}
        self._step = 0
        self._warned: set[int] = set()

    def ask(self, step: int) -> None:
        """Look at the next pass of every site.

        Args:
            step: Applied steps so far.
        """
        self._step = step
        for site_id, site in self.sites.items():
            if site_id not in self._handles:
                look = _Look(self, site_id, site.module)
                self._handles[site_id] = [
                    site.module.register_forward_pre_hook(
                        look.before, prepend=True, with_kwargs=True
                    ),
                    site.module.register_forward_hook(
                        look.after, always_call=True, with_kwargs=True
                    ),
                ]

    def remove(self) -> None:
        """Take all hooks out of the model."""
        for site_id in list(self._handles):
            self._drop(site_id)

    @torch.no_grad()
    def finish(self, step: int) -> None:
        """Compare a last time, with the weights as they are, where the used weight can be computed without a pass."""
        self._step = step
        for site_id, program in self.programs.items():
            try:
                used = program.run()
            except (
                Exception
            ):  # a parameter may have gone in the meantime; then the last pass stands
                continue
            self._judge(site_id, used, "recorded computation of the forward pass")

    def ask_own(self) -> None:
        """Compare the sites that no pass showed with what the layer itself calls its binary weight."""
        for site_id, site in self.sites.items():
            own = getattr(site.module, "binary_weight", None)
            if site.kind == "weight" and not self.verdicts[site_id].how and callable(own):
                with torch.no_grad():
                    used = own()
                if isinstance(used, Tensor) and tuple(used.shape) == site.shape:
                    self._judge(site_id, used, "its binary_weight()")
                    self._seen(site_id)

    def unverified(self) -> list[str]:
        """Return the names of the sites whose sign was never compared, or differed when it last was."""
        return [
            self.sites[site_id].name
            for site_id, verdict in self.verdicts.items()
            if not verdict.holds
        ]

    def warn(self) -> None:
        """Say once which sites could not be verified, and why."""
        compiled = is_compiled()
        for site_id, verdict in self.verdicts.items():
            if compiled and verdict == Verdict():
                text = "no forward pass was seen outside a compiled graph; let one run before compiling"
                self.verdicts[site_id] = Verdict(reason=text)
        new = [i for i, v in self.verdicts.items() if not v.how and i not in self._warned]
        self._warned |= set(new)
        if new:
            reasons = {self.verdicts[i].reason for i in new}
            names = ", ".join(self.sites[i].name for i in new[:_NAMED])
            more = f" and {len(new) - _NAMED} more" if len(new) > _NAMED else ""
            warnings.warn(
                f"the tracked signs of {len(new)} of {len(self.sites)} sites could not be compared with what the forward"
                f" pass uses ({names}{more}: {'; '.join(sorted(reasons))}); they are recorded as unverified",
                RuntimeWarning,
                stacklevel=4,
            )

    def begin(self, site_id: int, module: nn.Module, inputs: Any) -> None:
        """Start to look at a pass of a site."""
        site = self.sites[site_id]
        if site_id in self._spies or site.kind != "weight":
            return
        spy = WeightSpy(module, inputs, site.shape, site.latent)
        spy.__enter__()
        self._spies[site_id] = spy

    def end(self, site_id: int, inputs: tuple[Any, ...], output: Any) -> None:
        """Take up what was seen; the site's hooks go."""
        site = self.sites[site_id]
        spy = self._spies.pop(site_id, None)
        if spy is not None:
            spy.__exit__(None, None, None)
        if output is None or (site.kind == "weight" and spy is None):
            return
        self._drop(site_id)
        if site.kind != "weight":
            self._judge_activation(site_id, inputs, output)
            return
        assert spy is not None
        seen = spy.seen()
        if seen is None:
            if not self.verdicts[site_id].how:
                reason = "no product with the weight was seen in its forward pass"
                self.verdicts[site_id] = Verdict(reason=reason)
            return
        self._take(site_id, seen)

    def _take(self, site_id: int, seen: SeenWeight) -> None:
        if seen.program is not None:
            self.programs[site_id] = seen.program
        self._judge(site_id, seen.weight, f"forward pass ({seen.by})")
        self._seen(site_id)

    @torch.no_grad()
    def _judge(self, site_id: int, used: Tensor, how: str) -> None:
        site = self.sites[site_id]
        argument = site.effective()
        if argument.shape != used.shape:
            argument = argument.reshape(used.shape)
        differing, compared = _compare(argument >= 0, used)
        verdict = Verdict(
            how=how if compared else "",
            step=self._step,
            compared=compared,
            differing=differing,
            levels=_most(self.verdicts[site_id].levels, levels_of(used)),
            reason="every weight was used as 0",
        )
        name = type(site.module).__name__
        cure = (
            f"find_sites(model, effective_sign={{{name}: fn}}), where fn(module) is >= 0 exactly where the used weight is"
            " positive"
        )
        what = "signs differ from the weight that its forward pass uses"
        self._settle(site_id, verdict, what, lambda: nearest_guess(site, used), cure)

    def _settle(
        self, site_id: int, verdict: Verdict, what: str, guess: Callable[[], str], cure: str
    ) -> None:
        """Take a verdict: what differs in the first pass is refused, what does later is said and recorded."""
        first = not self.verdicts[site_id].how
        if not verdict.differing or not first:
            self.verdicts[site_id] = verdict
        if not verdict.differing:
            return
        text = f"site {self.sites[site_id].name}: {verdict.differing:.2%} of the tracked {what}"
        if first:
            raise ConfigError(f"{text}; {guess()}; pass {cure}")
        if site_id not in self._warned:
            self._warned.add(site_id)
            warnings.warn(
                f"{text} at step {self._step}, as they did not before; {guess()}; the counts go on, and the record calls"
                " the site unverified",
                RuntimeWarning,
                stacklevel=5,
            )

    @torch.no_grad()
    def _judge_activation(self, site_id: int, inputs: tuple[Any, ...], output: Any) -> None:
        site = self.sites[site_id]
        assert site.argument is not None
        made = output[0] if isinstance(output, (tuple, list)) else output
        x = site.argument(site.module, inputs[0])
        if isinstance(made, Tensor) and isinstance(x, Tensor) and made.shape != x.shape:
            made = made.movedim(1, -1) if made.ndim == x.ndim > 2 else made  # channels first
        if not isinstance(made, Tensor) or not isinstance(x, Tensor) or made.shape != x.shape:
            reason = "its output has not the shape of what its sign function returns"
            self.verdicts[site_id] = Verdict(reason=reason)
            return

        def compare(positive: Tensor) -> tuple[float, float]:
            if site.kind == "attention":  # {0, a}: what is not attended to is 0
                return float((positive != (made > 0)).float().mean()), 1.0
            return _compare(positive, made)

        differing, compared = compare(x >= 0)
        levels = levels_of(made.reshape(-1, made.shape[-1]).T)
        verdict = Verdict(
            how="output of its forward pass",
            step=self._step,
            compared=compared,
            differing=differing,
            levels=_most(self.verdicts[site_id].levels, levels),
        )
        opposite = "the opposite sign fits" if compare(x < 0)[0] == 0.0 else "no opposite fits"
        cure = "a function of the module and its input that is >= 0 exactly where the output is positive"
        what = f"activation signs differ from the output of its {type(site.module).__name__}"
        self._settle(site_id, verdict, what, lambda: opposite, cure)

    def _drop(self, site_id: int) -> None:
        for handle in self._handles.pop(site_id, []):
            handle.remove()


@final
class _Look:
    """The two hooks around a pass of one site; dead in copies of the model and inside compiled graphs."""

    def __init__(
        self, verifier: Verifier | None = None, site_id: int = -1, module: nn.Module | None = None
    ) -> None:
        self._verifier = None if verifier is None else weakref.ref(verifier)
        self._module = None if module is None else weakref.ref(module)
        self._site_id = site_id

    def before(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        if torch.compiler.is_compiling():
            return
        verifier = self._mine(module)
        if verifier is not None and torch.is_grad_enabled():
            verifier.begin(self._site_id, module, (args, kwargs))

    def after(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if torch.compiler.is_compiling():
            return
        verifier = self._mine(module)
        if verifier is not None and (torch.is_grad_enabled() or output is None):
            verifier.end(self._site_id, (*args, *kwargs.values()), output)

    def _mine(self, module: nn.Module) -> Verifier | None:
        if self._verifier is None or self._module is None or self._module() is not module:
            return None
        return self._verifier()

    def __deepcopy__(self, memo: dict[int, Any]) -> _Look:
        return _Look()

    def __reduce__(self) -> tuple[type[_Look], tuple[()]]:
        return _Look, ()


def _most(before: int | None, now: int) -> int:
    """Return the most levels seen; what was not quantized yet, as under PARQ before its first step, does not count."""
    return now if before is None or before > MOST_LEVELS else max(before, now)


def levels_of(weight: Tensor) -> int:
    """Return how many different values a row of a used weight has at most; of a scale per column or per tensor likewise.

    Args:
        weight: (O, I, ...), any unit; values closer than 1e-4 of the largest are one. The first 64 rows are looked at.

    Returns:
        1 for constant rows, 2 for binary, 3 for ternary, up to 17 for more than MOST_LEVELS.
    """
    weight = weight.detach().reshape(1, 1) if weight.ndim == 0 else weight.detach()
    ways = [weight.reshape(len(weight), -1)[:_ROWS]]
    if weight.ndim > 1:
        ways.append(weight.movedim(1, 0).reshape(weight.shape[1], -1)[:_ROWS])
    ways.append(ways[0].reshape(1, -1))
    found = [(_distinct(way), way.shape[1]) for way in ways]
    longest = max(length for _, length in found[:-1])
    # A row has to be long to show all its levels, and one as long as it has values shows none.
    telling = [levels for levels, length in found if length >= 4 * levels]
    return min(telling or [levels for levels, length in found if length > 3 or length == longest])


def _distinct(rows: Tensor) -> int:
    if not rows.numel():
        return 0
    ordered = rows.float().sort(dim=1).values
    size = ordered.abs().amax(dim=1, keepdim=True)
    gaps = ordered[:, 1:] - ordered[:, :-1]
    steps = gaps > _CLOSE * size
    # Many values lie close to their neighbours, too: what is one level spans nearly nothing.
    spanned = gaps.masked_fill(steps, 0.0).sum(dim=1, keepdim=True)
    if bool((spanned > _SPANNED * size).any()):
        return MOST_LEVELS + 1
    found = 1 + int(steps.sum(dim=1).max()) if steps.numel() else 1
    return min(found, MOST_LEVELS + 1) if found < max(3, rows.shape[1]) else MOST_LEVELS + 1


def zero_level(used: Tensor) -> Tensor:
    """Return where a used weight is 0 but for rounding noise, bool, (O, I, ...)."""
    size = used.abs().amax() if used.numel() else used.new_zeros(())
    return (used.abs() <= _CLOSE * size) | used.isnan()


def _compare(positive: Tensor, used: Tensor) -> tuple[float, float]:
    """Return (share of the compared that differ, share that is compared)."""
    counted = ~zero_level(used)
    wrong = (positive != (used > 0)) & counted
    number = int(counted.sum())
    return int(wrong.sum()) / max(1, number), number / max(1, used.numel())


def nearest_guess(site: Site, used: Tensor) -> str:
    """Say which of the usual arguments of a sign fits a used weight, or comes nearest.

    Tried are the latent weight, it less its row mean, it less the mean of all, what is tracked now, and each of them
    times a sign per row.
    """
    tried: dict[str, Tensor] = {}
    latent = site.latent
    if latent is not None and latent.numel() == used.numel():
        w = latent.detach().reshape(used.shape)
        dims = tuple(range(1, w.ndim))
        tried["the raw weight"] = w
        if dims:
            tried["the weight less its row mean"] = w - w.mean(dims, keepdim=True)
        tried["the weight less the mean of all"] = w - w.mean()
    tried["what is tracked"] = site.effective().reshape(used.shape)
    found: list[tuple[float, int, str]] = []
    for rank, (name, argument) in enumerate(tried.items()):
        if rank < len(tried) - 1:
            found.append((_compare(argument >= 0, used)[0], rank, f"{name} fits"))
        counted = ~zero_level(used)
        agree = ((argument >= 0) == (used > 0)) & counted
        rows = agree.reshape(len(agree), -1).sum(1), counted.reshape(len(agree), -1).sum(1)
        wrong = torch.minimum(rows[0], rows[1] - rows[0]).sum()
        scaled = f"{name} times the sign of a scale per row fits"
        found.append((int(wrong) / max(1, int(counted.sum())), rank + len(tried), scaled))
    share, _, text = min(found)
    return (
        text
        if share == 0.0
        else f"nearest is {text.removesuffix(' fits')}, where {share:.2%} differ"
    )
