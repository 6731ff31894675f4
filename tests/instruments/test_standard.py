"""The panel of a watch: the standard instruments, and one of somebody else's from its declaration to every table."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from bvit_analysis import plots, tables
from bvit_analysis.config import WatchConfig
from bvit_analysis.convert import binarize, calibrate
from bvit_analysis.errors import CheckpointError, ConfigError
from bvit_analysis.instruments import (
    FlipInstrument,
    Instrument,
    Measure,
    Rows,
    declared_by,
    standard,
)
from bvit_analysis.records import MEASURES, SITE_METRICS, RunWriter, load_run
from bvit_analysis.sites import describe_sites, find_sites
from bvit_analysis.tables import csv_text
from bvit_analysis.watch import Watch

CONFIG = WatchConfig(flips_every=2, distribution_every=3, activation_every=3, trajectory_weights=2)
TRAVEL = Measure(
    name="travel",
    kind="weight",
    words="travel of a weight",
    unit="mean |step| so far",
    sentence="How far a latent weight has gone, there and back.",
    low=0.0,
    null=0.25,
    null_words="a made-up walk",
    better=-1,
    moved_by=frozenset({"gradient term"}),
    scale="linear",
)


class Travel(Instrument):
    """Of somebody else: needs what it saw at every step, so its state must go on exactly."""

    measures = (TRAVEL,)

    def start(self) -> None:
        weights = self.watched.weights.values()
        self._last = [site.effective().detach().clone() for site in weights]
        self._gone = torch.zeros(len(self._last), dtype=torch.float64)

    def update(self) -> None:
        for place, site in enumerate(self.watched.weights.values()):
            now = site.effective().detach()
            self._gone[place] += (now - self._last[place]).abs().mean().double()
            self._last[place] = now.clone()

    def record(self, rows: Rows) -> None:
        for place, site_id in enumerate(self.watched.weights):
            rows.put(site_id, travel=self._gone[place])

    def state_dict(self) -> dict[str, Tensor]:
        last = {f"last.{place}": value for place, value in enumerate(self._last)}
        return {"gone": self._gone, **last}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._gone = state["gone"].clone()
        self._last = [state[f"last.{place}"].clone() for place in range(len(state) - 1)]


def model_of(recipe: str = "asm") -> nn.Module:
    torch.manual_seed(0)
    model = timm.create_model(
        "vit_tiny_patch16_224",
        img_size=14,
        patch_size=7,
        embed_dim=16,
        depth=1,
        num_heads=2,
        in_chans=1,
        num_classes=3,
    )
    binarize(model, recipe)
    calibrate(model, torch.randn(6, 1, 14, 14))
    return model.train()


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(6, 1, 14, 14, generator=generator)
    labels = torch.randint(0, 3, (6,), generator=generator)
    functional.cross_entropy(model(images), labels).backward()
    optimizer.step()
    optimizer.zero_grad()


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=5e-3)


def record(path: Path, *, steps: int = 6, seed: int = 0, **options: Any) -> list[list[Tensor]]:
    """Train a little, and return the weights of every site at every step, the first one included."""
    model = model_of()
    optimizer = optimizer_of(model)
    sites = [site for site in find_sites(model) if site.kind == "weight"]
    seen = [[site.effective().detach().clone() for site in sites]]
    with Watch(model, path, config=CONFIG, **options) as watch:
        for step in range(steps):
            train_step(model, optimizer, 100 * seed + step)
            seen.append([site.effective().detach().clone() for site in sites])
            watch.step(loss=1.0)
    return seen


def named(recipe: str, **parts: str) -> dict[str, Any]:
    return {"config": {"recipe": {"name": recipe, **parts}, "seed": 0}, "kind": "binary"}


# From the declaration to every table ------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("own")
    for recipe, parts in (("baseline", {}), ("mine", {"regularization": "of_a_friend"})):
        for seed in range(3):
            info = named(recipe, **parts) | {"seed": seed}
            panel = [*standard(), Travel(every=2)]
            record(root / f"{recipe}-{seed}", seed=seed, info=info, instruments=panel)
    return root


def test_a_measure_of_somebody_else_reaches_the_record(tmp_path: Path) -> None:
    seen = record(tmp_path / "run", instruments=[*standard(), Travel(every=2)])
    info = json.loads((tmp_path / "run" / "run.json").read_text())
    assert info["columns"]["sites"][-1] == "travel"
    assert info["measures"] == [TRAVEL.facts()]
    run = load_run(tmp_path / "run")
    assert run.warnings == []
    assert run.measures["travel"] == TRAVEL
    rows = run.sites.dropna(subset=["travel"])
    assert sorted(set(rows["step"])) == [2, 4, 6]
    assert set(rows["kind"]) == {"weight"}
    # A second witness: the sum of steps, from the weights themselves.
    for step in (2, 4, 6):
        for place, value in enumerate(rows.loc[rows["step"] == step, "travel"]):
            moves = [(seen[t][place] - seen[t - 1][place]).abs().mean() for t in range(1, step + 1)]
            assert value == pytest.approx(float(sum(moves)), rel=1e-5)


@pytest.mark.processes
@pytest.mark.slow
def test_it_reaches_run_table_ablation_atlas_plots_explorers_and_csv(runs: Path) -> None:
    listed = tables.load_runs([runs])
    table = tables.run_table(listed)
    assert table.columns[-1] == "travel"
    late = listed[0].sites.query("step == 6").dropna(subset=["travel"])
    sizes = late["site"].map(listed[0].site_table.set_index("site")["n_weights"])
    expected = np.average(late["travel"], weights=sizes)
    assert table["travel"].iloc[0] == pytest.approx(expected)
    ablation = tables.ablation_table(listed, "travel")
    assert ablation["null"].tolist() == [0.25, 0.25]
    assert ablation["recipe"].tolist() == ["baseline", "mine"]
    # The claim follows from the recipe's part, though nobody here knows its name.
    assert ablation["verdict"].iloc[1].startswith("suggests: ")
    entropy = tables.ablation_table(listed, "sign_entropy_bits")
    assert entropy["verdict"].iloc[1] == "no claim"
    verdicts = tables.verdict_table(table[table["recipe"] != "none"])
    assert verdicts.loc[verdicts["metric"] == "travel", "null"].tolist() == [0.25]
    assert "travel of a weight (mean |step| so far), mean over seeds" in tables.finding(
        table, "travel"
    )
    assert '"travel"' in csv_text(table).splitlines()[0]
    atlas = tables.site_atlas(listed[0], "travel")
    assert np.isfinite(atlas.grid).all()
    assert atlas.grid.shape == (4, 3)
    assert "travel" in tables.atlas_choices(listed)
    assert tables.atlas_metric("travel", listed[0]) == TRAVEL
    frame = tables.site_frame(listed, ["travel"], kind="weight")
    assert tables.colour_limits(frame, "travel") == tables.colour_limits(listed, "travel")
    label = "travel of a weight (mean |step| so far)"
    assert plots.plot_flip_atlas(listed[0], metric="travel").figure.axes[-1].get_ylabel() == label
    assert plots.plot_compared(listed, "travel").get_ylabel() == TRAVEL.unit
    assert plots.plot_differences(table, "travel").get_xlabel() == label
    assert plots.plot_evidence(table, "travel", "late_flip_rate").get_xlabel() == label
    panels = plots.plot_ablation(table, metrics=["travel", "late_flip_rate"]).axes
    assert panels[0].get_xlabel().startswith("travel of a weight")
    with pytest.raises(ConfigError, match="did you mean 'travel'"):
        tables.ablation_table(listed, "travl")
    with pytest.raises(ConfigError, match="did you mean 'travel'"):
        tables.site_atlas(listed[0], "travl")


@pytest.mark.slow
def test_explorers_offer_it(runs: Path, tmp_path: Path) -> None:
    widgets = pytest.importorskip("bvit_analysis.widgets")
    record(tmp_path / "plain", info=named("plain"))
    listed = [*tables.load_runs([runs])[2:4], load_run(tmp_path / "plain")]
    explorer = widgets.OscillationExplorer(listed)
    assert "travel" in explorer.controls["metric"].options
    explorer.controls["metric"].value = "travel"
    explorer.controls["run"].value = list(explorer.runs)[-1]  # one that lacks it
    comparer = widgets.RunComparer(listed)
    assert "travel" in comparer.controls["evidence"].options
    comparer.controls["evidence"].value = "travel"
    assert '"travel"' in comparer.to_csv()


@pytest.mark.slow
def test_runs_without_it_have_nothing_in_its_column_and_that_is_said(
    runs: Path, tmp_path: Path
) -> None:
    record(tmp_path / "plain", info=named("mine") | {"seed": 9})
    listed = [*tables.load_runs([runs]), load_run(tmp_path / "plain")]
    table = tables.run_table(listed)
    assert table["travel"].isna().tolist() == [False] * 6 + [True]
    notes = tables.ablation_table(table, "travel").set_index("recipe")["notes"]
    assert "1 run(s) without travel, left out" in notes["mine"]
    assert "travel" not in notes["baseline"]
    assert "travel" not in tables.run_table(listed[-1:]).columns


@pytest.mark.slow
def test_two_meanings_of_one_name_are_said(runs: Path, tmp_path: Path) -> None:
    class Other(Instrument):
        measures = (Measure(name="travel", kind="weight", words="miles", unit="miles"),)

        def record(self, rows: Rows) -> None:
            for site_id in self.watched.weights:
                rows.put(site_id, travel=1.0)

    record(tmp_path / "other", info=named("mine"), instruments=[*standard(), Other()])
    listed = [*tables.load_runs([runs]), load_run(tmp_path / "other")]
    notes = tables.ablation_table(listed, "travel").attrs["notes"]
    assert "runs declare 2 different measures named travel" in notes


# Exactness ---------------------------------------------------------------------------------------


def test_the_standard_panel_records_what_it_did_with_and_without_another(tmp_path: Path) -> None:
    record(tmp_path / "plain")
    record(tmp_path / "both", instruments=[*standard(), Travel(every=3)])
    one, other = load_run(tmp_path / "plain"), load_run(tmp_path / "both")
    columns = ["step", "site", "kind", *SITE_METRICS]
    pd.testing.assert_frame_equal(one.sites[columns], other.sites[columns], check_exact=True)
    pd.testing.assert_frame_equal(one.trajectories, other.trajectories, check_exact=True)


@pytest.mark.slow
def test_a_resumed_instrument_of_somebody_else_goes_on_exactly(tmp_path: Path) -> None:
    def finish(path: Path, stop_at: int | None) -> None:
        model = model_of()
        optimizer = optimizer_of(model)
        info = {"sites": describe_sites(find_sites(model))}

        def open_watch(**resume: Any) -> tuple[Watch, RunWriter]:
            panel = [*standard(), Travel(every=2)]
            writer = RunWriter(path, info=info, measures=declared_by(panel), **resume)
            return Watch(model, path, config=CONFIG, writer=writer, instruments=panel), writer

        watch, writer = open_watch()
        watch.__enter__()
        for step in range(8):
            train_step(model, optimizer, step)
            watch.step(loss=1.0)
            if step + 1 == stop_at:
                state = {name: value.clone() for name, value in watch.state_dict().items()}
                saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
                writer.seal()
                train_step(model, optimizer, 77)  # lost with the process
                watch.step()
                watch.close()
                writer.close()
                model = model_of()
                optimizer = optimizer_of(model)
                model.load_state_dict(saved[0])
                optimizer.load_state_dict(saved[1])
                watch, writer = open_watch(resume_step=stop_at)
                watch.load_state_dict(state)
                watch.__enter__()
        watch.close()
        writer.close()

    finish(tmp_path / "whole", None)
    whole = load_run(tmp_path / "whole").sites
    for stop_at in (1, 4, 7):
        finish(tmp_path / f"stop-{stop_at}", stop_at)
        pd.testing.assert_frame_equal(load_run(tmp_path / f"stop-{stop_at}").sites, whole)


def test_a_state_of_other_instruments_is_refused(tmp_path: Path) -> None:
    def watch_with(*more: Instrument) -> Watch:
        watch = Watch(model_of(), tmp_path / "run", instruments=[*standard(), *more])
        watch._panel.start()
        return watch

    with_travel, without = watch_with(Travel()).state_dict(), watch_with().state_dict()
    assert "panel" not in without
    with pytest.raises(CheckpointError, match=r"of the instruments \[Travel-1\].* has \[\]"):
        watch_with().load_state_dict(with_travel)
    with pytest.raises(CheckpointError, match=r"of the instruments \[\].* has \[Travel-1\]"):
        watch_with(Travel()).load_state_dict(without)


def test_flips_are_counted_also_where_nobody_records_them(tmp_path: Path) -> None:
    record(tmp_path / "mine", instruments=[Travel(every=2)])
    record(tmp_path / "all")
    mine, whole = load_run(tmp_path / "mine"), load_run(tmp_path / "all")
    assert mine.sites["flip_rate"].isna().all()
    assert mine.sites["travel"].notna().all()
    assert mine.trajectories.empty
    for site in mine.site_table.query("kind == 'weight'")["site"]:
        np.testing.assert_array_equal(mine.counts(site)["gross"], whole.counts(site)["gross"])


def test_the_rehearsal_leaves_no_trace(tmp_path: Path) -> None:
    class Drawing(Travel):
        def record(self, rows: Rows) -> None:
            torch.rand(3)
            np.random.default_rng(0).random()
            self._gone += 1  # a state that a rehearsal would spoil
            super().record(rows)

    states = []
    for panel in ([*standard()], [*standard(), Drawing(every=100)]):
        torch.manual_seed(3)
        watch = Watch(model_of(), tmp_path / f"r{len(panel)}", instruments=panel)
        before = torch.get_rng_state()
        with watch:
            states.append(torch.equal(before, torch.get_rng_state()))
            if isinstance(panel[-1], Drawing):
                assert float(panel[-1].state_dict()["gone"].sum()) == 0.0
    assert states == [True, True]


# One clear error before training -----------------------------------------------------------------


def instrument(
    measures: Any = (TRAVEL,), put: Callable[[Rows, int], None] | None = None, **members: Any
) -> Instrument:
    def take(self: Instrument, rows: Rows) -> None:
        for site_id in self.watched.weights:
            (put or (lambda rows, i: rows.put(i, travel=1.0)))(rows, site_id)

    kind = type("Mine", (Instrument,), {"measures": measures, "record": take, **members})
    return kind()


CLASH = Measure(name="flip_rate", kind="weight", words="flips", unit="per hour")
AT_ACTIVATIONS = Measure(name="travel", kind="activation", words="x", unit="y")


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: instrument((CLASH,)), "Mine: measure 'flip_rate'.*catalogue.*another name"),
        (lambda: instrument((MEASURES["flip_rate"],)), "by FlipInstrument and by Mine"),
        (lambda: instrument((TRAVEL, TRAVEL)), "by Mine and by Mine"),
        (lambda: instrument(("travel",)), "declares 'travel'; expected a bvit_analysis.records"),
        (lambda: Travel, r"expected an instrument, got ABCMeta; make one: Travel\(\)"),
        (lambda: print, "derive it from"),
        (
            lambda: instrument(put=lambda rows, i: rows.put(i, travel=torch.ones(3))),
            r"Mine gave 'travel' a value of shape \(3,\).*one number a site",
        ),
        (lambda: instrument(put=lambda rows, i: rows.put(i, travel="far")), "expected one number"),
        (lambda: instrument(put=lambda rows, i: rows.put(i, travel=None)), "expected one number"),
        (
            lambda: instrument(put=lambda rows, i: rows.put(i, travle=1.0)),
            "did you mean 'travel'.*declare it in `measures`",
        ),
        (
            lambda: instrument(put=lambda rows, i: rows.put(i, flip_rate=1.0)),
            "unknown measure 'flip_rate'",
        ),
        (lambda: instrument(put=lambda rows, i: rows.put(i + 999, travel=1.0)), "site_id"),
        (
            lambda: instrument((AT_ACTIVATIONS,)),
            "a measure of activation sites, at the weight site.*kind='weight'",
        ),
        (
            lambda: instrument(put=lambda rows, i: rows.put(i, travel=1 / 0)),
            "Mine failed in its rehearsal before training: ZeroDivisionError",
        ),
        (lambda: instrument(attach=lambda self, watched: None), "call super"),
        (
            lambda: instrument(state_dict=lambda self: {"a": 3}),
            "state of instrument Mine has 'a' of type int",
        ),
        (
            lambda: instrument(state_dict=lambda self: {"a": torch.ones(1)}),
            "failed in its rehearsal.*keeps no state",
        ),
    ],
)
def test_a_wrong_instrument_is_one_error_before_training(
    tmp_path: Path, make: Callable[[], Any], text: str
) -> None:
    def enter() -> None:
        with Watch(model_of(), tmp_path / "run", instruments=[*standard(), make()]):
            raise AssertionError("training began")

    with pytest.raises(ConfigError, match=text) as caught:
        enter()
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_cadence_writer_and_second_use_are_checked(tmp_path: Path) -> None:
    for every in (0, -1, 1.5):
        with pytest.raises(ConfigError, match="every must be a whole number"):
            Travel(every=every)  # type: ignore[arg-type]
    mine = Travel()
    Watch(model_of(), tmp_path / "a", instruments=[*standard(), mine])
    assert mine.every == WatchConfig().flips_every
    with pytest.raises(ConfigError, match="attached to another watch already"):
        Watch(model_of(), tmp_path / "b", instruments=[*standard(), mine])
    model = model_of()
    info = {"sites": describe_sites(find_sites(model))}
    with (
        RunWriter(tmp_path / "c", info=info) as writer,
        pytest.raises(ConfigError, match="does not declare measure 'travel'; open it with"),
    ):
        Watch(model, tmp_path / "c", writer=writer, instruments=[*standard(), Travel()])


def test_the_standard_panel_measures_the_whole_catalogue() -> None:
    panel = standard()
    names = [one.name for each in panel for one in each.measures]
    assert sorted(names) == sorted(SITE_METRICS)
    assert declared_by(panel) == ()
    assert isinstance(panel[0], FlipInstrument)
    assert panel[0] is not standard()[0]
    rows = Rows(1)
    rows.put(0, kurtosis=np.float32(3.0), otsu_ratio=torch.tensor(0.5), flip_rate=math.nan)
    assert rows.metrics[0] == {
        "kurtosis": 3.0,
        "otsu_ratio": 0.5,
        "flip_rate": pytest.approx(math.nan, nan_ok=True),
    }
