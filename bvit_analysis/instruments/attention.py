"""Attention of a few images, binary and float side by side, taken once when a training has ended."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bvit_analysis.instruments.distortion import float_attention, float_probabilities
from bvit_analysis.layers.attention import BinaryProbabilities
from bvit_analysis.records.attention import MAX_ATTENTION_VALUES, AttentionExamples
from bvit_analysis.sites import Site


@torch.no_grad()
def attention_examples(
    model: nn.Module,
    teacher: nn.Module | None,
    sites: list[Site],
    images: Tensor,
    pixels: np.ndarray,
    labels: np.ndarray,
) -> AttentionExamples | None:
    """Run images through a binary model and its float teacher and keep every attention map.

    Scores are softmax(q k^T c) of the student before binarization, bits the ones it attends with, and the teacher's
    maps are its softmax at the same place. Modes are put back; nothing is drawn from a random generator.

    Args:
        model: The student.
        teacher: A float timm ViT with the same module paths, or None.
        sites: Of the student; those that are not attention sites are passed over.
        images: What the models take, (n, C, H, W), normalised.
        pixels: The same images for the eye, (n, C, H, W) uint8.
        labels: (n,) int64.

    Returns:
        The maps; fewer images where a model is large, and None if it has no binary attention.
    """
    found = [site for site in sites if isinstance(site.module, BinaryProbabilities)]
    if not found or not len(images):
        return None
    tokens, heads = _size(model, found[0], images[:1])
    number = max(1, min(len(images), MAX_ATTENTION_VALUES // (len(found) * heads * tokens**2)))
    images, pixels, labels = images[:number], pixels[:number], labels[:number]
    bits: list[Tensor] = []
    scores: list[Tensor] = []

    def hear(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        bits.append(output > 0)
        scores.append(inputs[0].float().softmax(dim=-1))

    modules = [site.module for site in found]
    logits = _heard(model, [(module, hear) for module in modules], images)
    float_maps: list[Tensor] = []
    teacher_logits = None
    attentions = [] if teacher is None else _counterparts(teacher, found)
    if teacher is not None and attentions:

        def hear_float(attention: nn.Module) -> Callable[..., None]:
            return lambda module, inputs, output: float_maps.append(
                float_probabilities(attention, output)
            )

        taps = [(attention.qkv, hear_float(attention)) for attention in attentions]
        teacher_logits = _heard(teacher, taps, images)
    comparable = len(float_maps) == len(found) and float_maps[0].shape == scores[0].shape
    return AttentionExamples(
        images=pixels,
        labels=labels,
        predictions=logits.argmax(dim=-1).cpu().numpy(),
        teacher_predictions=(
            teacher_logits.argmax(dim=-1).cpu().numpy()
            if comparable and teacher_logits is not None
            else None
        ),
        sites=[site.name for site in found],
        bits=torch.stack(bits, dim=1).cpu().numpy(),
        scores=torch.stack(scores, dim=1).cpu().numpy(),
        teacher=torch.stack(float_maps, dim=1).cpu().numpy() if comparable else None,
    )


def _heard(model: nn.Module, taps: list[tuple[Any, Callable[..., None]]], images: Tensor) -> Tensor:
    training = model.training
    handles = [module.register_forward_hook(hook) for module, hook in taps]
    try:
        logits: Tensor = model.eval()(images)
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    return logits


def _size(model: nn.Module, site: Site, image: Tensor) -> tuple[int, int]:
    """Return tokens and heads at a site, which decide how many images may be kept."""
    shapes: list[torch.Size] = []
    _heard(model, [(site.module, lambda m, i, output: shapes.append(output.shape))], image)
    return shapes[0][-1], shapes[0][1]


def _counterparts(teacher: nn.Module, sites: list[Site]) -> list[Any]:
    """Return the teacher's float attention at each site, or nothing if one of them has none."""
    found = [float_attention(teacher, site.name.rpartition(".")[0]) for site in sites]
    return [] if None in found else found
