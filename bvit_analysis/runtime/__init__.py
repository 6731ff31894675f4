"""Inference on packed bits: XNOR-popcount kernels on the CPU, and the model that runs on them."""
