"""What binarization of activations loses: distortion of each value, and disagreement with the float twin."""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from bvit_analysis.errors import ConfigError
from bvit_analysis.instruments.base import Instrument, Rows, Watched
from bvit_analysis.instruments.entropy import (
    ActivationListener,
    argument_of,
    by_channel,
    heard_module,
    listener_of,
    with_passes,
)
from bvit_analysis.instruments.listening import Listener
from bvit_analysis.layers.attention import BinaryProbabilities
from bvit_analysis.measures import binarization_error_from_sums, sign_agreement
from bvit_analysis.records.columns import catalogued
from bvit_analysis.sites import Site

_IMAGES = 32
_VALUES = 2**19  # of one site: bounds what is kept of a large model


@final
class DistortionInstrument(Instrument):
    """Describes what the sign of each activation loses.

    binarization_error is the mean over channels of 1 - corr(x, sign x)^2; channels that are constant before the sign
    have none and are left out. twin_agreement is the share of signs equal to those of a float model on the same
    images, where one is given.

    Args:
        listener: What sums up the sampled steps; None takes the watch's.
        every: Steps between rows; None takes activation_every of the watch.
        twin: What compares with the float model; None compares with the watch's teacher, if it has one.
    """

    measures = catalogued("binarization_error", "twin_agreement")
    cadence = "activation_every"

    def __init__(
        self,
        listener: ActivationListener | None = None,
        *,
        every: int | None = None,
        twin: TwinListener | None = None,
    ) -> None:
        super().__init__(every)
        if listener is not None:
            self.listener = listener
        self.twin = twin

    def attach(self, watched: Watched) -> None:
        super().attach(watched)
        self.listener = listener_of(watched)
        teacher = watched.teacher
        if teacher is not None:
            self.twin = watched.share(
                TwinListener, lambda: TwinListener(watched.others, watched.model, teacher)
            )

    @property
    def listeners(self) -> Sequence[Listener]:
        heard = with_passes(self.listener)
        return heard if self.twin is None else (*heard, self.twin)

    def record(self, rows: Rows) -> None:
        for site_id, m in self.listener.moments.items():
            error = binarization_error_from_sums(m.n, m.total, m.square, m.absolute, m.positive)
            rows.put(site_id, binarization_error=float(error.nanmean()))
        for site_id, agreement in (self.twin.agreement() if self.twin else {}).items():
            rows.put(site_id, twin_agreement=agreement)


@dataclass(frozen=True)
class _Twin:
    """Where a site's float counterpart is heard."""

    module: nn.Module
    part: str
    "'input' of a linear, 'q', 'k', 'v' or 'probabilities' of an attention."
    attention: nn.Module | None = None


@final
class TwinListener(Listener):
    """Compares the signs before a student's binarizers with those of its float teacher, on the same images.

    `X.sign` is compared with the input of the teacher's linear X, q_sign, k_sign and v_sign with the teacher's
    queries, keys and values, {0,1} attention with [teacher's softmax >= 1/N]. A teacher may run before or after the
    student; a pair counts where both were given equal images. Kept are bits of the first 32 images of the first
    micro-batch, fewer where a site is large.

    Args:
        sites: Activation and attention sites by site_id.
        model: The student; its sites' names are paths in it.
        teacher: A float timm ViT with the same module paths.

    Raises:
        ConfigError: If no site has a counterpart in the teacher.
    """

    def __init__(self, sites: dict[int, Site], model: nn.Module, teacher: nn.Module) -> None:
        super().__init__()
        self.sites = sites
        self._roots = {"student": weakref.ref(model), "teacher": weakref.ref(teacher)}
        found = {site_id: _find_twin(site, teacher) for site_id, site in sites.items()}
        self._twins = {site_id: twin for site_id, twin in found.items() if twin is not None}
        if sites and not self._twins:
            raise ConfigError(
                f"the teacher ({type(teacher).__name__}) has no module that matches a site such as"
                f" {next(iter(sites.values())).name!r}; give a float timm ViT with the student's module paths,"
                " or no teacher"
            )
        self._images: dict[str, Tensor] = {}
        self._bits: dict[str, dict[int, Tensor]] = {"student": {}, "teacher": {}}
        self._hears: dict[str, bool] = {}

    def agreement(self) -> dict[int, float]:
        """Return the share of equal signs by site_id, of the sites that both models were heard at."""
        images = self._images
        if not {"student", "teacher"} <= set(images):
            return {}
        if not _same(images["student"], images["teacher"]):
            return {}
        result = {}
        for site_id, mine in self._bits["student"].items():
            other = self._bits["teacher"].get(site_id)
            if other is not None and other.shape == mine.shape:
                result[site_id] = sign_agreement(mine.float() - 0.5, other.float() - 0.5)
        return result

    def _attach(self) -> None:
        for role, reference in self._roots.items():
            root = reference()
            if root is not None:
                self.tap_start(root, role, student=role == "student")
                self.tap(root, (role, None), student=role == "student")
        for site_id in self._twins:
            self.tap(heard_module(self.sites[site_id]), ("student", site_id))
        modules = {id(twin.module): twin.module for twin in self._twins.values()}
        for key, module in modules.items():
            self.tap(module, ("teacher", key), student=False)

    def forget(self) -> None:
        """Drop what was heard."""
        self._images = {}
        self._bits = {"student": {}, "teacher": {}}
        self._hears = {}

    def start(self, key: str, inputs: tuple[Any, ...]) -> None:
        if inputs and isinstance(inputs[0], Tensor):
            self.begin(key, inputs[0])

    def begin(self, role: str, images: Tensor) -> None:
        """Note that a model starts on some images, and decide whether to hear this pass.

        Of the student it is the first pass of the step. Of the teacher it is, before the student's, the latest one;
        after it, the one on the student's images.
        """
        images = images[:_IMAGES].detach()
        if role == "student":
            wanted = role not in self._images
        else:
            mine, other = self._images.get("student"), self._images.get("teacher")
            paired = mine is not None and other is not None and _same(mine, other)
            wanted = mine is None or (not paired and _same(mine, images))
        self._hears[role] = wanted
        if wanted:
            self._images[role] = images.clone()
            self._bits[role] = {}

    def hear(self, key: tuple[str, int | None], inputs: tuple[Any, ...], output: Any) -> None:
        role, which = key
        if not self._hears.get(role, False):
            return
        if which is None:  # the root has returned
            self._hears[role] = False
        elif role == "student":
            site = self.sites[which]
            keep = _keep(inputs[0] if isinstance(site.module, BinaryProbabilities) else output)
            self._bits["student"][which] = argument_of(site, inputs, output, images=keep) >= 0
        else:
            for site_id, twin in self._twins.items():
                if id(twin.module) == which:
                    value = _teacher_value(twin, inputs[0], output, self.sites[site_id])
                    if value is not None:
                        self._bits["teacher"][site_id] = value >= 0


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.device == b.device and bool((a == b).all())


def _keep(x: Tensor) -> int:
    return max(1, min(_IMAGES, _VALUES // max(1, math.prod(x.shape[1:]))))


def _submodule(root: nn.Module, path: str) -> nn.Module | None:
    try:
        return root.get_submodule(path)
    except AttributeError:
        return None


def float_attention(teacher: nn.Module, path: str) -> Any:
    """Return the teacher's attention at a path, if it is one whose qkv can be heard, else None."""
    attention = _submodule(teacher, path)
    known = isinstance(getattr(attention, "qkv", None), nn.Linear)
    return attention if known and isinstance(getattr(attention, "num_heads", None), int) else None


def _find_twin(site: Site, teacher: nn.Module) -> _Twin | None:
    path, _, last = site.name.rpartition(".")
    if last == "sign":
        linear = _submodule(teacher, path)
        return _Twin(linear, "input") if isinstance(linear, nn.Linear) else None
    attention = float_attention(teacher, path)
    if attention is None or last not in ("q_sign", "k_sign", "v_sign", "probabilities"):
        return None
    return _Twin(attention.qkv, last[0] if last != "probabilities" else last, attention)


def _teacher_value(twin: _Twin, inputs: Tensor, output: Tensor, site: Site) -> Tensor | None:
    """Return the float counterpart of a site's argument, (elements, C); its sign is what is compared."""
    if twin.part == "input":
        if inputs.shape[-1] != site.shape[0]:
            return None
        return by_channel(inputs[: _keep(inputs)], site)
    attention = twin.attention
    assert attention is not None
    heads: Any = attention.num_heads
    if output.shape[-1] % (3 * heads):
        return None
    batch, tokens, _ = output.shape
    if twin.part == "probabilities":
        keep = max(1, min(_IMAGES, _VALUES // (heads * tokens * tokens)))
        value = float_probabilities(attention, output[:keep]) - 1 / tokens
        return value.movedim(1, -1).reshape(-1, heads)
    keep = _keep(output[..., : output.shape[-1] // 3])
    q, k, v = _heads(attention, output[:keep])
    part = {"q": q, "k": k, "v": v}[twin.part]
    if heads * part.shape[-1] != site.shape[0]:
        return None
    return part.transpose(1, 2).reshape(-1, site.shape[0])


def float_probabilities(attention: nn.Module, qkv: Tensor) -> Tensor:
    """Return softmax(q k^T c) of a float timm attention, (B, h, N, N), from the output of its qkv, (B, N, 3 D)."""
    q, k, _ = _heads(attention, qkv)
    scale = getattr(attention, "scale", q.shape[-1] ** -0.5)
    with torch.autocast(q.device.type, enabled=False):
        scores = (q.float() * scale) @ k.float().transpose(-2, -1)
    return scores.softmax(dim=-1)


def _heads(attention: Any, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    heads = qkv.unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
    q, k, v = heads.unbind(0)  # (B, h, N, d) each
    return _normed(attention, "q_norm", q), _normed(attention, "k_norm", k), v


def _normed(attention: nn.Module, name: str, x: Tensor) -> Tensor:
    norm = getattr(attention, name, None)
    return norm(x) if isinstance(norm, nn.Module) and not isinstance(norm, nn.Identity) else x
