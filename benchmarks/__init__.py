"""Benchmarks: one command each, results under `benchmarks/results/`."""
