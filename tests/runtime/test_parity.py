"""The certificate: what it counts, and that it sees a single wrong bit."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bvit_analysis.cli import main
from bvit_analysis.config import ModelConfig, get_recipe, get_scale, to_dict
from bvit_analysis.errors import ConfigError
from bvit_analysis.packed.model import save_packed
from bvit_analysis.records import RunWriter
from bvit_analysis.records.checkpoints import save_checkpoint
from bvit_analysis.runtime.certificate import compare_logits
from bvit_analysis.runtime.layers import PackedLinear
from bvit_analysis.runtime.model import load_runtime
from bvit_analysis.runtime.parity import (
    certify_packed,
    parity_certificate,
    random_batches,
    random_weights,
)

SMALL = ModelConfig(patch_size=7, embed_dim=48, depth=2, num_heads=2)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return random_weights(SMALL, "binaryvit", img_size=28, in_chans=1, num_classes=10)


def images(count: int = 6) -> Tensor:
    return torch.randn(count, 1, 28, 28, generator=torch.Generator().manual_seed(1))


def test_equal_models_pass(model: nn.Module) -> None:
    model.train()
    done: list[int] = []
    certificate = parity_certificate(model, load_runtime(model), images(), 4, progress=done.append)
    assert certificate.passed
    assert certificate.agreement == 1
    assert certificate.first_differing_site is None
    assert (certificate.max_absolute, certificate.max_relative) == (0, 0)
    assert done == [4, 6]
    assert model.training  # put back, and no hook is left
    assert not any(module._forward_hooks for module in model.modules())
    assert "passed: 6 images" in str(certificate)
    model.eval()


def test_one_wrong_weight_bit_is_seen(model: nn.Module) -> None:
    runtime = load_runtime(model)
    layer = runtime.get_submodule("skeleton.blocks.0.mlp.fc1")
    assert isinstance(layer, PackedLinear)
    layer.words[0, 5] ^= 1  # the first input of output 5
    certificate = parity_certificate(model, runtime, images())
    assert certificate.identical_images == 0
    assert certificate.max_absolute > 0


def test_wrong_weights_are_located(model: nn.Module) -> None:
    runtime = load_runtime(model)
    layer = runtime.get_submodule("skeleton.blocks.0.mlp.fc1")
    assert isinstance(layer, PackedLinear)
    layer.words ^= (1 << 48) - 1  # every weight's sign
    certificate = parity_certificate(model, runtime, images())
    assert not certificate.passed
    # the hidden channels are the first to see it; nothing before can
    assert certificate.first_differing_site == "blocks.0.mlp.fc2.sign"
    assert "blocks.0.attn.proj.sign" not in certificate.differing
    assert "NOT PASSED" in str(certificate)
    assert "first differing at  blocks.0.mlp.fc2.sign" in str(certificate)


def test_a_wrong_level_of_attention_is_located(model: nn.Module) -> None:
    runtime = load_runtime(model)
    bits = runtime.get_submodule("skeleton.blocks.1.attn.probabilities")
    bits.level.mul_(1.5)
    certificate = parity_certificate(model, runtime, images())
    assert certificate.first_differing_site == "blocks.1.attn.probabilities"


def test_decisions_are_the_kernels_own(model: nn.Module) -> None:
    """Bits that the runtime reveals are those of its context: one image, by hand."""
    runtime = load_runtime(model)
    attention = runtime.get_submodule("skeleton.blocks.0.attn")
    found: list = []
    attention.probabilities.observer = found.append
    x = torch.randn(2, 5, 48)
    simulated = model.blocks[0].attn
    attention(x)
    with torch.no_grad():
        q, k, _ = simulated._binary_heads(simulated.qkv(x))
        scores = (q @ k.transpose(-2, -1)) * (simulated.log_score_scale.exp() / math.sqrt(24))
        wanted = simulated.probabilities(scores)
    assert torch.equal(torch.from_numpy(found[0]), wanted > 0)
    assert 0 < found[0].mean() < 1


def test_differences_by_hand() -> None:
    wanted = torch.tensor([[4.0, 1.0, 0.0], [1.0, 2.0, -8.0], [3.0, 3.0, 0.0]])
    got = torch.tensor([[4.0, 1.0, 0.0], [2.5, 2.0, -8.0], [3.0, 3.0, 0.5]])
    certificate = compare_logits(wanted, got)
    assert certificate.images == 3
    assert certificate.identical_images == 1
    assert certificate.agreeing_images == 2
    assert certificate.agreement == pytest.approx(2 / 3)
    assert certificate.tied_images == 1  # the third: 3.0 twice
    assert certificate.near_tied_images == 2  # the second has a margin of 1 and is 1.5 off
    assert certificate.max_absolute == 1.5
    assert certificate.max_relative == max(1.5 / 8, 0.5 / 3)
    assert not certificate.passed


def test_a_program_that_differs_from_its_layers_is_seen(model: nn.Module) -> None:
    runtime = load_runtime(model)
    images_seen = images()
    runtime(
        images_seen
    )  # now there is a program, which holds addresses of the weights it was written with
    blocks = runtime.get_submodule("skeleton.blocks")
    assert parity_certificate(model, runtime, images_seen).changed_by_watching == 0
    layer = runtime.get_submodule("skeleton.blocks.1.mlp.fc1")
    with torch.inference_mode():
        layer.scale = 2 * layer.scale
    certificate = parity_certificate(model, runtime, images_seen)
    if blocks.by_layer is None:
        assert certificate.changed_by_watching == 6
        assert not certificate.passed
        assert "other while watched 6 of 6" in str(certificate)
    assert certificate.differing  # the layers themselves are wrong too


def test_small_differences_pass() -> None:
    wanted = torch.tensor([[4.0, 1.0]])
    assert compare_logits(wanted, wanted + 1e-4).passed
    assert not compare_logits(wanted, wanted + 1e-2).passed


def test_values_that_are_not_finite(tmp_path: Path) -> None:
    nan, inf = math.nan, math.inf
    same = torch.tensor([[nan, nan], [inf, 1.0], [0.0, 0.0]])
    certificate = compare_logits(same, same.clone())
    assert certificate.identical_images == 3
    assert certificate.max_relative == 0
    assert certificate.passed
    for other in (nan, inf):
        certificate = compare_logits(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, other]]))
        assert certificate.max_absolute == inf
        assert not certificate.passed
        stored = json.loads(certificate.save(tmp_path / "c.json").read_text())
        assert stored["max_absolute"] == "inf"


def test_no_image_at_all(model: nn.Module) -> None:
    certificate = parity_certificate(model, load_runtime(model), images(0))
    assert certificate.images == 0
    assert certificate.agreement == 1


def test_mistakes_are_refused(model: nn.Module) -> None:
    with pytest.raises(ConfigError, match="batch_size"):
        parity_certificate(model, load_runtime(model), images(), 0)
    with pytest.raises(ConfigError, match="different shapes"):
        compare_logits(torch.zeros(1, 2), torch.zeros(1, 3))
    other = random_weights(
        ModelConfig(patch_size=7, embed_dim=48, depth=1, num_heads=2), img_size=28, in_chans=1, num_classes=10
    )  # fmt: skip
    with pytest.raises(ConfigError, match=r"blocks\.1"):
        parity_certificate(model, load_runtime(other), images())


def test_a_file_gets_its_certificate_beside_it(model: nn.Module, tmp_path: Path) -> None:
    path = save_packed(
        model, tmp_path / "m.bvit", meta={"recipe": "binaryvit", "model": SMALL.name}
    )
    batches = random_batches(model, 7, 3)
    certificate = certify_packed(path, batches, reference=model)
    stored = json.loads((tmp_path / "m.bvit.parity.json").read_text())
    assert stored["passed"] is certificate.passed is True
    assert stored["images"] == stored["identical_images"] == 7
    assert stored["differing"] == {}
    assert certify_packed(path, images(2)).decisions == certificate.decisions * 2 / 7


@pytest.mark.slow
@pytest.mark.parametrize("width", ["float32", "float16"])
def test_a_run_is_certified_by_command(
    width: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    smoke = get_scale("smoke")
    simulated = random_weights(smoke.model, "asm", img_size=28, in_chans=1, num_classes=10)
    run, out = tmp_path / "asm-seed0", tmp_path / "m.bvit"
    config = to_dict(smoke) | {"recipe": to_dict(get_recipe("asm"))}
    with RunWriter(run, info={"run_id": run.name, "config": config, "sites": []}) as writer:
        writer.write_status("finished", 40, 40)
    save_checkpoint(run, 40, {f"model.{k}": v for k, v in simulated.state_dict().items()}, {})
    command = ["pack", str(run), "--out", str(out), "--dtype", width, "--certify"]
    assert main([*command, "7"]) == 0
    assert "parity passed: 7 images" in capsys.readouterr().out
    stored = json.loads((tmp_path / "m.bvit.parity.json").read_text())
    assert stored["identical_images"] == 7
    assert main([*command, "-1"]) == 2
    assert "at least 1 image" in capsys.readouterr().err


def test_random_weights_leave_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    first, second = (
        random_weights(SMALL, img_size=28, in_chans=1, num_classes=10) for _ in range(2)
    )
    assert torch.equal(torch.get_rng_state(), state)
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)
    assert bool(first.blocks[0].mlp.fc1.activation.gamma.any())


@pytest.mark.slow
def test_deit_small() -> None:
    model = random_weights(ModelConfig(name="deit_small_patch16_224"), "binaryvit")
    certificate = parity_certificate(model, load_runtime(model), random_batches(model, 6, 6))
    assert certificate.identical_images == 6
    assert certificate.differing == {}
    per_block = 197 * (3 * 384 + 384 + 384 + 384 + 1536) + 6 * 197 * 197
    assert certificate.decisions == 6 * 12 * per_block
