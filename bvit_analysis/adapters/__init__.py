"""Watching trainings of other people's trainers, and exporting runs to other people's trackers.

Each adapter needs the package that it adapts to, from an extra of its own: `lightning`, `huggingface`, `trackers`.
"""

import lazy_loader

# Importing Lightning or transformers takes seconds, and nobody needs both: each name is loaded when first used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
