"""What every instrument is: something that looks at a model at chosen steps and leaves rows, and nothing else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, TypeVar, final

import numpy as np
from torch import Tensor, nn

from bvit_analysis.config import WatchConfig
from bvit_analysis.errors import CheckpointError, ConfigError, unknown_name
from bvit_analysis.instruments.listening import Listener
from bvit_analysis.records import Measure
from bvit_analysis.sites import Site

T = TypeVar("T")


@final
class Watched:
    """What a watch looks at, as each of its instruments is given it.

    Args:
        model: The model that is trained.
        sites: By site_id, in the order of the record.
        config: What is measured how often.
        teacher: Float model with the same module paths, or None.
        total_steps: Length of the training if known.
    """

    def __init__(
        self,
        model: nn.Module,
        sites: Mapping[int, Site],
        config: WatchConfig,
        *,
        teacher: nn.Module | None = None,
        total_steps: int | None = None,
    ) -> None:
        self.model = model
        self.sites = dict(sites)
        self.config = config
        self.teacher = teacher
        self.total_steps = total_steps
        self.weights = {i: site for i, site in self.sites.items() if site.kind == "weight"}
        self.others = {i: site for i, site in self.sites.items() if site.kind != "weight"}
        self.multilevel: set[int] = set()
        "Weight sites whose used weights have more than two levels, as far as it is known; their sign changes are no flips."
        self._shared: dict[type, Any] = {}

    def share(self, kind: type[T], make: Callable[[], T]) -> T:
        """Return the one object of a class that several instruments use, made by whoever asks first."""
        if kind not in self._shared:
            self._shared[kind] = make()
        shared: T = self._shared[kind]
        return shared


@final
class Rows:
    """The rows of one step: metrics by site, histograms and channel counts, merged over all instruments.

    Args:
        step: Applied steps.
        sites: By site_id; given, what is put is checked against the sites and what `owner` declares.
    """

    def __init__(self, step: int, sites: Mapping[int, Site] | None = None) -> None:
        self.step = step
        self.owner: Instrument | None = None
        "The instrument that puts values now."
        self._sites = sites
        self.metrics: dict[int, dict[str, float]] = {}
        self.histograms: dict[str, list[Any]] = {
            name: [] for name in ("step", "site_id", "kind", "lo", "hi", "counts")
        }
        self.channels: dict[str, list[Any]] = {
            name: [] for name in ("step", "site_id", "n", "counts")
        }

    def put(self, site_id: int, **values: float | Tensor) -> None:
        """Set measures of a site.

        Args:
            site_id: Of the site.
            values: Name of a measure that the instrument declares, to one number: a float, or a tensor or array of
                shape ().

        Raises:
            ConfigError: If a name is not declared, the site is unknown or of another kind, or a value is not one number.
        """
        row = self.metrics.setdefault(site_id, {})
        if self._sites is not None and self.owner is not None:
            self._check(site_id, values, self.owner)
        for name, value in values.items():
            row[name] = value if type(value) is float else self._one_number(name, value)

    def _check(self, site_id: int, names: Iterable[str], owner: Instrument) -> None:
        assert self._sites is not None
        who = type(owner).__name__
        if site_id not in self._sites:
            known = f"0..{len(self._sites) - 1}" if self._sites else "none"
            raise ConfigError(
                f"instrument {who} put a row at site_id {site_id!r}; sites are {known}"
            )
        kind = "weight" if self._sites[site_id].kind == "weight" else "activation"
        for name in names:
            one = owner.declared.get(name)
            if one is None:
                raise ConfigError(
                    f"instrument {who}: {unknown_name('measure', name, owner.declared)}; declare it in `measures`"
                )
            if one.kind != kind:
                raise ConfigError(
                    f"instrument {who} put {name!r}, a measure of {one.kind} sites, at the {kind} site"
                    f" {self._sites[site_id].name}; put it elsewhere, or declare it with kind={kind!r}"
                )

    def _one_number(self, name: str, value: Any) -> float:
        if isinstance(value, Tensor):
            value = value.detach().cpu()
        array = np.asarray(value)
        if array.shape != () or array.dtype.kind not in "fiub":
            who = (
                "an instrument" if self.owner is None else f"instrument {type(self.owner).__name__}"
            )
            raise ConfigError(
                f"{who} gave {name!r} a value of shape {array.shape} and type {array.dtype}; expected one number a site"
            )
        return float(array)

    def histogram(self, site_id: int, kind: str, lo: float, hi: float, counts: Tensor) -> None:
        """Add a histogram of a site: counts of equal bins on [lo, hi]."""
        row = (self.step, site_id, kind, lo, hi, counts.cpu().numpy())
        for column, value in zip(self.histograms.values(), row, strict=True):
            column.append(value)

    def channel_counts(self, site_id: int, n: int, counts: Tensor) -> None:
        """Add how many of n values were at or above 0 in each channel of a site, (C,)."""
        row = (self.step, site_id, n, counts.cpu().numpy().astype(np.int64))
        for column, value in zip(self.channels.values(), row, strict=True):
            column.append(value)

    def site_columns(self) -> dict[str, np.ndarray]:
        """Return the metrics as columns, one row a site in order of site_id; what was not measured is NaN."""
        ids = sorted(self.metrics)
        names = dict.fromkeys(name for site_id in ids for name in self.metrics[site_id])
        columns = {
            name: np.array([self.metrics[i].get(name, np.nan) for i in ids], dtype=np.float32)
            for name in names
        }
        return {"step": np.full(len(ids), self.step), "site_id": np.array(ids), **columns}

    def tables(self) -> dict[str, Mapping[str, Any]]:
        """Return the rows as a writer takes them: kind of rows to columns, of kinds that have any."""
        found: dict[str, Mapping[str, Any]] = {}
        if self.metrics:
            found["sites"] = self.site_columns()
        for kind, columns in (("histograms", self.histograms), ("channels", self.channels)):
            if columns["step"]:
                found[kind] = columns
        return found


class Instrument(ABC):
    """Looks at a model at every so many applied steps and leaves rows; subclasses are final.

    One of your own declares what it measures and fills it:

        class RowNorm(Instrument):
            measures = (Measure(name="row_norm", kind="weight", words="row norm", unit="mean ||w||", low=0.0),)

            def record(self, rows):
                for site_id, site in self.watched.weights.items():
                    rows.put(site_id, row_norm=site.effective().norm(dim=1).mean())

        Watch(model, "runs/mine", instruments=[*standard(), RowNorm(every=10)])

    Before training the watch calls record() once as a rehearsal: its rows are thrown away, and the state is put back by
    load_state_dict(state_dict()). What record() remembers must therefore be in the state, which a resume needs as well.

    Args:
        every: Steps between rows; None takes the field `cadence` of the watch's configuration.
    """

    measures: tuple[Measure, ...] = ()
    "What it may put into rows; those that the catalogue of records lacks become columns of the run."

    cadence: str = "flips_every"
    "Field of WatchConfig that says how often, where `every` is not given."

    from_start: bool = False
    "Whether it leaves rows of step 0, before training."

    every: int = 0

    def __init__(self, every: int | None = None) -> None:
        if every is not None and (not isinstance(every, int) or every < 1):
            raise ConfigError(f"every must be a whole number of at least 1, got {every!r}")
        self.every = every or 0

    @final
    @cached_property
    def declared(self) -> dict[str, Measure]:
        """Its measures by name."""
        return {one.name: one for one in self.measures}

    @property
    def watched(self) -> Watched:
        """What it looks at; known once it is attached."""
        return self._watched

    def attach(self, watched: Watched) -> None:
        """Take up what is watched, once, before training; one that overrides this calls it first.

        Raises:
            ConfigError: If it belongs to another watch already.
        """
        if hasattr(self, "_watched"):
            raise ConfigError(
                f"instrument {type(self).__name__} is attached to another watch already; make a new one for this"
            )
        self._watched = watched
        self.every = self.every or int(getattr(watched.config, self.cadence))

    @property
    def listeners(self) -> Sequence[Listener]:
        """What must hear the forward passes of the steps at which it is due."""
        return ()

    def start(self) -> None:  # noqa: B027 - most have nothing to do here
        """Take the present state of the model as the first one; not called where a run goes on."""

    def update(self) -> None:  # noqa: B027 - most look at due steps alone
        """See one applied step; called on each, before record()."""

    @final
    def is_due(self, step: int) -> bool:
        """Return whether this applied step leaves rows."""
        return step % self.every == 0

    @abstractmethod
    def record(self, rows: Rows) -> None:
        """Add the rows of step rows.step, which is due, from the state after that step."""

    def state_dict(self) -> dict[str, Tensor]:
        """Return what the instrument must remember between steps."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from a state_dict of the same sites.

        Raises:
            CheckpointError: If the state is of something else.
        """
        if state:
            raise CheckpointError(
                f"{type(self).__name__} keeps no state, got {sorted(state)}; resume with the versions"
                " that wrote the checkpoint"
            )
