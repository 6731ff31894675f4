"""Products of bits: plain numpy, and the same compiled by numba, which is known in this folder alone."""
