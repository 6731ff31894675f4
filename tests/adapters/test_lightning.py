"""Lightning's own fit, watched: counts, losses and gradients of a plain loop, bits of a fit that nobody watches."""

from __future__ import annotations

import functools
import importlib
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader

from bvit_analysis.errors import ConfigError, MissingExtraError
from bvit_analysis.records import load_run
from bvit_analysis.sites import find_sites
from tests.support.accumulated import (
    ACCUMULATED,
    CLIP,
    EACH,
    Counted,
    assert_gradients,
    assert_recorded,
    assert_same_bits,
    binary_vit,
    by_hand,
    example,
    hooks_of,
    made,
    micro_batch,
)

pytestmark = [
    pytest.mark.slow,
    # Lightning asks torch's pytree in the way of an older torch
    pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning"),
    # its advice on speed
    pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers"),
]

BATCHES = 8
"Of an epoch: two full steps and one of two micro-batches."


@pytest.fixture(scope="module")
def lightning() -> Any:
    """Lightning, which takes seconds to import."""
    return importlib.import_module("lightning.pytorch")


def callback(*arguments: Any, **settings: Any) -> Any:
    from bvit_analysis.adapters import WatchCallback

    return WatchCallback(*arguments, config=EACH, **settings)


def module_of(lightning: Any, *, fails_at: int = -1, error: BaseException | None = None) -> Any:
    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = binary_vit()

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if batch_idx == fails_at and error is not None:
                raise error
            images, labels = batch
            return functional.cross_entropy(self.net(images), labels)

        def configure_optimizers(self) -> Any:
            optimizer, schedule = made(self)
            chosen = {"scheduler": schedule, "interval": "step"}
            return {"optimizer": optimizer, "lr_scheduler": chosen}

    return Module()


def manual_module_of(lightning: Any, *, optimizers: int = 1) -> Any:
    """Two steps a batch of two micro-batches each, which automatic optimization cannot do."""

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = binary_vit()
            self.other = nn.Linear(1, 1)
            self.automatic_optimization = False
            self.counted = Counted()

        def training_step(self, batch: Any, batch_idx: int) -> None:
            chosen = self.optimizers()
            first = chosen[0] if optimizers > 1 else chosen
            if optimizers > 1:
                self.manual_backward(self.other(torch.ones(1)).sum())
                chosen[1].step()
            images, labels = batch
            for _ in range(2):
                losses = []
                for part in (slice(3), slice(3, 6)):
                    loss = functional.cross_entropy(self.net(images[part]), labels[part])
                    self.manual_backward(loss)
                    losses.append(float(loss.detach()))
                self.counted.step(self.net, first, losses)
                first.zero_grad()

        def configure_optimizers(self) -> Any:
            found = [made(self.net)[0]]
            found += [torch.optim.SGD(self.other.parameters(), 0.1)] * (optimizers - 1)
            return found

    return Module()


def trainer_of(lightning: Any, **settings: Any) -> Any:
    quiet = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
    )
    plain = {"accelerator": "cpu", "devices": 1, "max_epochs": 1}
    return lightning.Trainer(**{**quiet, **plain, **settings})


def loader(batches: int = BATCHES) -> Any:
    return DataLoader([micro_batch(number) for number in range(batches)], batch_size=None)


def accumulating(lightning: Any, **settings: Any) -> Any:
    return trainer_of(
        lightning, accumulate_grad_batches=ACCUMULATED, gradient_clip_val=CLIP, **settings
    )


def test_steps_losses_and_flips_are_those_of_a_plain_loop(lightning: Any, tmp_path: Path) -> None:
    module = module_of(lightning)
    accumulating(lightning, callbacks=[callback(tmp_path / "run")]).fit(module, loader())
    counted = by_hand(BATCHES)
    assert len(counted.losses) == 3
    assert_recorded(tmp_path / "run", counted, prefix="net.")
    assert_same_bits(module.net, counted.state)
    run = load_run(tmp_path / "run")
    assert run.state == "finished"
    assert run.status["total_steps"] == 3
    assert run.scalars["epoch"].tolist() == [3 / 8, 6 / 8, 1.0]
    assert hooks_of(module, *module.trainer.optimizers) == 0


def test_gradients_are_those_of_the_update(lightning: Any, tmp_path: Path) -> None:
    module = module_of(lightning)
    accumulating(lightning, callbacks=[callback(tmp_path / "run")]).fit(module, loader())
    assert_gradients(tmp_path / "run", by_hand(BATCHES), prefix="net.")


def test_training_is_the_same_to_the_bit(lightning: Any, tmp_path: Path) -> None:
    states = []
    for callbacks in ([], [callback(tmp_path / "run")]):
        module = module_of(lightning)
        accumulating(lightning, callbacks=callbacks, max_epochs=2).fit(module, loader())
        states.append(module.state_dict())
    assert_same_bits(module, states[0])
    run = load_run(tmp_path / "run")
    assert run.scalars["epoch"].tolist() == [3 / 8, 6 / 8, 1.0, 11 / 8, 14 / 8, 2.0]


def test_the_example_of_the_page_runs(
    lightning: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = {"Trainer": functools.partial(accumulating, lightning), "loader": loader()}
    exec(example("WatchCallback("), names | {"module": module_of(lightning)})
    assert_recorded(tmp_path / "runs" / "mine", by_hand(BATCHES), prefix="net.")


def test_sites_may_be_those_of_a_part(lightning: Any, tmp_path: Path) -> None:
    watching = callback(tmp_path / "run", sites=lambda module: find_sites(module.net))
    accumulating(lightning, callbacks=[watching]).fit(module_of(lightning), loader())
    assert_recorded(tmp_path / "run", by_hand(BATCHES))


@pytest.mark.parametrize("optimizers", [1, 2])
def test_manual_optimization_has_a_row_a_step(
    lightning: Any, tmp_path: Path, optimizers: int
) -> None:
    module = manual_module_of(lightning, optimizers=optimizers)
    module.counted.begin(module.net)
    chosen = {} if optimizers == 1 else {"optimizer": 0}
    watching = callback(tmp_path / "run", **chosen)
    trainer_of(lightning, callbacks=[watching]).fit(module, loader(2))
    assert len(module.counted.losses) == 4
    assert_recorded(tmp_path / "run", module.counted, prefix="net.")
    assert_gradients(tmp_path / "run", module.counted, prefix="net.")
    assert hooks_of(module, *module.trainer.optimizers) == 0


@pytest.mark.parametrize("automatic", [True, False], ids=["automatic", "manual"])
def test_a_step_that_a_scaler_skips_leaves_no_row_and_no_loss(
    lightning: Any, tmp_path: Path, automatic: bool
) -> None:
    """The scale overflows in the first two steps; autocast to float16 works on the CPU."""

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = binary_vit()
            self.automatic_optimization = automatic
            self.losses: list[float] = []

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            images, labels = batch
            loss = functional.cross_entropy(self.net(images).float(), labels)
            self.losses.append(float(loss.detach()))
            if not automatic:
                self.optimizers().zero_grad()
                self.manual_backward(loss)
                self.optimizers().step()
            return loss

        def configure_optimizers(self) -> Any:
            return made(self)[0]

    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**126, backoff_factor=2.0**-60)
    half = lightning.plugins.MixedPrecision("16-mixed", "cpu", scaler=scaler)
    module, watching = Module(), callback(tmp_path / "run")
    trainer_of(lightning, callbacks=[watching], plugins=[half]).fit(module, loader(5))
    assert watching.watch.skipped_steps == 2
    scalars = load_run(tmp_path / "run").scalars
    assert scalars["step"].tolist() == [1, 2, 3]
    assert scalars["loss"].tolist() == pytest.approx(module.losses[2:], rel=1e-6)


@pytest.mark.parametrize(
    ("error", "raised", "state"),
    [
        (ValueError("spilled"), ValueError, "failed"),
        (KeyboardInterrupt(), SystemExit, "interrupted"),
    ],
    ids=["error", "Ctrl-C"],
)
def test_an_error_leaves_the_watch(
    lightning: Any, tmp_path: Path, error: BaseException, raised: type[BaseException], state: str
) -> None:
    module = module_of(lightning, fails_at=7, error=error)
    trainer = accumulating(lightning, callbacks=[callback(tmp_path / "run")])
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(raised):
            trainer.fit(module, loader())
    finally:
        signal.signal(signal.SIGINT, before)  # Lightning has switched it off
    run = load_run(tmp_path / "run")
    assert run.state == state
    assert run.scalars["step"].tolist() == [1, 2]
    assert all(run.counts(f"net.{name}")["steps"] == 2 for name in by_hand(2).flips)
    assert hooks_of(module) == 0


def test_several_optimizers_and_devices_are_refused(lightning: Any, tmp_path: Path) -> None:
    module = manual_module_of(lightning, optimizers=2)
    for settings in ({}, {"optimizer": 2}):
        trainer = trainer_of(lightning, callbacks=[callback(tmp_path / "run", **settings)])
        with pytest.raises(ConfigError, match="0 to 1") as refused:
            trainer.fit(module, loader(2))
        assert "\n" not in str(refused.value)
        assert "optimizer=0" in str(refused.value)
    trainer = trainer_of(lightning)
    trainer.strategy.world_size = 2
    with pytest.raises(ConfigError, match="one device of one process, got 2"):
        callback(tmp_path / "run").on_train_start(trainer, module)
    assert not (tmp_path / "run").exists()


def test_without_lightning_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "bvit_analysis.adapters.lightning"
    monkeypatch.delitem(sys.modules, name, raising=False)
    for hidden in [one for one in sys.modules if one.partition(".")[0] == "lightning"]:
        monkeypatch.delitem(sys.modules, hidden)
    monkeypatch.setitem(sys.modules, "lightning", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'bvit_analysis\[lightning\]'"):
        importlib.import_module(name)
