"""A packed model whose shift is the researcher's own decides as the simulated one does; what cannot be packed says so."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bvit_analysis.cli import main
from bvit_analysis.config import ModelConfig, Recipe, get_scale, to_dict
from bvit_analysis.errors import ConfigError, PackedFileError, UnsupportedModelError
from bvit_analysis.packed.model import load_packed, save_packed
from bvit_analysis.records import RunWriter
from bvit_analysis.records.checkpoints import save_checkpoint
from bvit_analysis.runtime.model import load_runtime
from bvit_analysis.runtime.parity import certify_packed, parity_certificate, random_weights
from tests.support.own_parts import (
    Clamped,
    ClampedMeanShift,
    HalfMeanShift,
    NarrowShift,
    NeighbourShift,
    SteadyTerm,
    UniformRule,
)

SMALL = ModelConfig(patch_size=7, embed_dim=48, depth=2, num_heads=2)
BACKENDS = ["numpy", "numba"] if importlib.util.find_spec("numba") else ["numpy"]
HERE = "tests.support.own_parts"


def small(recipe: Recipe, config: ModelConfig = SMALL) -> nn.Module:
    return random_weights(config, recipe, img_size=28, in_chans=1, num_classes=10)


def images(count: int = 5) -> Tensor:
    return torch.randn(count, 1, 28, 28, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("shift", "in_program"),
    [
        (ClampedMeanShift, False),
        (Clamped(bound=0.01), False),
        (NeighbourShift, False),
        (HalfMeanShift, True),
    ],
    ids=str,
)
def test_every_decision_is_the_simulated_one(shift: Any, in_program: bool, backend: str) -> None:
    model = small(Recipe(shift=shift))
    runtime = load_runtime(model, backend=backend)
    certificate = parity_certificate(model, runtime, images())
    assert certificate.identical_images == 5
    assert certificate.differing == {}
    assert certificate.decisions > 1000
    if backend == "numba":
        name = type(next(m for m in model.modules() if hasattr(m, "added"))).__name__
        wanted = None if in_program else f"blocks.0: a shift of type {name}"
        assert runtime.skeleton.blocks.by_layer == wanted


@pytest.mark.parametrize("shift", [NeighbourShift, HalfMeanShift], ids=str)
def test_the_shift_matters(shift: Any) -> None:
    """The control: without it, decisions differ."""
    model = small(Recipe(shift=shift))
    runtime = load_runtime(model)
    for name, parameter in runtime.named_parameters():
        if ".shift." in name:
            parameter.zero_()
    for name, buffer in runtime.named_buffers():
        if ".shift." in name:
            buffer.zero_()
    assert parity_certificate(model, runtime, images()).differing


def test_shifts_of_several_kinds_side_by_side() -> None:
    model = small(Recipe(shift=HalfMeanShift))
    attention = model.blocks[1].attn
    attention.q_sign.shift = NeighbourShift(48).eval()
    attention.v_sign.shift = ClampedMeanShift(48).eval()
    for backend in BACKENDS:
        certificate = parity_certificate(model, load_runtime(model, backend=backend), images())
        assert certificate.identical_images == 5
        assert certificate.differing == {}


def test_what_cannot_be_packed_is_one_sentence() -> None:
    with pytest.raises(
        UnsupportedModelError, match=r"by UniformRule\(\): packed attention decides"
    ):
        load_runtime(small(Recipe(attention=UniformRule())))
    runtime = load_runtime(small(Recipe(shift=NarrowShift)))
    with pytest.raises(UnsupportedModelError, match=r"NarrowShift that adds \(5, 1, 1\)"):
        runtime(images())


def test_a_form_of_another_size_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba")
    model = small(Recipe(shift=HalfMeanShift))
    for module in model.modules():
        if isinstance(module, HalfMeanShift):
            module.fixed = module.fixed[:-1]
    runtime = load_runtime(model, backend="numba")
    with pytest.raises(UnsupportedModelError, match=r"vectors of 48 channels, got .*\(47,\)"):
        runtime(images())


# Files ----------------------------------------------------------------------------------------------------------------

OWN = Recipe(name="own", shift=Clamped(bound=0.5), regularization=SteadyTerm())


def test_a_file_needs_the_recipe_again(tmp_path: Path) -> None:
    model, path = small(OWN), tmp_path / "own.bvit"
    save_packed(model, path, meta={"recipe": OWN, "model": SMALL.name})
    for load in (load_packed, load_runtime):
        with pytest.raises(PackedFileError, match=r"own.bvit: the recipe's shift is .*only named"):
            load(path)
        with pytest.raises(PackedFileError, match=r"is not the recorded one \(name: 'own' there"):
            load(path, recipe=Recipe(shift=Clamped(bound=0.5)))
        with torch.no_grad():
            assert torch.equal(load(path, recipe=OWN)(images()), model(images()))
    certificate = certify_packed(path, images(), recipe=OWN)
    assert certificate.passed
    assert certificate.identical_images == 5


def test_a_recipe_whose_term_alone_is_own_needs_nothing_again(tmp_path: Path) -> None:
    recipe, path = Recipe(regularization=SteadyTerm(memory=0.5)), tmp_path / "m.bvit"
    model = small(recipe)
    save_packed(model, path, meta={"recipe": recipe, "model": SMALL.name})
    with torch.no_grad():
        assert torch.equal(load_packed(path)(images()), model(images()))


@pytest.mark.slow
def test_a_class_of_a_script_is_not_packed(tmp_path: Path) -> None:
    class Local(ClampedMeanShift):
        pass

    recipe = Recipe(shift=Local)
    with pytest.raises(ConfigError, match="no later process can find it"):
        save_packed(small(recipe), tmp_path / "m.bvit", meta={"recipe": recipe})
    assert not (tmp_path / "m.bvit").exists()
    assert parity_certificate(small(recipe), load_runtime(small(recipe)), images(2)).passed


@pytest.mark.processes
def test_reading_a_file_or_a_run_imports_nothing_that_it_names(tmp_path: Path) -> None:
    path = tmp_path / "own.bvit"
    save_packed(small(OWN), path, meta={"recipe": OWN, "model": SMALL.name})
    code = f"""
import sys
from bvit_analysis.packed.model import load_packed, read_packed
from bvit_analysis.errors import PackedFileError
print(read_packed({str(path)!r}).recipe.shift)
try:
    load_packed({str(path)!r})
except PackedFileError as error:
    print(error)
print({HERE!r} in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, second, third = done.stdout.splitlines()
    assert first == f"{HERE}:Clamped(bound=0.5)"
    assert "only named here" in second
    assert third == "False"


@pytest.mark.slow
def test_a_run_is_packed_and_certified_with_its_recipe_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    smoke = get_scale("smoke")
    model = small(OWN, smoke.model)
    run, out, recipe = tmp_path / "own-seed0", tmp_path / "m.bvit", tmp_path / "own.toml"
    config = to_dict(smoke) | {"recipe": to_dict(OWN)}
    with RunWriter(run, info={"run_id": run.name, "config": config, "sites": []}) as writer:
        writer.write_status("finished", 40, 40)
    save_checkpoint(run, 40, {f"model.{k}": v for k, v in model.state_dict().items()}, {})
    recipe.write_text(
        f'shift = "{HERE}:Clamped(bound=0.5)"\nregularization = "{HERE}:SteadyTerm()"\n'
    )
    again = ["--recipe", str(recipe)]
    command = ["pack", str(run), "--out", str(out), "--certify", "5"]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "only named here and is not imported; give the recipe again" in error
    assert error.count("\n") == 1
    assert not out.exists()
    assert main([*command, *again]) == 0
    text = capsys.readouterr().out
    assert "parity passed: 5 images" in text
    assert "1.0000 of them predicted" in text
    assert json.loads((tmp_path / "m.bvit.parity.json").read_text())["differing"] == {}
    unpacked = ["unpack", str(out), "--out", str(tmp_path / "m.safetensors")]
    assert main(unpacked) == 2
    assert main([*unpacked, *again]) == 0
