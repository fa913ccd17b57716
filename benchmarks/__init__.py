"""Benchmarks: one command each.

Numbers (`NAME.csv`) and pages (`NAME.md`) go to `benchmarks/results/`; networks, raw measurements
and what a run needs to go on go to work folders below `build/`.
"""
