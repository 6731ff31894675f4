"""Blocks as one program: what the modules give one by one, however many threads run it."""

from __future__ import annotations

import copy
import importlib.util
import pickle
import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from numpy import ndarray
from torch import Tensor, nn

from bvit_analysis.config import RECIPES, ModelConfig, Recipe
from bvit_analysis.runtime.kernels import memory, programs
from bvit_analysis.runtime.kernels import products as kernels
from bvit_analysis.runtime.model import PackedModel, load_runtime
from bvit_analysis.runtime.parity import random_weights

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("numba") is None, reason="programs need numba"
)
SMALL = ModelConfig(patch_size=7, embed_dim=48, depth=2, num_heads=2)


@pytest.fixture(autouse=True)
def _threads_for_any_work(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(programs, "_WORTH_HELP", 0)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def draw(seed: int, *shape: int) -> ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def small(recipe: str | Recipe = "binaryvit") -> nn.Module:
    return random_weights(SMALL, recipe, img_size=28, in_chans=1, num_classes=10)


def images(count: int = 3, seed: int = 1) -> Tensor:
    return torch.randn(count, 1, 28, 28, generator=torch.Generator().manual_seed(seed))


def logits(model: nn.Module, batch: Tensor) -> Tensor:
    with torch.no_grad():
        return model(batch)


def layer_by_layer(model: PackedModel, batch: Tensor) -> Tensor:
    """Return the logits when the modules of the blocks run: that is what a hook asks for."""
    seen: list[int] = []
    block = model.get_submodule("skeleton.blocks.0")
    handle = block.register_forward_hook(lambda *_: seen.append(1))
    found = logits(model, batch)
    handle.remove()
    assert seen
    return found


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("recipe", [*RECIPES, "static", "boolean"])
def test_one_program_is_the_modules_one_by_one(recipe: str, number: int) -> None:
    torch.set_num_threads(number)
    extra = {
        "static": Recipe(shift="static"),
        "boolean": Recipe(attention="boolean", shift="token_mean"),
    }
    model = small(extra.get(recipe, recipe))
    runtime = load_runtime(model, backend="numba")
    assert runtime.skeleton.blocks.by_layer is None
    for count in (1, 3, 7):
        batch = images(count)
        got = logits(runtime, batch)
        assert torch.equal(got, logits(model, batch))
        assert torch.equal(got, layer_by_layer(runtime, batch))


def test_what_programs_do_not_have_runs_by_modules() -> None:
    reasons = {
        "bottleneck": (small(Recipe(shift="bottleneck")), "BottleneckShift"),
        "activation": (small(Recipe(rprelu=False)), "GELU"),
        "narrow": (
            random_weights(
                ModelConfig(patch_size=7, embed_dim=36, depth=1, num_heads=2),
                "asm",
                img_size=28,
                in_chans=1,
                num_classes=3,
            ),
            "layer norm",
        ),
    }
    for model, reason in reasons.values():
        runtime = load_runtime(model, backend="numba")
        assert reason in runtime.skeleton.blocks.by_layer
        assert reason in repr(runtime)
        assert torch.equal(logits(runtime, images()), logits(model, images()))
    assert load_runtime(small(), backend="numpy").skeleton.blocks.by_layer == "backend numpy"


def test_rows_near_a_tie_are_settled_inside_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small()
    runtime = load_runtime(model, backend="numba")
    settled: list[int] = []
    settle = kernels.settle
    monkeypatch.setattr(kernels, "tie_margin", lambda *_: 0.5)

    def counted(out: ndarray, near: ndarray, *rest: object) -> None:
        settled.append(int(near.sum()))
        settle(out, near, *rest)

    monkeypatch.setattr(kernels, "settle", counted)
    for number in (1, 2):
        torch.set_num_threads(number)
        settled.clear()
        assert torch.equal(logits(runtime, images(4)), logits(model, images(4)))
        assert len(settled) == 2  # one a block
        assert min(settled) > 0


def test_memory_of_a_program_is_used_again() -> None:
    runtime = load_runtime(small(), backend="numba")
    blocks = runtime.skeleton.blocks
    wanted = logits(runtime, images(2))
    [(_, program)] = blocks._programs._free
    assert torch.equal(logits(runtime, images(2)), wanted)
    assert [kept for _, kept in blocks._programs._free] == [program]
    logits(runtime, images(3))
    logits(runtime, images(4))
    assert len(blocks._programs._free) == 2  # the oldest was let go
    assert torch.equal(logits(runtime, images(2)), wanted)


def test_memory_of_a_workspace_may_come_and_go(monkeypatch: pytest.MonkeyPatch) -> None:
    small_memory = load_runtime(small(), backend="numba")
    wanted = logits(small_memory, images(3))
    monkeypatch.setattr(memory, "_HELD_BYTES", 0)
    large_memory = load_runtime(small(), backend="numba")
    for _ in range(3):
        assert torch.equal(logits(small_memory, images(3)), wanted)
        assert torch.equal(logits(large_memory, images(3)), wanted)


def test_programs_follow_their_weights() -> None:
    runtime = load_runtime(small("asm"), backend="numba")
    other = load_runtime(small("asm"), backend="numba")
    generator = torch.Generator().manual_seed(5)
    for parameter in other.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    other.skeleton.blocks.forget()
    before, wanted = logits(runtime, images()), layer_by_layer(other, images())
    assert not torch.equal(before, wanted)
    twins = [copy.deepcopy(runtime), pickle.loads(pickle.dumps(runtime))]
    runtime.load_state_dict(other.state_dict())
    assert torch.equal(logits(runtime, images()), wanted)
    for twin in twins:
        assert torch.equal(logits(twin, images()), before)
        twin.load_state_dict(other.state_dict(), assign=True)
        assert torch.equal(logits(twin, images()), wanted)


def test_a_batch_in_parts_is_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = load_runtime(small(), backend="numba")
    whole = logits(runtime, images(7))
    monkeypatch.setattr("bvit_analysis.runtime.blocks.CHUNK_BYTES", 2 * 4 * 17 * 192)  # two images
    sizes: list[int] = []
    forward = runtime.skeleton.forward_features
    monkeypatch.setattr(
        runtime.skeleton, "forward_features", lambda x: sizes.append(len(x)) or forward(x)
    )
    assert torch.equal(logits(runtime, images(7)), whole)
    assert sizes == [2, 2, 2, 1]


def test_times_of_parts_are_of_the_same_result() -> None:
    runtime = load_runtime(small(), backend="numba")
    x = torch.from_numpy(draw(1, 3, 17, 48))
    seconds = runtime.skeleton.blocks.timed(x)
    assert set(seconds) == {"norms", "shifts, signs", "block linears", "attention products"}
    assert min(seconds.values()) > 0


@pytest.mark.slow
def test_many_threads_over_one_model() -> None:
    torch.set_num_threads(2)
    runtime = load_runtime(small(), backend="numba")
    batches = [images(5, seed) for seed in range(4)]
    wanted = [logits(runtime, batch) for batch in batches]
    wrong: list[int] = []

    def work(index: int) -> None:
        torch.set_num_threads(2)
        for _ in range(20):
            if not torch.equal(logits(runtime, batches[index]), wanted[index]):
                wrong.append(index)

    workers = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []
