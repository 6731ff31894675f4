"""Attention examples against the model's own arithmetic, written out by hand."""

from __future__ import annotations

import numpy as np
import torch

from bvit_analysis.convert import binarize, calibrate
from bvit_analysis.instruments.attention import attention_examples
from bvit_analysis.sites import find_sites
from tests.support.tiny_vit import tiny_vit


def float_vit() -> torch.nn.Module:
    return tiny_vit(img_size=28, embed_dim=32, depth=2, num_classes=10).eval()


def made(recipe: str = "baseline", number: int = 3):
    teacher = float_vit()
    model = float_vit()
    binarize(model, recipe)
    images = torch.randn(number, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    calibrate(model, images)
    pixels = np.zeros((number, 1, 28, 28), np.uint8)
    labels = np.arange(number)
    return model, teacher, images, pixels, labels


def test_bits_and_maps_are_those_of_the_forward_pass() -> None:
    model, teacher, images, pixels, labels = made()
    model.train()
    found = attention_examples(model, teacher, find_sites(model), images, pixels, labels)
    assert found is not None
    assert model.training
    assert found.bits.shape == (3, 2, 2, 17, 17)
    assert found.sites == ["blocks.0.attn.probabilities", "blocks.1.attn.probabilities"]
    model.eval()
    with torch.no_grad():
        assert (found.predictions == model(images).argmax(-1).numpy()).all()
        assert (found.teacher_predictions == teacher(images).argmax(-1).numpy()).all()
        # The first block by hand: what enters it needs no earlier block.
        for net, kept in ((model, found.scores), (teacher, found.teacher)):
            x = net.norm_pre(net._pos_embed(net.patch_embed(images)))
            block = net.blocks[0]
            if net is teacher:
                qkv = block.attn.qkv(block.norm1(x)).reshape(3, 17, 3, 2, 16).numpy()
                q, k = qkv[:, :, 0], qkv[:, :, 1]
                scale = np.full(2, 16**-0.5)
            else:
                attn = block.attn
                q, k = (
                    part.transpose(1, 2).numpy()
                    for part in attn._binary_heads(attn.qkv(block.norm1(x)))[:2]
                )
                assert set(np.unique(q)) == {-1.0, 1.0}
                scale = attn.log_score_scale.exp().view(-1).numpy() / 4
            scores = np.einsum("bqhd,bkhd->bhqk", q, k) * scale[None, :, None, None]
            p = np.exp(scores - scores.max(-1, keepdims=True))
            p /= p.sum(-1, keepdims=True)
            np.testing.assert_allclose(kept[:, 0], p, atol=2e-6)
        a = model.blocks[0].attn.probabilities.scale().numpy()
        assert (found.bits[:, 0] == (found.scores[:, 0] >= a[None] / 2)).mean() > 0.999


def test_without_a_teacher_or_without_binary_attention() -> None:
    model, teacher, images, pixels, labels = made()
    found = attention_examples(model, None, find_sites(model), images, pixels, labels)
    assert found is not None
    assert found.teacher is None
    assert found.teacher_predictions is None
    assert attention_examples(teacher, None, [], images, pixels, labels) is None
    other = tiny_vit(img_size=28, patch_size=14, embed_dim=32, depth=2)
    mismatch = attention_examples(model, other.eval(), find_sites(model), images, pixels, labels)
    assert mismatch is not None
    assert mismatch.teacher is None  # other tokens cannot be compared


def test_no_hook_stays_and_no_random_number_is_drawn() -> None:
    model, teacher, images, pixels, labels = made()
    state = torch.get_rng_state()
    attention_examples(model, teacher, find_sites(model), images, pixels, labels)
    assert torch.equal(state, torch.get_rng_state())
    for net in (model, teacher):
        assert not any(module._forward_hooks for module in net.modules())


def test_a_large_model_keeps_fewer_images(monkeypatch) -> None:
    import bvit_analysis.instruments.attention as module

    model, teacher, images, pixels, labels = made()
    monkeypatch.setattr(module, "MAX_ATTENTION_VALUES", 2 * 2 * 17 * 17 * 2 + 5)
    found = attention_examples(model, teacher, find_sites(model), images, pixels, labels)
    assert found is not None
    assert len(found.bits) == len(found.images) == len(found.labels) == 2
