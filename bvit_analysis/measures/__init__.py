"""What flips, what is bimodal, what is informative: the measures as pure functions.

Conventions. A sign is +1 where the value the forward pass uses is >= 0, else -1, so NaN counts as -1. A step is an
applied optimizer step. Every site-level figure is a Python float, computed in float64. Where a figure is not defined
(no elements, nothing flipped, no variance) it is NaN and the docstring says so; nothing here warns. A NaN among
weights makes every figure of them NaN, because a figure of the rest would hide it.
"""

import lazy_loader

# Who looks at runs uses those that need no torch, so each name is loaded when first used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
