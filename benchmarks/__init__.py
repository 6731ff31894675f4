"""Speed and memory, each printed as a ratio to a named alternative: `python -m benchmarks.<name>`."""
