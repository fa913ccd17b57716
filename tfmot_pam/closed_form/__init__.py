"""Least squares on layers: features, fits, and greedy choices among blocks of columns."""
