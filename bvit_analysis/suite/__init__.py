"""Notebooks executed over runs, in batches: plans, executions, what became of each, and lessons."""

import lazy_loader

# A child that executes one notebook imports a module of this package, and must not wait for pandas.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
