"""A lab bench for binary Vision Transformers: binarize, train, watch, and look at what was recorded.

Reproduces the analyses of BinaryViT (Xiao et al., arXiv 2305.14730; not the other BinaryViT, arXiv 2306.16678). The
paper's equations are not public: GRS and ASM here are reconstructions, labelled so wherever they appear.
"""

import lazy_loader

from bvit_analysis.extras import guard_training

__version__ = "0.1.0"

guard_training()

# Importing torch and timm takes seconds, and a reader of runs needs neither: each name of __init__.pyi is loaded when
# first used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
