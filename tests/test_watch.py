from __future__ import annotations

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from bvit_analysis import measures
from bvit_analysis.config import WatchConfig
from bvit_analysis.convert import binarize, calibrate
from bvit_analysis.errors import CheckpointError, ConfigError, RunError
from bvit_analysis.instruments import LevelInstrument
from bvit_analysis.records import SITE_METRICS, RunWriter, load_run
from bvit_analysis.sites import describe_sites, find_sites
from bvit_analysis.watch import Watch
from tests.support.tiny_vit import tiny_vit

OFTEN = WatchConfig(flips_every=2, distribution_every=3, activation_every=3, trajectory_weights=4)


def vit() -> nn.Module:
    return tiny_vit(drop_path_rate=0.1, proj_drop_rate=0.1)


def binary_vit() -> nn.Module:
    model = vit()
    binarize(model, "asm")
    calibrate(model, batch(999)[0])
    return model.train()


def batch(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(6, 1, 14, 14, generator=generator)
    return images, torch.randint(0, 3, (6,), generator=generator)


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=5e-3)


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> torch.Tensor:
    images, labels = batch(seed)
    loss = functional.cross_entropy(model(images), labels)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss


def hooks_of(model: nn.Module) -> int:
    number = 0
    for module in model.modules():
        number += len(module._forward_hooks) + len(module._forward_pre_hooks)
        number += len(module._backward_hooks) + len(module._backward_pre_hooks)
    for parameter in model.parameters():
        number += len(parameter._post_accumulate_grad_hooks or {})
        number += len(parameter._backward_hooks or {})
    return number


def optimizer_hooks(optimizer: torch.optim.Optimizer) -> int:
    return len(optimizer._optimizer_step_pre_hooks) + len(optimizer._optimizer_step_post_hooks)


def test_training_is_the_same_to_the_bit(tmp_path) -> None:
    def run(watched: bool) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        model = binary_vit()
        teacher = vit().eval().requires_grad_(False)
        optimizer = optimizer_of(model)
        torch.manual_seed(1)
        if watched:
            with Watch(
                model, tmp_path / "run", teacher=teacher, config=OFTEN, optimizer=optimizer
            ) as w:
                for t in range(8):
                    loss = train_step(model, optimizer, t)
                    teacher(batch(t)[0])
                    w.step(loss=loss)
        else:
            for t in range(8):
                train_step(model, optimizer, t)
                teacher(batch(t)[0])
        return model.state_dict(), torch.get_rng_state()

    (plain, plain_rng), (watched, watched_rng) = run(False), run(True)
    for name, value in plain.items():
        assert torch.equal(value, watched[name]), name
    assert torch.equal(plain_rng, watched_rng)


def test_record_equals_what_the_loop_saw(tmp_path) -> None:
    model = binary_vit()
    optimizer = optimizer_of(model)
    sites = {s.name: s for s in find_sites(model) if s.kind == "weight"}
    weights = {name: [site.effective().clone()] for name, site in sites.items()}
    losses, gradients = [], {name: [] for name in sites}
    with Watch(model, tmp_path / "run", config=OFTEN, total_steps=10) as watch:
        for t in range(10):
            images, labels = batch(t)
            loss = functional.cross_entropy(model(images), labels)
            loss.backward()
            for name, site in sites.items():
                gradients[name].append(site.latent.grad.clone())
            optimizer.step()
            optimizer.zero_grad()
            for name, site in sites.items():
                weights[name].append(site.effective().clone())
            losses.append(loss.item())
            watch.step(loss=loss, lr=5e-3, accuracy=0.5 if t == 9 else math.nan)
    run = load_run(tmp_path / "run")
    assert (run.state, run.step, run.warnings) == ("finished", 10, [])
    assert run.info["kind"] == "watched"
    assert run.info["versions"]["torch"]
    assert [row["site"] for row in run.info["sites"]] == [s.name for s in find_sites(model)]
    assert run.scalars["loss"].tolist() == losses
    assert run.scalars["accuracy"].iloc[-1] == 0.5
    for name in sites:
        signs = torch.stack(weights[name]).numpy() >= 0
        rows = run.sites[run.sites["site"] == name].set_index("step")
        assert rows.index.tolist() == [0, 2, 3, 4, 6, 8, 9, 10]
        gross = measures.gross_flips(signs)
        assert rows.loc[10, "gross_flips"] == pytest.approx(gross.mean())
        flips = signs[9:11] != signs[8:10]
        assert rows.loc[10, "flip_rate"] == pytest.approx(flips.mean())
        u = measures.normalise_rows(weights[name][9])
        assert rows.loc[9, "otsu_ratio"] == pytest.approx(measures.otsu_ratio(u), rel=1e-6)
        counts = run.counts(name)
        np.testing.assert_array_equal(counts["gross"], gross)
        np.testing.assert_array_equal(counts["first_sign"], np.where(signs[0], 1, -1))
        np.testing.assert_array_equal(counts["last_sign"], np.where(signs[-1], 1, -1))
        np.testing.assert_array_equal(counts["late"], signs[10] != signs[9])
        assert counts["steps"] == 10
        path = run.trajectories[run.trajectories["site"] == name]
        assert len(path) == 40
        for step, index, latent, sign in path[["step", "index", "latent", "sign"]].to_numpy():
            value = weights[name][int(step)].reshape(-1)[int(index)].item()
            assert (latent, sign) == (value, 1 if value >= 0 else -1)
        one = path[path["step"] == 4]
        index = torch.tensor(one["index"].to_numpy())
        expected = gradients[name][3].reshape(-1)[index].numpy()
        np.testing.assert_array_equal(one["gradient"].to_numpy(), expected)


@pytest.mark.slow
def test_every_metric_is_recorded_where_it_belongs(tmp_path) -> None:
    model, teacher = binary_vit(), vit().eval()
    optimizer = optimizer_of(model)
    config = WatchConfig(flips_every=101, distribution_every=101, activation_every=101)
    with Watch(model, tmp_path / "run", teacher=teacher, config=config) as watch:
        for t in range(202):
            train_step(model, optimizer, t)
            if t > 199:
                with torch.no_grad():
                    teacher(batch(t)[0])
            watch.step()
    sites = load_run(tmp_path / "run").sites
    last = sites[sites["step"] == 202]
    split = SITE_METRICS.index("sign_entropy_bits")
    for kind, names in (("weight", SITE_METRICS[:split]), ("activation", SITE_METRICS[split:])):
        rows = last[last["kind"] == kind]
        assert len(rows) > 3
        several = {
            *LevelInstrument().declared,
            "sign_change_rate",
        }  # of weights with more than two levels
        assert not rows[[name for name in names if name not in several]].isna().any().any()
        others = [name for name in SITE_METRICS if name not in names or name in several]
        assert rows[others].isna().all().all()
    attention = last[last["kind"] == "attention"].iloc[0]
    assert not attention[["sign_entropy_bits", "binarization_error", "twin_agreement"]].isna().any()


@pytest.mark.parametrize("end", ["well", "error", "interrupt", "attach"])
@pytest.mark.parametrize("with_optimizer", [False, True])
def test_no_hook_is_left(tmp_path, monkeypatch, end: str, with_optimizer: bool) -> None:
    model, teacher = binary_vit(), vit().eval()
    optimizer = optimizer_of(model)
    config = WatchConfig(activation_every=1)
    given = optimizer if with_optimizer else None
    before = hooks_of(model), hooks_of(teacher), optimizer_hooks(optimizer)
    watch = Watch(model, tmp_path / "run", teacher=teacher, config=config, optimizer=given)
    assert (hooks_of(model), hooks_of(teacher), optimizer_hooks(optimizer)) == before
    if end == "attach":
        monkeypatch.setattr("bvit_analysis.watch.RunWriter", _broken_writer)

    def body() -> None:
        with watch:
            assert hooks_of(model) > before[0]
            assert hooks_of(teacher) > before[1]
            watch.step(loss=train_step(model, optimizer, 0))
            train_step(model, optimizer, 1)  # leaves in the middle of a step
            if end == "error":
                raise ZeroDivisionError("a mistake in the loop")
            if end == "interrupt":
                raise KeyboardInterrupt

    kinds = {"error": ZeroDivisionError, "interrupt": KeyboardInterrupt, "attach": RunError}
    if end == "well":
        with pytest.warns(RuntimeWarning, match=r"\d+ signs changed after the last watch.step\(\)"):
            body()
    else:
        with pytest.raises(kinds[end]):
            body()
    assert (hooks_of(model), hooks_of(teacher), optimizer_hooks(optimizer)) == before
    if end == "attach":
        return
    run = load_run(tmp_path / "run")
    states = {"well": "finished", "error": "failed", "interrupt": "interrupted"}
    assert run.state == states[end]
    assert len(run.scalars) == 1
    assert run.counts("blocks.0.attn.qkv")["steps"] == 1
    error = "ZeroDivisionError: a mistake in the loop" if end == "error" else None
    if end != "interrupt":
        assert run.status["error"] == error


def _broken_writer(*args: object, **kwargs: object) -> RunWriter:
    raise RunError("no space left")


@pytest.mark.processes
def test_a_copied_model_neither_feeds_nor_holds_the_watch(tmp_path) -> None:
    def run(copied: bool) -> tuple:
        model = binary_vit()
        optimizer = optimizer_of(model)
        torch.manual_seed(5)
        path = tmp_path / f"copied-{copied}"
        with Watch(model, path, config=WatchConfig(activation_every=1)) as watch:
            for t in range(3):
                twin = copy.deepcopy(model) if copied else None
                train_step(model, optimizer, t)
                if twin is not None:
                    state = torch.get_rng_state()
                    train_step(twin, optimizer_of(twin), 50 + t)
                    torch.set_rng_state(state)
                watch.step()
        done = load_run(path)
        return done.sites, done.trajectories

    for one, other in zip(run(False), run(True), strict=True):
        assert one.equals(other)


@pytest.mark.processes
def test_evaluation_passes_are_not_seen(tmp_path) -> None:
    def run(evaluate: bool):
        model = binary_vit()
        optimizer = optimizer_of(model)
        torch.manual_seed(5)
        path = tmp_path / f"evaluate-{evaluate}"
        with Watch(model, path, config=WatchConfig(activation_every=1)) as watch:
            for t in range(3):
                if evaluate:
                    model.eval()(batch(70)[0])
                    state = torch.get_rng_state()
                    with torch.no_grad():
                        model.train()(batch(71)[0])
                    torch.set_rng_state(state)
                train_step(model, optimizer, t)
                if evaluate:
                    model.eval()(batch(72)[0])
                    model.train()
                watch.step()
        return load_run(path).sites

    assert run(False).equals(run(True))


@pytest.mark.processes
def test_accumulated_passes_are_one_step(tmp_path) -> None:
    model = binary_vit().requires_grad_(True)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    whole = copy.deepcopy(model)
    config = WatchConfig(activation_every=1)
    found = []
    for name, parts, one in (("whole", 1, whole), ("parts", 3, model)):
        with Watch(one, tmp_path / name, config=config) as watch:
            images, labels = batch(0)
            one.drop_path = None
            for block in one.blocks:
                block.drop_path1 = block.drop_path2 = nn.Identity()
            for x, y in zip(images.chunk(parts), labels.chunk(parts), strict=True):
                (functional.cross_entropy(one(x), y) / parts).backward()
            watch.step()
            assert watch.steps == 1
        found.append(load_run(tmp_path / name))
    rows = [run.sites[run.sites["step"] == 1].reset_index(drop=True) for run in found]
    for name in ("positive_share", "sign_entropy_bits", "binarization_error"):
        np.testing.assert_allclose(rows[0][name], rows[1][name], atol=1e-5)
    gradients = [run.trajectories["gradient"] for run in found]
    np.testing.assert_allclose(*gradients, atol=1e-6)


def test_skipped_steps_are_not_counted(tmp_path) -> None:
    model = binary_vit()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    with Watch(model, tmp_path / "run", optimizer=optimizer) as watch:
        for t in range(5):
            images, labels = batch(t)
            loss = functional.cross_entropy(model(images), labels)
            if t in (1, 3):
                loss = loss * math.inf
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            gradient = model.blocks[0].attn.qkv.weight.grad.clone()
            optimizer.zero_grad()
            watch.step(loss=loss)
        assert (watch.steps, watch.skipped_steps) == (3, 2)
        watch.step(applied=False)
        assert (watch.steps, watch.skipped_steps) == (3, 3)
    run = load_run(tmp_path / "run")
    assert run.scalars["step"].tolist() == [1, 2, 3]
    path = run.trajectories
    one = path[(path["site"] == "blocks.0.attn.qkv") & (path["step"] == 3)]
    # The optimizer was given unscaled gradients, and that is what is recorded.
    index = torch.tensor(one["index"].to_numpy())
    np.testing.assert_array_equal(one["gradient"], gradient.view(-1)[index])


def test_a_backward_pass_that_fails_does_no_harm(tmp_path) -> None:
    model = binary_vit()
    optimizer = optimizer_of(model)

    def fail(gradient: torch.Tensor) -> None:
        raise ZeroDivisionError

    with Watch(model, tmp_path / "run") as watch:
        handle = model.patch_embed.proj.weight.register_hook(fail)  # after all binary weights
        with pytest.raises(ZeroDivisionError):
            train_step(model, optimizer, 0)
        handle.remove()
        optimizer.zero_grad()
        watch.step(applied=False)
        for t in range(2):
            watch.step(loss=train_step(model, optimizer, t))
    gradients = load_run(tmp_path / "run").trajectories.groupby("step")["gradient"]
    assert not gradients.apply(lambda g: g.isna().any()).any()


def test_a_missed_step_is_pointed_out(tmp_path) -> None:
    model = binary_vit()
    optimizer = optimizer_of(model)
    with Watch(model, tmp_path / "run", optimizer=optimizer) as watch:
        train_step(model, optimizer, 0)
        train_step(model, optimizer, 1)
        with pytest.warns(RuntimeWarning, match="stepped 2 times"):
            watch.step()


class Centred(nn.Linear):
    """A layer of another project: sign(w - mean w) times mean|w|, with a straight-through gradient."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        w = self.weight - self.weight.mean(1, keepdim=True)
        binary = torch.where(w >= 0, 1.0, -1.0) * w.abs().mean(1, keepdim=True)
        return functional.linear(x, w + (binary - w).detach(), self.bias)


def centre(module: nn.Module) -> torch.Tensor:
    return module.weight - module.weight.mean(1, keepdim=True)


def test_another_projects_binarizer_is_watched_by_its_effective_sign(tmp_path) -> None:
    model = nn.Sequential(Centred(12, 20), nn.ReLU(), Centred(20, 3))
    with torch.no_grad():
        model[0].weight.add_(0.1)
    wrong = find_sites(model, effective_sign={Centred: lambda m: m.weight})
    says = r"site 0: \d+\.\d+% of the tracked signs differ.*; the weight less its row mean fits; pass find_sites"
    with (
        pytest.raises(ConfigError, match=says),
        Watch(model, tmp_path / "wrong", sites=wrong),
    ):
        model(torch.randn(8, 12))
    assert not (tmp_path / "wrong").exists()
    optimizer = optimizer_of(model)
    sites = find_sites(model, effective_sign={Centred: centre})
    signs = [centre(model[0]).detach().numpy() >= 0]
    with Watch(model, tmp_path / "run", sites=sites, optimizer=optimizer) as watch:
        for t in range(20):
            torch.manual_seed(t)
            model(torch.randn(8, 12)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            signs.append(centre(model[0]).detach().numpy() >= 0)
            watch.step()
    counts = load_run(tmp_path / "run").counts("0")
    assert counts["gross"].sum() > 0
    np.testing.assert_array_equal(counts["gross"], measures.gross_flips(np.stack(signs)))


def test_tied_weights_count_once(tmp_path) -> None:
    model = nn.Sequential(Centred(6, 6), Centred(6, 6))
    model[1].weight = model[0].weight
    one = find_sites(model, effective_sign={Centred: centre})[0]
    again = type(one)(**{**vars(one), "name": "1", "module": model[1]})
    with Watch(model, tmp_path / "run", sites=[one, again]) as watch:
        model(torch.randn(2, 6))
        watch.step()
    assert [site.name for site in watch.sites] == ["0"]


@pytest.mark.slow
def test_a_resumed_watch_equals_an_uninterrupted_one(tmp_path) -> None:
    steps, total = range(12), 12
    often = dataclasses.replace(OFTEN, trajectory_weights=16)  # the restless join at 3, 6 and 9

    def finish(path, stop_at: int | None) -> None:
        model = binary_vit()
        optimizer = optimizer_of(model)
        info = {"sites": describe_sites(find_sites(model))}
        writer = RunWriter(path, info=info)
        watch = Watch(model, path, config=often, writer=writer, total_steps=total)
        watch.__enter__()
        for t in steps:
            torch.manual_seed(t)
            watch.step(loss=train_step(model, optimizer, t))
            if t + 1 == stop_at:
                state = watch.state_dict()
                saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
                writer.seal()
                train_step(model, optimizer, 77)  # lost with the process
                watch.step()
                watch.close()
                writer.close()
                model = binary_vit()
                optimizer = optimizer_of(model)
                model.load_state_dict(saved[0])
                optimizer.load_state_dict(saved[1])
                writer = RunWriter(path, info=info, resume_step=stop_at)
                watch = Watch(model, path, config=often, writer=writer, total_steps=total)
                watch.load_state_dict(state)
                watch.__enter__()
        watch.close()
        writer.close()

    finish(tmp_path / "whole", None)
    whole = load_run(tmp_path / "whole")
    assert whole.state == "interrupted"  # the writer's owner tells the state
    for stop_at in (1, 5, 11):
        finish(tmp_path / f"stop-{stop_at}", stop_at)
        resumed = load_run(tmp_path / f"stop-{stop_at}")
        for kind in ("scalars", "sites", "trajectories"):
            one, other = getattr(whole, kind), getattr(resumed, kind)
            assert one.equals(other), (stop_at, kind)
        rows = [run.histograms.sort_values(["step", "site"]) for run in (whole, resumed)]
        assert [r.tolist() for r in rows[0]["counts"]] == [r.tolist() for r in rows[1]["counts"]]
        for site in ("blocks.0.attn.qkv", "blocks.0.mlp.fc2"):
            np.testing.assert_equal(whole.counts(site), resumed.counts(site))
            assert (whole.start(site).latent == resumed.start(site).latent).all()
        assert set(whole.trajectories["since"]) == {0, 3, 6, 9}
        assert whole.info["followed"] == resumed.info["followed"]


def test_state_of_another_model_is_refused(tmp_path) -> None:
    one = nn.Sequential(Centred(6, 4))
    other = nn.Sequential(nn.Identity(), Centred(6, 4))
    watches = [
        Watch(m, tmp_path / "run", sites=find_sites(m, effective_sign={Centred: centre}))
        for m in (one, other)
    ]
    with pytest.raises(CheckpointError, match="of other sites"):
        watches[1].load_state_dict(watches[0].state_dict())


def test_what_cannot_be_watched_is_refused(tmp_path) -> None:
    with pytest.raises(ConfigError, match="found nothing binary in the Linear"):
        Watch(nn.Linear(2, 2), tmp_path / "run")
    with pytest.raises(ConfigError, match="is not allowed"):
        Watch(binary_vit(), tmp_path / "a b")
    with pytest.raises(ConfigError, match="found nothing binary in the Linear"):
        Watch(nn.Linear(2, 2), tmp_path / "float", sites=[])
    layer = Centred(2, 2)
    sites = find_sites(layer, effective_sign={Centred: centre})
    with Watch(layer, tmp_path / "scalars", sites=sites) as watch:
        layer(torch.ones(1, 2))
        with pytest.raises(
            ConfigError, match=r"scalar 'loss' must be one number, got shape \(2,\)"
        ):
            watch.step(loss=torch.ones(2))
        assert watch.steps == 0
        watch.step(loss=1.0)
        with pytest.raises(ConfigError, match=r"unknown scalar 'lrr'.*did you mean 'lr'"):
            watch.step(lrr=1.0)
    with pytest.raises(ConfigError, match="not entered"):
        watch.step()
    assert load_run(tmp_path / "scalars").scalars["loss"].tolist() == [1.0]


def test_a_given_writer_stays_its_owners(tmp_path) -> None:
    model = binary_vit()
    sites = find_sites(model)
    with RunWriter(tmp_path / "run", info={"sites": describe_sites(sites[::-1])}) as writer:
        with Watch(model, tmp_path / "run", sites=sites, writer=writer) as watch:
            watch.step()
        assert load_run(tmp_path / "run").state == "running"
        writer.append("timings", {"step": [1], "images_per_s": [1.0], "elapsed_s": [1.0]})
    rows = load_run(tmp_path / "run").trajectories
    weights = [site.name for site in sites if site.kind == "weight"]
    assert set(rows["site"]) == set(weights)
    with (
        RunWriter(tmp_path / "other", info={"sites": []}) as writer,
        pytest.raises(ConfigError, match="unknown site of the run"),
    ):
        Watch(model, tmp_path / "other", sites=sites, writer=writer)


@pytest.mark.slow
def test_memory_stays_flat(tmp_path) -> None:
    model = binary_vit()
    optimizer = optimizer_of(model)
    with Watch(model, tmp_path / "run", config=OFTEN) as watch:
        sizes = []
        for t in range(130):
            train_step(model, optimizer, t)
            watch.step()
            buffered = len(watch._scalars) + len(watch._pending) + len(watch._trajectories._rows)
            sizes.append((watch.state_bytes, sum(len(x._handles) for x in watch._listeners)))
            assert buffered <= 3 * 64 + 1
        assert {size for size, _ in sizes} == {sizes[0][0]}
        assert {n for _, n in sizes} == {10}  # the taps stay, and open for sampled steps
