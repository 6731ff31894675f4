"""Explorers: controls over the tables and plots of recorded runs, for JupyterLab and for stored copies.

Each opens showing what it is about, works without a kernel's help in tests, and falls back to pictures where widgets
are not drawn. They need the `notebooks` extra.
"""

import lazy_loader

# Each explorer loads what it needs when it is first used, so that one does not wait for the others.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
