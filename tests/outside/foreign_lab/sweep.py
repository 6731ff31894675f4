"""The lab's recipe as a file, and one made here, beside a preset."""

from pathlib import Path

from own_measure import RowSpread
from own_shift import CentredShift

import bvit_analysis as bv


def compared(base: bv.RunConfig, out: Path) -> list[Path]:
    """Train the preset, the file's recipe and one made here; return the run folders, teacher first."""
    made_here = bv.Recipe(name="shift-alone", shift=CentredShift)
    recipes = ["baseline", bv.read_recipe(Path(__file__).with_name("mine.toml")), made_here]
    return bv.ablate(base, out, recipes=recipes, seeds=[0], instruments=[RowSpread], progress=False)
