"""Inference on packed bits: the model that runs on XNOR and popcount, on the CPU. README.md here has the picture."""

import lazy_loader

# Importing torch takes seconds, and the kernels below need none: each name is loaded when first used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
