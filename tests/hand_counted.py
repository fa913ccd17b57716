"""The two-task model that is built by hand, counted by hand, and a report of it."""

from __future__ import annotations

import keras

from tfmot_pam.reporting.report import report

A, B, AB = ("a",), ("b",), ("a", "b")
# The two-task model, by hand: multiply-accumulates of each group.
FC1 = {AB: 6 * 4, A: 6 * 2, B: 6 * 3}
FC2 = {AB: 4 * 2, A: (4 + 2) * 3, B: (4 + 3) * 1}
HEAD = {A: (2 + 3) * 2, B: (2 + 1) * 4}
MACS = {
    A: FC1[AB] + FC1[A] + FC2[AB] + FC2[A] + HEAD[A],
    B: FC1[AB] + FC1[B] + FC2[AB] + FC2[B] + HEAD[B],
    AB: sum(FC1.values()) + sum(FC2.values()) + sum(HEAD.values()),
}
UNITS = {A: 4 + 2 + 2 + 3 + 2, B: 4 + 3 + 2 + 1 + 4, AB: 9 + 6 + 6}
ORIGINAL_MACS = {A: 6 * 5 + 5 * 3 + 3 * 2, B: 6 * 6 + 6 * 4 + 4 * 4}


def single(*widths) -> keras.Model:
    return keras.Sequential([keras.Input((6,)), *(keras.layers.Dense(n) for n in widths)])


def two_originals() -> dict[str, keras.Model]:
    return {"b": single(6, 4, 4), "a": single(5, 3, 2)}


def full_report(model, originals):
    """A report with everything in it."""
    return report(
        model,
        originals=originals,
        accuracy={"a": 0.9, "b": 0.8},
        original_accuracy={"a": 0.95, "b": 0.85},
        latency={"a": 0.5, ("b",): 0.25, ("b", "a"): 0.625},
        file_bytes={"a": 1000, "b": 2000, ("a", "b"): 3_400_000},
        usage={"a": 0.5, ("b", "a"): 0.5},
    )
