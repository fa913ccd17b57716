"""Structural pruning: which channels a network can do without, and the network without them."""
