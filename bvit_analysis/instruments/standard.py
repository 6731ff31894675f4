"""The default panel of a watch, and the panel of any watch: instruments attached, checked, rehearsed and asked in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import final

import torch
from torch import Tensor

from bvit_analysis.errors import CheckpointError, ConfigError
from bvit_analysis.instruments.base import Instrument, Rows, Watched
from bvit_analysis.instruments.bimodality import BimodalityInstrument
from bvit_analysis.instruments.distortion import DistortionInstrument, TwinListener
from bvit_analysis.instruments.entropy import ActivationListener, EntropyInstrument
from bvit_analysis.instruments.flips import FlipInstrument
from bvit_analysis.instruments.levels import LevelInstrument
from bvit_analysis.instruments.listening import Listener
from bvit_analysis.instruments.passes import Passes
from bvit_analysis.instruments.trajectories import TrajectoryInstrument
from bvit_analysis.randomness import seeded
from bvit_analysis.records import Measure
from bvit_analysis.records.declaration import own_measures

_STANDARD: tuple[type[Instrument], ...] = (
    FlipInstrument,
    BimodalityInstrument,
    EntropyInstrument,
    DistortionInstrument,
    TrajectoryInstrument,
    LevelInstrument,
)
_PANEL = "panel"


def standard() -> list[Instrument]:
    """Return the instruments that a watch has by default, new ones, for `instruments=[*standard(), Mine()]`."""
    return [make() for make in _STANDARD]


def with_own(makers: Sequence[Callable[[], Instrument]]) -> list[Instrument]:
    """Return the standard instruments and some of one's own, all new.

    Args:
        makers: Classes of instruments, or whatever makes one when it is called without arguments.

    Raises:
        ConfigError: If one cannot be made, or is no instrument; the text names it.
    """
    panel = standard()
    for make in makers:
        try:
            panel.append(make())
        except Exception as error:  # somebody else's code may fail in any way
            text = " ".join(f"{type(error).__name__}: {error}".split())
            raise ConfigError(
                f"cannot make an instrument by calling {make!r} without arguments: {text[:300]}"
            ) from error
    declared_by(panel)
    return panel


def declared_by(instruments: Iterable[Instrument]) -> tuple[Measure, ...]:
    """Return the measures of instruments that the catalogue lacks, which a run must declare.

    Raises:
        ConfigError: If what they declare is wrong; the text names the instrument.
    """
    owners: dict[str, Instrument] = {}
    own: list[Measure] = []
    for instrument in instruments:
        name = type(instrument).__name__
        if not isinstance(instrument, Instrument):
            made = isinstance(instrument, type) and issubclass(instrument, Instrument)
            cure = (
                f"make one: {instrument.__name__}()"
                if made
                else "derive it from instruments.Instrument"
            )
            raise ConfigError(f"expected an instrument, got {name}; {cure}")
        for one in instrument.measures:
            if not isinstance(one, Measure):
                raise ConfigError(
                    f"instrument {name} declares {str(one)[:60]!r}; expected a bvit_analysis.records.Measure"
                )
        try:
            own += own_measures(instrument.measures)
        except ConfigError as error:
            raise ConfigError(f"instrument {name}: {error}") from error
        for one in instrument.measures:
            if one.name in owners:
                other = type(owners[one.name]).__name__
                raise ConfigError(
                    f"measure {one.name!r} is declared by {other} and by {name}; leave one of them out"
                )
            owners[one.name] = instrument
    return own_measures(own)


@final
class Panel:
    """The instruments of one watch. Flips are always counted, also where no instrument records them.

    Args:
        instruments: Not attached yet.
        watched: What they look at.

    Raises:
        ConfigError: If what one declares is wrong, or it belongs to another watch.
    """

    def __init__(self, instruments: Iterable[Instrument], watched: Watched) -> None:
        self.instruments = list(instruments)
        self.own = declared_by(self.instruments)
        "What the catalogue lacks and this panel measures."
        self._watched = watched
        for instrument in self.instruments:
            instrument.attach(watched)
            if instrument.every < 1:
                name = type(instrument).__name__
                raise ConfigError(
                    f"instrument {name} does not say how often it is due; let its attach() call super().attach(watched)"
                )
        flips = [one for one in self.instruments if isinstance(one, FlipInstrument)]
        paths = [one for one in self.instruments if isinstance(one, TrajectoryInstrument)]
        self.flips = flips[0] if flips else FlipInstrument()
        if not flips:
            self.flips.attach(watched)
        self.trajectories = paths[0] if paths else None
        levels = [one for one in self.instruments if isinstance(one, LevelInstrument)]
        self.levels = levels[0] if levels else None
        self.listeners: list[Listener] = list(
            {id(one): one for each in self.instruments for one in each.listeners}.values()
        )
        counted = [] if flips else [self.flips]
        self._all = [*counted, *self.instruments]

    def check_declared(self, declared: Mapping[str, Measure]) -> None:
        """See that a run declares what this panel measures beside the catalogue.

        Raises:
            ConfigError: If a measure is missing, or differs.
        """
        for one in self.own:
            if declared.get(one.name) != one:
                raise ConfigError(
                    f"the writer that is given does not declare measure {one.name!r}; open it with"
                    " RunWriter(..., measures=instruments.declared_by(instruments))"
                )

    def start(self) -> list[Rows]:
        """Take the present model as the first one, and return the rows of step 0."""
        for instrument in self._all:
            instrument.start()
        return [self._ask([one for one in self.instruments if one.from_start], 0)]

    def step(self) -> Rows:
        """See one applied step, and return its rows."""
        for instrument in self._all:
            instrument.update()
        step = self.flips.steps
        return self._ask([one for one in self.instruments if one.is_due(step)], step)

    def listen(self) -> None:
        """Open the taps of those that are due at the next step, and close all others."""
        due = [one for one in self.instruments if one.is_due(self.flips.steps + 1)]
        wanted = {id(listener) for one in due for listener in one.listeners}
        for listener in self.listeners:
            if id(listener) in wanted:
                listener.listen()
            else:
                listener.attach()
                listener.deafen()

    def skip(self) -> None:
        """See a step that was not applied: what was heard of it belongs to no step."""
        for listener in self.listeners:
            if isinstance(listener, Passes):
                listener.skip()
            elif isinstance(listener, TwinListener):
                listener.forget()

    @property
    def heard_nothing(self) -> bool:
        """Whether passes should have been heard in this step, and none was."""
        step = self.flips.steps
        return any(
            isinstance(listener, ActivationListener) and listener.sites and not listener.moments
            for one in self.instruments
            if one.is_due(step)
            for listener in one.listeners
        )

    def rebase(self) -> int:
        """Take the present weights for those after the last step, and return how many signs differ."""
        changed = self.flips.tracker.rebase()
        self.flips.prepare()
        if self.levels is not None:
            self.levels.rebase()
        return changed

    def remove(self) -> None:
        """Take every tap out of the model."""
        for listener in self.listeners:
            listener.remove()

    @torch.no_grad()
    def rehearse(self) -> None:
        """Let instruments that are not ours record once, throw it away and put their state back.

        Raises:
            ConfigError: If one fails, puts what it does not declare, or a value that is not one number.
        """
        for instrument in self._foreign().values():
            name = type(instrument).__name__
            rows = Rows(instrument.every, self._watched.sites)
            rows.owner = instrument
            with seeded(0, "watch"):
                try:
                    state = {key: value.clone() for key, value in _state_of(instrument).items()}
                    instrument.record(rows)
                    instrument.load_state_dict(state)
                except ConfigError:
                    raise
                except Exception as error:
                    text = " ".join(f"{type(error).__name__}: {error}".split())
                    raise ConfigError(
                        f"instrument {name} failed in its rehearsal before training: {text[:300]}"
                    ) from error

    def state_dict(self) -> dict[str, Tensor]:
        """Return all that the next step depends on, by name of instrument."""
        state = {f"flips.{name}": value for name, value in self.flips.state_dict().items()}
        if self.levels is not None:
            state |= {f"levels.{name}": value for name, value in self.levels.state_dict().items()}
        foreign = self._foreign()
        for key, instrument in foreign.items():
            state |= {f"own.{key}.{name}": v for name, v in _state_of(instrument).items()}
        if foreign:
            text = "\n".join(foreign).encode()
            state[_PANEL] = torch.tensor(list(text), dtype=torch.uint8)
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a state_dict.

        Raises:
            CheckpointError: If it is of other instruments.
        """
        foreign = self._foreign()
        text = bytes(state[_PANEL].tolist()).decode() if _PANEL in state else ""
        wrote = text.split("\n") if text else []
        if wrote != list(foreign):
            raise CheckpointError(
                f"the watch's state is of the instruments [{', '.join(wrote)}] beside the standard ones, this watch has"
                f" [{', '.join(foreign)}]; resume with those that wrote the checkpoint"
            )
        self.flips.load_state_dict(_under("flips.", state))
        if self.levels is not None:
            self.levels.load_state_dict(_under("levels.", state))
        for key, instrument in foreign.items():
            instrument.load_state_dict(_under(f"own.{key}.", state))
        if self.trajectories is not None:
            self.trajectories.forget()

    def _foreign(self) -> dict[str, Instrument]:
        """Return the instruments that are not ours, by a name that is the same when a run goes on."""
        found: dict[str, Instrument] = {}
        for instrument in self.instruments:
            if not isinstance(instrument, _STANDARD):
                name = type(instrument).__name__
                number = 1 + sum(key.rpartition("-")[0] == name for key in found)
                found[f"{name}-{number}"] = instrument
        return found

    @torch.no_grad()
    def _ask(self, instruments: Iterable[Instrument], step: int) -> Rows:
        rows = Rows(step, self._watched.sites)
        for instrument in instruments:
            rows.owner = instrument
            instrument.record(rows)
        return rows


def _under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): v for name, v in state.items() if name.startswith(prefix)}


def _state_of(instrument: Instrument) -> dict[str, Tensor]:
    state = instrument.state_dict()
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ConfigError(
                f"the state of instrument {type(instrument).__name__} has {str(name)[:40]!r} of type"
                f" {type(value).__name__}; expected names and tensors, which a checkpoint can hold"
            )
    return state
