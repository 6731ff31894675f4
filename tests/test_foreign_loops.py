"""The watch in everybody's loops: each against a count by hand, and against the same loop without it, to the bit."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch._dynamo
from timm.optim.lookahead import Lookahead
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from bvit_analysis.config import WatchConfig
from bvit_analysis.convert import binarize, calibrate
from bvit_analysis.errors import ConfigError
from bvit_analysis.records import Run, load_run
from bvit_analysis.sites import Site, find_sites
from bvit_analysis.watch import Watch
from tests.support.tiny_vit import tiny_vit

EACH = WatchConfig(
    flips_every=1,
    distribution_every=50,
    activation_every=1,
    trajectory_weights=4,
    trajectory_every=1,
)
STEPS = 5
IMAGES = 6


def batch(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(IMAGES, 1, 14, 14, generator=generator)
    return images, torch.randint(0, 3, (IMAGES,), generator=generator)


def binary_vit() -> nn.Module:
    torch.manual_seed(0)
    model = tiny_vit()
    binarize(model, "asm")
    calibrate(model, batch(999)[0])
    return model.train()


def loss_of(model: nn.Module, seed: int) -> Tensor:
    images, labels = batch(seed)
    return functional.cross_entropy(model(images), labels)


def adamw(model: nn.Module, **options: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=5e-3, **options)


@dataclasses.dataclass
class Hand:
    """What a loop notes by hand: signs after each applied step, gradients of its update, counts of its passes."""

    model: nn.Module
    sites: list[Site]
    signs: list[list[np.ndarray]] = dataclasses.field(default_factory=list)
    gradients: list[list[Tensor]] = dataclasses.field(default_factory=list)
    positive: list[int] = dataclasses.field(default_factory=list)
    heard: list[Tensor] = dataclasses.field(default_factory=list)

    def hear(self, module: nn.Module, args: Any, output: Tensor) -> None:
        """Be a forward hook of the shift before the first sign."""
        if torch.is_grad_enabled() and module.training:
            self.heard.append(output.detach().clone())

    def note_signs(self) -> None:
        """Note the signs as they are."""
        self.signs.append([(s.effective() >= 0).numpy().copy() for s in self.sites])

    def note_gradients(self) -> None:
        """Note the gradients that the next update uses."""
        self.gradients.append([s.latent.grad.clone() for s in self.sites])

    def note_passes(self) -> None:
        """Note how many values at the first sign were >= 0 in the passes since the last call."""
        self.positive.append(sum(int((x >= 0).sum()) for x in self.heard))
        self.heard.clear()

    def forget(self) -> None:
        """Leave the passes since the last call out of the count."""
        self.heard.clear()


Loop = Callable[[nn.Module, Any, Hand, Watch | None], None]


def watched(
    loop: Loop,
    run_dir: Path,
    optimizer_of: Callable[[nn.Module], Any] = adamw,
    model_of: Callable[[], nn.Module] = binary_vit,
    *,
    known: bool = True,
) -> tuple[Run, Hand]:
    """Run a loop twice, without and with a watch, and compare all bits; return the record and what was noted."""
    ends = []
    for with_watch in (False, True):
        model = model_of()
        optimizer = optimizer_of(model)
        sites = [site for site in find_sites(model) if site.kind == "weight"]
        hand = Hand(model, sites)
        hand.note_signs()
        torch.manual_seed(5)
        if with_watch:
            given = optimizer if known else None
            with Watch(model, run_dir, config=EACH, optimizer=given) as watch:
                loop(model, optimizer, hand, watch)
        else:
            handle = model.blocks[0].attn.qkv.sign.shift.register_forward_hook(hand.hear)
            loop(model, optimizer, hand, None)
            handle.remove()
            noted = hand
        ends.append(({k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()))
    (plain, plain_rng), (seen, seen_rng) = ends
    assert all(torch.equal(plain[name], seen[name]) for name in plain)
    assert torch.equal(plain_rng, seen_rng)
    hand.positive = noted.positive
    return load_run(run_dir), hand


def assert_as_by_hand(run: Run, hand: Hand, *, steps: int = STEPS, passes: int = 1) -> None:
    """Compare flips of every weight, steps, sampled gradients, and counts of activations with what was noted."""
    assert (run.state, run.step) == ("finished", steps)
    total = 0
    for position, site in enumerate(hand.sites):
        signs = np.stack([row[position] for row in hand.signs])
        gross = run.counts(site.name)["gross"]
        np.testing.assert_array_equal(gross, (signs[1:] != signs[:-1]).sum(0))
        total += int(gross.sum())
    assert total > 0
    paths = run.trajectories
    for position, site in enumerate(hand.sites):
        mine = paths[paths["site"] == site.name]
        for step, rows in mine.groupby("step"):
            gradient = hand.gradients[step - 1][position].reshape(-1)[
                rows["index"].to_numpy(copy=True)
            ]
            np.testing.assert_allclose(rows["gradient"], gradient, rtol=1e-6, atol=0)
    assert len(paths) == steps * 4 * len(hand.sites)
    rows = run.channels[run.channels["site"] == "blocks.0.attn.qkv.sign"]
    assert rows["step"].tolist() == list(range(1, steps + 1))
    assert set(rows["n"]) == {passes * IMAGES * 5}
    assert [int(counts.sum()) for counts in rows["counts"]] == hand.positive
    assert all(
        row["verified"]["differing"] == 0.0 for row in run.info["sites"] if row["kind"] == "weight"
    )


def plain(model: nn.Module, optimizer: Any, hand: Hand, watch: Watch | None) -> None:
    for t in range(STEPS):
        optimizer.zero_grad()
        loss = loss_of(model, t)
        loss.backward()
        hand.note_gradients()
        optimizer.step()
        hand.note_signs()
        hand.note_passes()
        if watch is not None:
            watch.step(loss=loss)


@pytest.mark.parametrize("known", [True, False], ids=["optimizer known", "not known"])
def test_a_plain_loop(known, tmp_path) -> None:
    assert_as_by_hand(*watched(plain, tmp_path / "run", known=known))


def test_a_closure(tmp_path) -> None:
    """As every Lightning training has it: gradients are made inside optimizer.step()."""

    def loop(model, optimizer, hand, watch):
        for t in range(STEPS):

            def closure(t=t):
                optimizer.zero_grad()
                loss = loss_of(model, t)
                loss.backward()
                hand.note_gradients()
                return loss

            loss = optimizer.step(closure) if t % 2 else optimizer.step(closure=closure)
            hand.note_signs()
            hand.note_passes()
            if watch is not None:
                watch.step(loss=loss)

    def sgd(model):
        return torch.optim.SGD(model.parameters(), lr=0.5)

    assert_as_by_hand(*watched(loop, tmp_path / "run", sgd))


def test_lbfgs_probes_are_no_passes_of_the_step(tmp_path) -> None:
    def loop(model, optimizer, hand, watch):
        for t in range(STEPS):
            calls = []

            def closure(t=t, calls=calls):
                optimizer.zero_grad()
                loss = loss_of(model, t)
                loss.backward()
                calls.append(1)
                if len(calls) == 1:  # where the step begins; all others look elsewhere
                    hand.note_gradients()
                    hand.note_passes()
                return loss

            optimizer.step(closure)
            assert len(calls) > 2
            hand.forget()
            hand.note_signs()
            if watch is not None:
                watch.step()

    def lbfgs(model):
        return torch.optim.LBFGS(model.parameters(), lr=2.0, max_iter=4)

    assert_as_by_hand(*watched(loop, tmp_path / "run", lbfgs))


class Sam(torch.optim.Optimizer):
    """Sharpness-aware minimization in the style of davda54/sam (2010.01412)."""

    def __init__(self, parameters, base, rho=0.05, **options):
        super().__init__(parameters, {"rho": rho, **options})
        self.base_optimizer = base(self.param_groups, **options)
        self.param_groups = self.base_optimizer.param_groups

    def _moved(self):
        return [p for group in self.param_groups for p in group["params"] if p.grad is not None]

    @torch.no_grad()
    def first_step(self):
        norm = torch.stack([p.grad.norm() for p in self._moved()]).norm()
        for p in self._moved():
            self.state[p]["old"] = p.data.clone()
            p.add_(p.grad * (0.05 / (norm + 1e-12)))
        self.zero_grad()

    @torch.no_grad()
    def second_step(self):
        for p in self._moved():
            p.data = self.state[p]["old"]
        self.base_optimizer.step()
        self.zero_grad()

    def step(self, closure=None):
        raise AssertionError("this loop calls the two steps itself")


def test_sam_probes_are_no_passes_of_the_step(tmp_path) -> None:
    def loop(model, optimizer, hand, watch):
        for t in range(STEPS):
            loss_of(model, t).backward()
            hand.note_passes()
            optimizer.first_step()
            loss_of(model, t).backward()
            hand.forget()
            hand.note_gradients()  # those that the update uses are taken where it probed
            optimizer.second_step()
            hand.note_signs()
            if watch is not None:
                watch.step()

    def sam(model):
        return Sam(model.parameters(), torch.optim.AdamW, lr=5e-3)

    assert_as_by_hand(*watched(loop, tmp_path / "run", sam))


def test_lookahead_in_its_first_use(tmp_path) -> None:
    def lookahead(model):
        return Lookahead(torch.optim.SGD(model.parameters(), lr=0.5), k=2)

    assert_as_by_hand(*watched(plain, tmp_path / "run", lookahead))


def test_micro_batches_evaluations_and_passes_without_a_backward_pass(tmp_path) -> None:
    def loop(model, optimizer, hand, watch):
        for t in range(STEPS):
            for k in range(3):
                (loss_of(model, 10 * t + k) / 3).backward()
                if k < 2 and watch is not None:
                    watch.step()  # nothing was applied, and the passes stay
            hand.note_passes()
            hand.note_gradients()
            model.eval()
            loss_of(model, 1)
            model.train()
            with torch.no_grad():
                loss_of(model, 2)
            loss_of(model, 3)  # with gradients, for a figure of the user's
            hand.forget()
            optimizer.step()
            optimizer.zero_grad()
            hand.note_signs()
            if watch is not None:
                watch.step()
                assert watch.skipped_steps == 2 * (t + 1)

    assert_as_by_hand(*watched(loop, tmp_path / "run"), passes=3)


def test_micro_batches_stay_where_the_first_weight_is_not_used(tmp_path) -> None:
    """As with dropped layers: no gradient reaches it, so it cannot tell that gradients were thrown away."""

    def model_of():
        model = binary_vit()
        model.blocks[0].attn.forward = lambda x, attn_mask=None, is_causal=False: x
        return model

    model = model_of()
    optimizer = adamw(model)
    with Watch(model, tmp_path / "run", config=EACH, optimizer=optimizer) as watch:
        for k in range(3):
            (loss_of(model, k) / 3).backward()
        optimizer.step()
        watch.step()
    rows = load_run(tmp_path / "run").channels
    assert set(rows["n"]) == {3 * IMAGES * 5}


@pytest.mark.parametrize("fused", [False, True])
def test_steps_that_a_scaler_skips_leave_nothing(fused, tmp_path) -> None:
    overflows = (1, 3)

    def loop(model, optimizer, hand, watch):
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
        for t in range(STEPS + 2):
            images, labels = batch(t)
            if t in overflows:
                images[0, 0, 0, 0] = torch.nan
            loss = functional.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            if t in overflows:
                hand.forget()
            else:
                hand.note_gradients()
                hand.gradients[-1] = [g / scaler.get_scale() for g in hand.gradients[-1]]
            scaler.step(optimizer)
            scaler.update()
            if t not in overflows:
                hand.note_signs()
                hand.note_passes()
            if watch is not None:
                watch.step(loss=loss)

    run, hand = watched(loop, tmp_path / "run", lambda model: adamw(model, fused=fused))
    assert_as_by_hand(run, hand)
    rows = run.sites[run.sites["kind"] == "activation"]
    assert not rows["binarization_error"].isna().any()


@pytest.mark.parametrize("reentrant", [False, True])
def test_what_a_checkpoint_runs_again_is_heard_once(reentrant, tmp_path) -> None:
    def loop(model, optimizer, hand, watch):
        for t in range(STEPS):
            images, labels = batch(t)
            images.requires_grad_(True)
            optimizer.zero_grad()
            logits = checkpoint(model, images, use_reentrant=reentrant)
            before = len(hand.heard)
            functional.cross_entropy(logits, labels).backward()
            hand.heard[before if not reentrant else 1 :] = []  # the hand's hook fires again
            hand.note_gradients()
            optimizer.step()
            hand.note_signs()
            hand.note_passes()
            if watch is not None:
                watch.step()

    assert_as_by_hand(*watched(loop, tmp_path / "run"))


def test_timms_own_checkpointing(tmp_path) -> None:
    def model_of():
        model = binary_vit()
        model.set_grad_checkpointing(True)
        return model

    def loop(model, optimizer, hand, watch):
        for t in range(STEPS):
            optimizer.zero_grad()
            loss = loss_of(model, t)
            once = len(hand.heard)
            loss.backward()
            hand.heard[once:] = []
            hand.note_gradients()
            optimizer.step()
            hand.note_signs()
            hand.note_passes()
            if watch is not None:
                watch.step()

    assert_as_by_hand(*watched(loop, tmp_path / "run", model_of=model_of))


# Compiled models -----------------------------------------------------------------------------------------------------


def compiled_run(
    run_dir: Path, how: str, backend: str, *, watch: bool
) -> tuple[dict[str, Tensor], int]:
    """Train a compiled model for 7 steps, of which the third and the sixth are sampled."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model = binary_vit()
    optimizer = adamw(model)
    config = dataclasses.replace(EACH, activation_every=3)
    with (
        Watch(model, run_dir, config=config, optimizer=optimizer)
        if watch
        else contextlib.nullcontext()
    ) as seen:
        called: Any = model
        if how == "function":
            called = torch.compile(model, backend=backend)
        elif how == "method":
            model.compile(backend=backend)
        torch.manual_seed(5)
        for t in range(7):
            optimizer.zero_grad()
            images, labels = batch(t)
            functional.cross_entropy(called(images), labels).backward()
            optimizer.step()
            if seen is not None:
                seen.step()
    breaks = torch._dynamo.utils.counters["graph_break"]
    assert not breaks, dict(breaks)
    return model.state_dict(), torch._dynamo.utils.counters["stats"].get("unique_graphs", 0)


@pytest.mark.slow
@pytest.mark.parametrize(("how", "backend"), [("method", "eager"), ("function", "inductor")])
def test_a_compiled_model_is_heard_in_two_graphs(how, backend, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")  # starts no processes
    compiled_run(tmp_path / "eager", "not", backend, watch=True)
    unwatched, one = compiled_run(tmp_path / "none", how, backend, watch=False)
    weights, graphs = compiled_run(tmp_path / "run", how, backend, watch=True)
    assert (one, graphs) == (1, 2)
    assert all(torch.equal(weights[name], unwatched[name]) for name in weights)
    eager, run = load_run(tmp_path / "eager"), load_run(tmp_path / "run")
    assert sorted(set(run.channels["step"])) == [3, 6]
    for kind in ("channels", "sites"):
        left, right = (getattr(one, kind) for one in (eager, run))
        assert left["step"].tolist() == right["step"].tolist()
        assert left["site"].tolist() == right["site"].tolist()
    assert run.channels["n"].tolist() == eager.channels["n"].tolist()
    for left, right in zip(eager.channels["counts"], run.channels["counts"], strict=True):
        np.testing.assert_array_equal(left, right)
    columns = ["sign_entropy_bits", "binarization_error", "channel_spread", "flip_rate"]
    np.testing.assert_allclose(run.sites[columns], eager.sites[columns], rtol=1e-4, atol=1e-6)
    assert [row["site"] for row in run.info["sites"]] == [
        row["site"] for row in eager.info["sites"]
    ]


@pytest.mark.slow
def test_a_model_that_was_compiled_and_run_before_is_heard_too(tmp_path) -> None:
    torch._dynamo.reset()
    model = binary_vit()
    compiled = torch.compile(model, backend="eager")
    optimizer = adamw(model)
    functional.cross_entropy(compiled(batch(0)[0]), batch(0)[1]).backward()
    with Watch(compiled, tmp_path / "run", config=EACH, optimizer=optimizer) as watch:
        for t in range(2):
            optimizer.zero_grad()
            functional.cross_entropy(compiled(batch(t)[0]), batch(t)[1]).backward()
            optimizer.step()
            watch.step()
    run = load_run(tmp_path / "run")
    assert sorted(set(run.channels["step"])) == [1, 2]
    assert not any("_orig_mod" in row["site"] for row in run.info["sites"])
    torch._dynamo.reset()


# What is not what it seems -------------------------------------------------------------------------------------------


def test_an_optimizer_of_another_model_is_refused(tmp_path) -> None:
    model = binary_vit()
    with (
        pytest.raises(ConfigError, match="owns none of the 4 watched weights"),
        Watch(model, tmp_path / "run", optimizer=adamw(binary_vit())),
    ):
        pass


def test_part_of_the_weights_under_another_optimizer_is_said(tmp_path) -> None:
    model = binary_vit()
    optimizer = torch.optim.SGD(model.blocks[0].attn.parameters(), lr=0.1)
    with (
        pytest.warns(
            RuntimeWarning, match=r"does not own 2 of 4 watched weights \(blocks.0.mlp.fc1"
        ),
        Watch(model, tmp_path / "run", optimizer=optimizer),
    ):
        pass


def test_steps_that_were_never_seen_are_an_error(tmp_path) -> None:
    """The optimizer is given, and another one, of the same weights, steps."""
    model = binary_vit()
    given, other = adamw(model), torch.optim.SGD(model.parameters(), lr=0.5)
    with (
        pytest.raises(
            ConfigError, match=r"no step of the optimizer was seen, but \d+ signs changed"
        ),
        Watch(model, tmp_path / "run", optimizer=given) as watch,
    ):
        for t in range(3):
            other.zero_grad()
            loss_of(model, t).backward()
            other.step()
            watch.step()


def test_weights_that_were_assigned_before_the_loop_are_followed(tmp_path) -> None:
    """load_state_dict(assign=True) between the watch and the loop: the optimizer that is made then moves the new ones."""
    model = binary_vit()
    watch = Watch(model, tmp_path / "run", config=EACH)
    model.load_state_dict({k: v.clone() for k, v in binary_vit().state_dict().items()}, assign=True)
    optimizer = adamw(model)
    hand = Hand(model, [s for s in find_sites(model) if s.kind == "weight"])
    hand.note_signs()
    with watch:
        plain(model, optimizer, hand, watch)
    run = load_run(tmp_path / "run")
    for position, site in enumerate(hand.sites):
        signs = np.stack([row[position] for row in hand.signs])
        gross = run.counts(site.name)["gross"]
        np.testing.assert_array_equal(gross, (signs[1:] != signs[:-1]).sum(0))


def test_weights_that_are_assigned_in_the_loop_are_refused(tmp_path) -> None:
    model = binary_vit()
    optimizer = adamw(model)
    with (
        pytest.raises(
            ConfigError, match=r"blocks.0.attn.qkv was replaced by another parameter.*rebase"
        ),
        Watch(model, tmp_path / "run", optimizer=optimizer) as watch,
    ):
        loss_of(model, 0).backward()
        optimizer.step()
        watch.step()
        state = {k: v.clone() for k, v in model.state_dict().items()}
        model.load_state_dict(state, assign=True)
        watch.step()


def test_a_replaced_layer_is_refused(tmp_path) -> None:
    model = binary_vit()
    with (
        pytest.raises(ConfigError, match=r"module at site blocks.0.attn.\w+.* was replaced"),
        Watch(model, tmp_path / "run") as watch,
    ):
        loss_of(model, 0).backward()
        model.blocks[0].attn = binary_vit().blocks[0].attn
        watch.step()


def test_a_deliberate_load_is_no_flip(tmp_path) -> None:
    model = binary_vit()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    hand = Hand(model, [s for s in find_sites(model) if s.kind == "weight"])
    flips = [np.zeros(s.shape, int) for s in hand.sites]
    best = {k: v.clone() for k, v in model.state_dict().items()}
    with Watch(model, tmp_path / "run", config=EACH, optimizer=optimizer) as watch:
        for t in range(6):
            if t in (2, 4):
                with torch.no_grad():
                    for value in best.values():
                        value.add_(0.05 * torch.randn_like(value))
                before = [(s.effective() >= 0) for s in hand.sites]
                model.load_state_dict(best)
                differ = sum(
                    int((b != (s.effective() >= 0)).sum())
                    for b, s in zip(before, hand.sites, strict=True)
                )
                assert watch.rebase() == differ > 0
            before = [(s.effective() >= 0).numpy().copy() for s in hand.sites]
            optimizer.zero_grad()
            loss_of(model, t).backward()
            optimizer.step()
            for position, site in enumerate(hand.sites):
                flips[position] += before[position] != (site.effective() >= 0).numpy()
            watch.step()
    run = load_run(tmp_path / "run")
    for position, site in enumerate(hand.sites):
        counts = run.counts(site.name)
        np.testing.assert_array_equal(counts["gross"], flips[position])
        np.testing.assert_array_equal(counts["last_sign"] > 0, (site.effective() >= 0).numpy())


def test_a_model_that_is_not_heard_is_said(tmp_path) -> None:
    """Train mode was forgotten, so no activation is heard."""
    model = binary_vit().eval()
    optimizer = adamw(model)
    with Watch(model, tmp_path / "run", config=EACH, optimizer=optimizer) as watch:
        loss_of(model, 0).backward()
        optimizer.step()
        with pytest.warns(
            RuntimeWarning, match="no training pass of the watched VisionTransformer"
        ):
            watch.step()


def test_wrapped_names_are_those_of_the_model(tmp_path) -> None:
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    names = [site.name for site in find_sites(binary_vit())]
    model = binary_vit()
    model.blocks[0] = checkpoint_wrapper(model.blocks[0])
    assert [site.name for site in find_sites(nn.DataParallel(model))] == names


def test_several_processes_are_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(ConfigError, match="2 processes train this model together"):
        Watch(binary_vit(), tmp_path / "run")
