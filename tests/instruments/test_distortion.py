from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from bvit_analysis.convert import binarize, calibrate
from bvit_analysis.errors import ConfigError
from bvit_analysis.instruments.base import Rows
from bvit_analysis.instruments.distortion import DistortionInstrument, TwinListener
from bvit_analysis.instruments.entropy import ActivationListener
from bvit_analysis.sites import find_sites
from tests.support.tiny_vit import tiny_vit


def vit(**changes: object) -> nn.Module:
    return tiny_vit(**({"depth": 2} | changes))


def pair(**changes: object) -> tuple[nn.Module, nn.Module]:
    teacher = vit(**changes).eval().requires_grad_(False)
    with torch.no_grad():
        for name, parameter in teacher.named_parameters():
            if "norm" in name:  # away from the trivial affine map
                parameter.add_(0.3 * torch.randn_like(parameter))
    student = copy.deepcopy(teacher).train().requires_grad_(True)
    binarize(student, "asm")
    calibrate(student, images(9))
    return student, teacher


def images(seed: int, number: int = 4) -> torch.Tensor:
    return torch.randn(number, 1, 14, 14, generator=torch.Generator().manual_seed(seed))


def float_values(teacher: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Run the teacher by hand, block by block, and keep what each binarizer's counterpart sees."""
    seen = {}
    with torch.no_grad():
        x = teacher.norm_pre(teacher._pos_embed(teacher.patch_embed(x)))
        for i, block in enumerate(teacher.blocks):
            attn, mlp, path = block.attn, block.mlp, f"blocks.{i}"
            y = block.norm1(x)
            seen[f"{path}.attn.qkv.sign"] = y
            q, k, v = attn.qkv(y).chunk(3, dim=-1)
            heads = [p.unflatten(-1, (attn.num_heads, -1)).transpose(1, 2) for p in (q, k, v)]
            heads[:2] = attn.q_norm(heads[0]), attn.k_norm(heads[1])
            for letter, part in zip("qkv", heads, strict=True):
                seen[f"{path}.attn.{letter}_sign"] = part.transpose(1, 2).flatten(2)
            p = (heads[0] @ heads[1].mT / heads[0].shape[-1] ** 0.5).softmax(-1)
            seen[f"{path}.attn.probabilities"] = p - 1 / p.shape[-1]
            context = (p @ heads[2]).transpose(1, 2).flatten(2)
            seen[f"{path}.attn.proj.sign"] = context
            x = x + attn.proj(context)
            y = block.norm2(x)
            seen[f"{path}.mlp.fc1.sign"] = y
            y = mlp.act(mlp.fc1(y))
            seen[f"{path}.mlp.fc2.sign"] = y
            x = x + mlp.fc2(y)
    return seen


def binary_values(student: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Keep the argument of every sign, and the bits of attention as -1 and 1, by plain hooks."""
    seen, handles = {}, []
    for site in find_sites(student):
        if site.kind == "activation":
            handles.append(
                site.module.shift.register_forward_hook(
                    lambda m, i, o, name=site.name: seen.update({name: o.detach()})
                )
            )
        elif site.kind == "attention":
            handles.append(
                site.module.register_forward_hook(
                    lambda m, i, o, name=site.name: seen.update(
                        {name: (o.detach() > 0).float() - 0.5}
                    )
                )
            )
    student(x)
    for handle in handles:
        handle.remove()
    return seen


def others(student: nn.Module):
    return {i: site for i, site in enumerate(find_sites(student)) if site.kind != "weight"}


@pytest.mark.slow
@pytest.mark.parametrize("first", ["student", "teacher"])
@pytest.mark.parametrize("qk_norm", [False, True])
def test_agreement_equals_a_forward_pass_by_hand(first: str, qk_norm: bool) -> None:
    student, teacher = pair(qk_norm=qk_norm)
    sites = others(student)
    twin = TwinListener(sites, student, teacher)
    twin.listen()
    x = images(0)
    if first == "teacher":
        teacher(x)
    student(x)
    if first == "student":
        with torch.no_grad():
            teacher(x)
    twin.deafen()
    agreement = twin.agreement()
    mine, other = binary_values(student, x), float_values(teacher, x)
    assert set(agreement) == set(sites)
    for site_id, value in agreement.items():
        name = sites[site_id].name
        expected = ((mine[name] >= 0) == (other[name] >= 0)).float().mean()
        # A float sum next to 0 may come out on the other side when it is added up by hand.
        assert value == pytest.approx(float(expected), abs=0.01), name


def test_passes_on_other_images_do_not_count() -> None:
    student, teacher = pair()
    sites = others(student)
    twin = TwinListener(sites, student, teacher)
    twin.listen()
    teacher(images(5))  # an evaluation of the teacher
    with torch.no_grad():
        student(images(6))
    student(images(0))
    assert twin.agreement() == {}
    student(images(1))  # the second micro-batch
    teacher(images(1))
    assert twin.agreement() == {}
    teacher(images(0))
    after = twin.agreement()
    teacher(images(2))
    assert twin.agreement() == after
    clean = TwinListener(sites, student, teacher)
    clean.listen()
    student(images(0))
    teacher(images(0))
    assert after == clean.agreement()
    assert len(after) == len(sites)


def test_hooks_are_gone_afterwards_and_copies_are_dead() -> None:
    student, teacher = pair()
    twin = TwinListener(others(student), student, teacher)
    twin.listen()
    copy.deepcopy(student)(images(0))
    copy.deepcopy(teacher)(images(0))
    assert twin.agreement() == {}
    twin.remove()
    for model in (student, teacher):
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_large_batch_keeps_few_images() -> None:
    student, teacher = pair()
    twin = TwinListener(others(student), student, teacher)
    twin.listen()
    x = images(0, 100)
    student(x)
    teacher(x)
    kept = {bits.shape[0] for bits in twin._bits["student"].values()}
    assert max(kept) <= 32 * 5 * 5
    assert len(twin._images["student"]) == 32
    assert len(twin.agreement()) == len(twin.sites)


def test_a_teacher_without_counterparts_is_refused() -> None:
    student, _ = pair()
    with pytest.raises(ConfigError, match="has no module that matches"):
        TwinListener(others(student), student, nn.Linear(2, 2))


def test_a_teacher_of_another_width_has_no_agreement() -> None:
    student, _ = pair()
    other = vit(embed_dim=24).eval()
    twin = TwinListener(others(student), student, other)
    twin.listen()
    student(images(0))
    other(images(0))
    assert not [i for i in twin.agreement() if twin.sites[i].kind == "activation"]


def test_binarization_error_is_one_minus_squared_correlation() -> None:
    student, _ = pair()
    sites = others(student)
    listener = ActivationListener(sites)
    listener.listen()
    x = images(0, 16)
    seen = {}
    for site in sites.values():
        if site.kind == "attention":
            site.module.register_forward_hook(
                lambda m, i, o, name=site.name: seen.update(
                    {name: (i[0].detach().softmax(-1), o.detach() > 0)}
                )
            )
    seen |= {k: (v, v >= 0) for k, v in binary_values(student, x).items() if k not in seen}
    rows = Rows(1)
    DistortionInstrument(listener, every=1).record(rows)
    for site_id, site in sites.items():
        value, bit = (v.movedim(1, -1) if site.kind == "attention" else v for v in seen[site.name])
        value, bit = (v.reshape(-1, site.shape[0]).double().numpy() for v in (value, bit))
        errors = []
        for c in range(site.shape[0]):
            if value[:, c].std() > 0:
                constant = bit[:, c].std() == 0
                r = 0.0 if constant else np.corrcoef(value[:, c], bit[:, c])[0, 1]
                errors.append(1 - r**2)
        expected = np.mean(errors)
        assert rows.metrics[site_id]["binarization_error"] == pytest.approx(expected, abs=2e-4)
