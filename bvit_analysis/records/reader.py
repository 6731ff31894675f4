"""Reading a run folder, finished, broken off, damaged or still being written, as tidy tables."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, final

import numpy as np
import pandas as pd

from bvit_analysis.errors import ConfigError, RunError, unknown_name
from bvit_analysis.files import DamagedFile, RunWarning, read_json
from bvit_analysis.processes import is_gone
from bvit_analysis.records.arrays import ArrayArchive, check_owner
from bvit_analysis.records.attention import (
    ATTENTION_FILE,
    EXAMPLES,
    AttentionExamples,
    read_attention,
)
from bvit_analysis.records.columns import MEASURES, SITE_METRICS
from bvit_analysis.records.declaration import declared_in
from bvit_analysis.records.format import (
    COUNT_ARRAYS,
    KEYS,
    MAX_STEP,
    SCHEMA_VERSION,
    STATES,
    counts_file,
)
from bvit_analysis.records.info import believable, read_info, shown
from bvit_analysis.records.lock import SILENT_AFTER_S
from bvit_analysis.records.measure import Measure, stranger
from bvit_analysis.records.rows import RowReader
from bvit_analysis.records.unpacked import Unpacked

MAX_COUNTS_BYTES = 512 * 2**20
MAX_SITE_WEIGHTS = 2**26
_COUNT_BYTES = sum(np.dtype(k).itemsize for name, k in COUNT_ARRAYS.items() if name != "steps")
_SITE_COLUMNS = ("site_id", "site", "kind", "shape", "n_weights")


def _state(status: dict[str, Any]) -> str:
    state = status.get("state")
    if state not in STATES:
        return "silent"
    if state != "running":
        return str(state)
    heartbeat = status.get("heartbeat")
    if not isinstance(heartbeat, (int, float)) or not time.time() - SILENT_AFTER_S <= heartbeat:
        return "silent"
    gone = is_gone(status.get("host"), status.get("pid"), status.get("pid_started"))
    return "silent" if gone else "running"


@final
class Run:
    """One recorded run; tables are read when first asked for and then kept, so it is a snapshot."""

    def __init__(self, path: Path, info: dict[str, Any], columns: Sequence[str] | None) -> None:
        """Take a folder whose run.json has been checked; use load_run instead."""
        self.path = path
        self.info, passed_over = believable(info)
        self.config: dict[str, Any] | None = info.get("config")
        self.run_id: str = info["run_id"]
        self.warnings: list[str] = []
        self._unpacked, self._counted = Unpacked(), set[str]()
        self._declared = declared_in(info)
        for fault in (*passed_over, *self._declared.faults):
            self._note(path / "run.json", fault)
        self._rows = RowReader(
            path,
            self.run_id,
            self._declared,
            left_out=self._warn,
            taken_as_missing=self._note,
        )
        self.status = self._json("status.json", expected=True) or {}
        self.state = _state(self.status)
        self._rows.check()
        self._columns = None if columns is None else tuple(columns)
        offered = [*SITE_METRICS, *self._rows.own["sites"]]
        for name in columns or ():
            if name not in offered:
                raise ConfigError(unknown_name("site measure", name, offered))

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, {self.label!r}, {self.state} at step {self.step})"

    def _warn(self, path: Path, reason: object) -> None:
        self._say(f"left out {path}: {reason}")

    def _note(self, path: Path, reason: object) -> None:
        self._say(f"in {path}: {reason}")

    def _say(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)
            warnings.warn(text, RunWarning, stacklevel=5)

    def _json(self, name: str, *, expected: bool) -> dict[str, Any] | None:
        path = self.path / name
        try:
            value = read_json(path)
            if value.get("schema_version") != SCHEMA_VERSION:
                raise DamagedFile(f"is not of schema version {SCHEMA_VERSION}")
            owner = value.get("run_id", self.run_id)
            if owner != self.run_id:
                raise DamagedFile(f"belongs to run {str(owner)[:80]!r}, not to {self.run_id!r}")
        except FileNotFoundError:
            if expected:
                self._warn(path, "is missing")
            return None
        except DamagedFile as error:
            self._warn(path, error)
            return None
        return value

    @property
    def measures(self) -> dict[str, Measure]:
        """What is known of each measure that this run can hold, by column.

        The catalogue's, then the run's own: as it declares them, or by their bare names where it says nothing of
        them. The texts of the latter are a stranger's: show them escaped.
        """
        own = dict(self._declared.own)
        for kind, facts in (("sites", "weight"), ("scalars", "scalar"), ("timings", "timing")):
            for name in self._rows.own[kind]:
                if name not in own and name not in MEASURES:
                    own[name] = stranger(name, facts)  # type: ignore[arg-type]
        return {**MEASURES, **own}

    @property
    def own_measures(self) -> dict[str, Measure]:
        """The measures that this run declares beside the catalogue's, by column."""
        return dict(self._declared.own)

    def _with_sites(
        self,
        kind: str,
        named: Sequence[str],
        columns: Sequence[str] | None = None,
        site_id: int | None = None,
    ) -> pd.DataFrame:
        frame = self._rows.frame(kind, columns, site_id=site_id)
        table = self.site_table
        position = pd.Index(table["site_id"]).get_indexer(frame["site_id"])
        unknown = position < 0
        if unknown.any():
            strangers = sorted(set(frame["site_id"][unknown].tolist()))[:5]
            self._warn(self.path / kind, f"rows of site_id {strangers}, which run.json lacks")
            frame, position = frame[~unknown].reset_index(drop=True), position[~unknown]
        for place, name in enumerate(named, start=1):
            frame.insert(place, name, table[name].take(position).array)
        return frame.drop(columns="site_id")

    @property
    def step(self) -> int:
        """Applied optimizer steps, as last reported."""
        step = self.status.get("step")
        if type(step) is int and 0 <= step <= MAX_STEP:
            return step
        return int(self.scalars["step"].max()) if len(self.scalars) else 0

    @property
    def label(self) -> str:
        """The run's recipe and seed in a few words, for legends; untrusted text."""
        if self.config is None:
            return self.run_id
        recipe = self.config.get("recipe")
        name = shown(recipe.get("name", "custom")) if isinstance(recipe, dict) else "float"
        return f"{name}, seed {shown(self.config.get('seed', self.info.get('seed')))}"

    @cached_property
    def site_table(self) -> pd.DataFrame:
        """One row a site: site_id, site, kind, shape (tuple), n_weights, in model order."""
        rows = [
            {**{name: row.get(name) for name in _SITE_COLUMNS}, "shape": tuple(row["shape"])}
            for row in self.info.get("sites", [])
        ]
        table = pd.DataFrame(rows, columns=list(_SITE_COLUMNS))
        return table.astype({"site_id": "int64", "site": "str", "kind": "str"})

    @cached_property
    def scalars(self) -> pd.DataFrame:
        """One row a step: step, epoch, loss, lr, grad_norm, accuracy, validation_loss, and the run's own columns."""
        return self._rows.frame("scalars")

    @cached_property
    def timings(self) -> pd.DataFrame:
        """Wall-clock figures, which differ between equal runs: step, images_per_s, elapsed_s."""
        return self._rows.frame("timings")

    @cached_property
    def sites(self) -> pd.DataFrame:
        """One row a step and site: step, site, kind, then a float32 column a measure, NaN if not taken.

        The catalogue's measures come first, then those of the run's own.
        """
        columns = None
        if self._columns is not None:
            columns = [*KEYS["sites"], *self._columns]
        return self._with_sites("sites", ["site", "kind"], columns)

    @cached_property
    def histograms(self) -> pd.DataFrame:
        """One row a histogram: step, site, kind (of histogram), lo, hi, counts (int64 array)."""
        return self._with_sites("histograms", ["site"])

    @cached_property
    def channels(self) -> pd.DataFrame:
        """One row a step and site: step, site, n (values a channel), counts (int64 array, x >= 0 in each channel)."""
        return self._with_sites("channels", ["site"])

    @cached_property
    def trajectories(self) -> pd.DataFrame:
        """Sampled weights step by step: step, site (categorical), index, latent, gradient, sign."""
        return self._trajectories(None)

    def trajectories_at(self, site: str) -> pd.DataFrame:
        """Return the trajectories of one site, columns as `trajectories`; of a long run all together fill the memory.

        Args:
            site: Name of a site; one that the run lacks has no rows.
        """
        table = self.site_table.set_index("site")
        return self._trajectories(int(table.loc[site, "site_id"]) if site in table.index else -1)

    def _trajectories(self, site_id: int | None) -> pd.DataFrame:
        frame = self._with_sites("trajectories", ["site"], site_id=site_id)
        frame["site"] = pd.Categorical(frame["site"], categories=self.site_table["site"])
        return frame

    def number_of_rows(self, kind: str) -> int:
        """Return how many rows of a kind ('trajectories', for example) are stored, without keeping any."""
        return self._rows.number(kind)

    @cached_property
    def result(self) -> dict[str, Any] | None:
        """The final figures, or None if the run has not ended; one outside its range is None, and said."""
        value = self._json("result.json", expected=False)
        if value is None:
            return None
        for name in ("schema_version", "run_id"):
            value.pop(name, None)
        for name, found in value.items():
            one = self.measures.get(name)
            if one is None or one.kind != "result" or found is None:
                continue
            number = isinstance(found, (int, float)) and not isinstance(found, bool)
            number = number and (isinstance(found, float) or abs(found) <= MAX_STEP)
            if not number or not one.holds(found):
                text = f"{name} {shown(found)[:40]!r} is not {one.range_words()}, taken as missing"
                self._note(self.path / "result.json", text)
                value[name] = None
        return value

    @cached_property
    def attention(self) -> AttentionExamples | None:
        """Binary and float attention on a few images at the end of the run, or None if none was recorded."""
        folder = self.path / EXAMPLES
        path = folder / ATTENTION_FILE
        try:
            if folder.is_symlink():
                raise DamagedFile("is in a linked folder")
            return read_attention(path, self.run_id)
        except FileNotFoundError:
            return None
        except DamagedFile as error:
            self._warn(path, error)
            return None

    @cached_property
    def costs(self) -> pd.DataFrame:
        """The cost ledger of the model, one row a site; empty if none was recorded."""
        return pd.DataFrame(self.info["costs"])

    def counts(self, site: str) -> dict[str, np.ndarray]:
        """Return the flip counts of every weight of a site.

        Args:
            site: Name of a weight site.

        Returns:
            gross (O, I) flips, first_sign and last_sign (O, I) in {-1, +1}, late (O, I) flips in the
            last tenth of training or -1, steps () over which they were counted.

        Raises:
            RunError: If the site is unknown, or its counts are missing, damaged or too large.
        """
        table = self.site_table.set_index("site")
        if site not in table.index:
            raise RunError(unknown_name(f"site of run {self.run_id}", site, table.index))
        shape = tuple(int(size) for size in table.loc[site, "shape"])
        folder = self.path / "counts"
        path = folder / counts_file(int(table.loc[site, "site_id"]), site)
        try:
            if folder.is_symlink():
                raise DamagedFile("is in a linked folder")
            size = math.prod(shape)
            if size > MAX_SITE_WEIGHTS:
                raise DamagedFile(f"claims {size} weights, at most {MAX_SITE_WEIGHTS} are read")
            if site not in self._counted:
                self._unpacked.take(path.stat().st_size, _COUNT_BYTES * size)
                self._counted.add(site)
            return _read_counts(path, shape, self.run_id)
        except FileNotFoundError:
            levels = next(row.get("levels") for row in self.info["sites"] if row["site"] == site)
            if type(levels) is int and levels > 2:
                why = f": its weights have {levels} levels, so level changes are recorded in place of flips"
            else:
                why = " yet: they are written when a run stops, for weight sites of two levels only"
            raise RunError(f"run {self.run_id} has no flip counts of site {site!r}{why}") from None
        except DamagedFile as error:
            text = f"left out {path}: {error}"
            self.warnings += [text] if text not in self.warnings else []
            raise RunError(
                f"cannot read {path}: it {error}; restore the file from a copy"
            ) from error


def _read_counts(path: Path, shape: tuple[int, ...], run_id: str) -> dict[str, np.ndarray]:
    with ArrayArchive(path, MAX_COUNTS_BYTES) as archive:
        check_owner(archive, run_id)
        found = {
            name: archive.read(name, np.dtype(kind), () if name == "steps" else shape)
            for name, kind in COUNT_ARRAYS.items()
        }
    gross, late, steps = found["gross"], found["late"], int(found["steps"])
    signs = all((np.abs(found[name]) == 1).all() for name in ("first_sign", "last_sign"))
    # A weight flips at most once a step, and late flips are among all flips.
    possible = gross.size == 0 or (gross.min() >= 0 and gross.max() <= steps and late.min() >= -1)
    if not signs or not possible or steps < 0 or (late > gross).any():
        raise DamagedFile("holds counts or signs that cannot be")
    return found


def load_run(path: str | Path, *, columns: Sequence[str] | None = None) -> Run:
    """Open a run folder for reading; works while it is being written and after a crash.

    Args:
        path: The run folder.
        columns: Measures that `sites` shall have, of the catalogue or the run's own; None means all.

    Returns:
        The run. Each part that is damaged or of another run is left out, each value outside its measure's range is
        taken as missing; both are named in a RunWarning and in `warnings`.

    Raises:
        RunError: If there is no run, its run.json is damaged or it has another schema version.
        ConfigError: If a column is neither in SITE_METRICS nor one of the run's own.
    """
    folder = Path(path)
    return Run(folder, read_info(folder), columns)
