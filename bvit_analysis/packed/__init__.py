"""Packed models: one bit a binary weight in a checked, pickle-free file."""

from bvit_analysis.packed.model import load_packed as load_packed
from bvit_analysis.packed.model import save_packed as save_packed
