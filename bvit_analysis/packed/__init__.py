"""Packed models: one bit a binary weight in a checked, pickle-free file."""

import lazy_loader

# Importing torch takes seconds, and bits need none: each name is loaded when first used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
