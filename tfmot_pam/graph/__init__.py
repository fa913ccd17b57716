"""Networks as data: reading, channel graph, selection, cost, emission."""
