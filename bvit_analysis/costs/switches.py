"""The switches of a convention, each with its settings, where a setting is documented, and all their combinations.

A switch *about counting* leaves the network as it is; one *about the network* counts it as another one would be, as
nobody outside knows which layers of the paper's network are binary. A setting that a published work uses names it; the
others stand in `docs/costs.md` with the reason why they can be defended, and are marked as ours.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Literal

from bvit_analysis.config import Recipe
from bvit_analysis.costs.conventions import Convention
from bvit_analysis.costs.rows import KINDS
from bvit_analysis.errors import ConfigError, unknown_name

Quantity = Literal["size", "operations"]

OURS = "ours"
"The source of a setting that no published work is known to use."


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One position of a switch."""

    text: str
    "As tables print it."
    source: str
    "Which published work counts so; OURS where none is known."
    changes: Mapping[str, Any] = field(default_factory=dict)
    "Fields of Convention; sets of kinds of several settings are united, and `left_out` kinds are not counted."

    @property
    def published(self) -> bool:
        """Whether a published work is known to use it."""
        return self.source != OURS


@dataclass(frozen=True, kw_only=True)
class Switch:
    """One choice of a convention; the first setting is the plain one."""

    name: str
    "Name of the column in a reconciliation."
    about: Literal["counting", "network"]
    "Whether it says how to count, or what the network is taken to be."
    settings: tuple[Setting, ...]
    "Its positions, the plain one first."


@dataclass(frozen=True, kw_only=True)
class Combination:
    """One setting of every switch, and the convention they make."""

    convention: Convention
    "What sums up a table."
    settings: tuple[tuple[Switch, Setting], ...]
    "In the order of the switches."

    @property
    def departures(self) -> tuple[tuple[Switch, Setting], ...]:
        """The settings that are not the plain ones."""
        return tuple((s, setting) for s, setting in self.settings if setting is not s.settings[0])

    @property
    def as_built(self) -> bool:
        """Whether it counts the very network of the ledger, and no supposed one."""
        return all(switch.about == "counting" for switch, _ in self.departures)

    @property
    def published(self) -> bool:
        """Whether a published work is known for every setting, though for each perhaps another."""
        return all(setting.published for _, setting in self.settings)


def _precision(name: str, kind: str, binary_source: str) -> Switch:
    kinds = frozenset({kind})
    return Switch(
        name=name,
        about="network",
        settings=(
            Setting(text="float", source="Le 2306.16678, BiViT 2211.07091"),
            Setting(text="8 bit", source="PokeBNN 2112.00133 (a CNN)", changes={"as_int8": kinds}),
            Setting(text="binary", source=binary_source, changes={"as_binary": kinds}),
        ),
    )


_FLOAT_PARTS = (
    _precision("patch", "patch_embed", "Bi-ViT 2305.12354 (nearest to its 61.5x)"),
    _precision("head", "head", OURS),
)
_REST = "Larq 2011.09398 (packed bits and all of the rest)"
_ALL_FLOAT = "Bi-Real 1808.00278, ReActNet 2003.03488, BiViT 2211.07091"
_BHVIT = "BHViT 2503.02394 (convolutions and linears alone)"

SWITCHES: dict[Quantity, tuple[Switch, ...]] = {
    "size": (
        Switch(
            name="width",
            about="counting",
            settings=(
                Setting(text="FP32", source="Larq 2011.09398"),
                Setting(text="FP16", source="BHViT 2503.02394", changes={"float_bits": 16}),
            ),
        ),
        *_FLOAT_PARTS,
        Switch(
            name="biases",
            about="counting",
            settings=(
                Setting(text="in", source=_REST),
                Setting(text="out", source=OURS, changes={"left_out": {"bias"}}),
            ),
        ),
        Switch(
            name="embeddings",
            about="counting",
            settings=(
                Setting(text="in", source=_REST),
                Setting(text="out", source=_BHVIT, changes={"left_out": {"positions", "tokens"}}),
            ),
        ),
        Switch(
            name="norms",
            about="counting",
            settings=(
                Setting(text="in", source=_REST),
                Setting(text="out", source=_BHVIT, changes={"left_out": {"norm"}}),
            ),
        ),
        Switch(
            name="added",
            about="counting",
            settings=(
                Setting(text="all", source=_REST),
                Setting(
                    text="scales alone",
                    source=OURS,
                    changes={"added_kinds": frozenset({"scale"})},
                ),
                Setting(text="none", source=_BHVIT, changes={"added": False}),
            ),
        ),
    ),
    "operations": (
        Switch(
            name="word",
            about="counting",
            settings=(
                Setting(text="/64", source=_ALL_FLOAT),
                Setting(
                    text="/32",
                    source="Courbariaux 1602.02830 (32-bit registers)",
                    changes={"binary_ops_per_op": 32},
                ),
            ),
        ),
        *_FLOAT_PARTS,
        Switch(
            name="attention",
            about="network",
            settings=(
                Setting(text="1 bit", source="BiT 2205.13016, Le 2306.16678"),
                Setting(
                    text="3 planes",
                    source="BHViT 2503.02394, GSB",
                    changes={"attention_planes": 3},
                ),
                Setting(
                    text="context masked additions",
                    source=OURS,
                    changes={"counted_as_additions": frozenset({"context"})},
                ),
                Setting(
                    text="context float",
                    source=OURS,
                    changes={"counted_as_float": frozenset({"context"})},
                ),
                Setting(
                    text="float",
                    source=OURS,
                    changes={"counted_as_float": frozenset({"scores", "context"})},
                ),
            ),
        ),
        Switch(
            name="element-wise",
            about="counting",
            settings=(
                Setting(text="out", source=_ALL_FLOAT),
                Setting(
                    text="in, twin's MACs alone",
                    source="BHViT 2503.02394 (340 instead of 73.5 MOPs)",
                    changes={"elementwise": True, "twin_elementwise": False},
                ),
                Setting(text="in, twin's too", source=OURS, changes={"elementwise": True}),
                Setting(
                    text="in, twin's too, MAC = 2",
                    source=OURS,
                    changes={"elementwise": True, "ops_per_mac": 2},
                ),
            ),
        ),
    ),
}
"The switches of each quantity. Whatever a MAC counts drops out of a ratio where element-wise work is out."


def combinations(quantity: Quantity) -> list[Combination]:
    """Return every combination of the switches of a quantity, the plain one first.

    Args:
        quantity: 'size' or 'operations'.

    Raises:
        ConfigError: If the quantity is unknown.
    """
    if quantity not in SWITCHES:
        raise ConfigError(unknown_name("quantity", quantity, SWITCHES))
    switches = SWITCHES[quantity]
    return [
        _combine(quantity, tuple(zip(switches, chosen, strict=True)))
        for chosen in product(*(switch.settings for switch in switches))
    ]


def other_shifts(recipe: Recipe) -> dict[str, Recipe]:
    """Return a recipe with every activation shift of the library, by a short name.

    The claim is about a network with an activation shift module whose form and cost are not public.

    Args:
        recipe: What all else is taken from.
    """
    # Only this needs torch; conventions and recorded ledgers are read without.
    from bvit_analysis.layers.shift import SHIFTS

    found = {name: dataclasses.replace(recipe, shift=name) for name in SHIFTS}
    sized = found.pop("bottleneck")
    for reduction in (4, 8, 16):
        name = f"bottleneck, r = {reduction}"
        found[name] = dataclasses.replace(sized, shift_reduction=reduction)
    return found


def _combine(quantity: Quantity, settings: tuple[tuple[Switch, Setting], ...]) -> Combination:
    fields: dict[str, Any] = {}
    left_out: set[str] = set()
    for _, setting in settings:
        for name, value in setting.changes.items():
            if name == "left_out":
                left_out |= value
            else:
                fields[name] = (
                    fields.get(name, frozenset()) | value if isinstance(value, frozenset) else value
                )
    if left_out:
        fields["counted_float"] = frozenset(KINDS) - left_out
    convention = Convention(
        name=describe([(s, setting) for s, setting in settings if setting is not s.settings[0]]),
        description="; ".join(f"{switch.name} {setting.text}" for switch, setting in settings),
        quantity=quantity,
        **fields,
    )
    return Combination(convention=convention, settings=settings)


def describe(settings: list[tuple[Switch, Setting]]) -> str:
    """Return settings as one line, 'plain' where there are none.

    Args:
        settings: Those that are not the plain ones.
    """
    return "; ".join(f"{switch.name} {setting.text}" for switch, setting in settings) or "plain"
