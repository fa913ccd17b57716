"""Merging takes no more memory for more samples: data are read and networks run batch by batch."""

from __future__ import annotations

import tracemalloc

import keras
import numpy as np
import pytest

import tfmot_pam
from tests.tiers import regular
from tfmot_pam.graph import runner

layers = keras.layers


def segmentation_net(seed: int, classes: int) -> keras.Model:
    """Maps of 32x32 throughout, of which none fits the memory for many images."""
    keras.utils.set_random_seed(seed)
    image = h = keras.Input((32, 32, 3))
    for position, width in enumerate((16, 12)):
        h = layers.Conv2D(width, 3, padding="same", activation="relu", name=f"conv{position}")(h)
    return keras.Model(image, layers.Conv2D(classes, 1, activation="softmax", name="head")(h))


@pytest.mark.parametrize("labelled", regular([True, False]))
def test_the_peak_of_a_merge_does_not_grow_with_the_samples(monkeypatch, labelled):
    monkeypatch.setattr(runner, "_LARGEST_BATCH", 8)
    run, held = runner.Stepper._run, []

    def watched(self, *arguments):
        alive = run(self, *arguments)
        held.append(sum(alive.nbytes for alive in self._kept.values()))
        return alive

    monkeypatch.setattr(runner.Stepper, "_run", watched)
    models = {"a": segmentation_net(0, 4), "b": segmentation_net(1, 3)}
    how = tfmot_pam.Compensation(places=256, memory=1 << 18)
    rng, peaks = np.random.default_rng(0), {}
    for samples in (16, 256):
        x = rng.integers(0, 256, (samples, 32, 32, 3), "uint8")
        y = {task: rng.integers(0, 3, (samples, 32, 32), "uint8") for task in models}
        tracemalloc.start()
        try:
            data = (x, y) if labelled else x
            tfmot_pam.merge(models, data, share=0.5, compensation=how, verbose=0)
            peaks[samples] = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peaks[256] < 1.5 * peaks[16]
    # Tensors, which Python's allocator does not count: a quarter or half of four times the memory.
    assert 0 < max(held) <= 2 * how.memory
