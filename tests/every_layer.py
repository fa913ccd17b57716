"""Random networks of all the layers that people have, and what must hold for each, cheaply.

Beside what `random_models` draws: layers that are taken whole (attention, recurrent ones, those
that normalise channels together), layers that rearrange channels or are called several times,
nested outputs, and a second input that some networks read. They are run by their own evaluation.
"""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import keras
import numpy as np
from keras import layers

import tflite_export
from benchmarks.applications import randomise
from tests import identities_test as identities
from tests.random_models import Builder, Family
from tfmot_pam.graph.attention import attention_together
from tfmot_pam.graph.calling import answers_by_head, for_model
from tfmot_pam.graph.cost import network_cost
from tfmot_pam.graph.emitter import emit, instantiate
from tfmot_pam.graph.heads import Inputs, leaves
from tfmot_pam.graph.network import Layer, Network, iterate_tensors, weight_names
from tfmot_pam.graph.reader import read
from tfmot_pam.graph.runner import evaluate
from tfmot_pam.graph.selection import all_combinations, network_heads, select
from tfmot_pam.graph.surgery import remove_channels
from tfmot_pam.merging.alignment import Alignment, align
from tfmot_pam.merging.grouping import fixed_masks, with_identical_once
from tfmot_pam.merging.ungroup import without_groups
from tfmot_pam.pruning.channels import find_prunable
from tfmot_pam.pruning.gates import insert_gates
from tfmot_pam.pruning.settings import PruningSettings

_SHAPES, _ODDS = ((8, 8, 2), (12, 2), (8, 8, 3), (4, 4, 4, 1)), (0.45, 0.4, 0.1, 0.05)
_BESIDE = 3


def family(seed: int) -> Family:
    """Two or three networks of the structure that `seed` decides."""
    rng = np.random.default_rng([seed, 3])
    shape = _SHAPES[rng.choice(len(_SHAPES), p=_ODDS)]
    beside = bool(rng.random() < 0.3)
    models = {}
    for k in range(int(rng.choice([2, 2, 3]))):
        models[f"t{k}"] = _EveryLayer(seed, k, shape, beside and (k == 0 or rng.random() < 0.5))
        models[f"t{k}"] = randomise(models[f"t{k}"].model(), seed + k)
    x = rng.normal(size=(3, *shape)).astype("float32")
    if beside:
        x = {"image": x, "beside": rng.normal(size=(3, _BESIDE)).astype("float32")}
    return Family(models, x)


class _EveryLayer(Builder):
    """Builds one network; `beside` says whether it has a second input."""

    def __init__(self, seed: int, index: int, shape: tuple[int, ...], beside: bool):
        super().__init__(seed, index, shape, unknown=True)
        self.beside = beside

    def model(self) -> keras.Model:
        image = keras.Input(self.shape, name="image")
        h = self.conv(self.preprocess(image), kernel=3)
        for _ in range(self.same.integers(1, 4)):
            h = self.block(h)
        h = self.layer(self.pick("GlobalAveragePooling", "GlobalMaxPooling"))(h)
        inputs = {"image": image}
        if self.beside:
            inputs["beside"] = keras.Input((_BESIDE,), name="beside")
            known = layers.Dense(self.width(), activation="relu", name="head_known")
            h = layers.Concatenate(name="head_all")([h, known(inputs["beside"])])
        return keras.Model(inputs if self.beside else image, self.heads(h))

    def heads(self, h):
        if self.own.random() < 0.6:
            return self.head(h)
        boxes = layers.Dense(self.width(), name="head_boxes")(h)
        classes = layers.Dense(self.width(2, 4), activation="softmax", name="head_classes")(h)
        nests = {"boxes": boxes, "classes": [classes]}, [boxes, classes]
        return nests[self.own.integers(len(nests))]

    def block(self, h):
        if self.chance(0.4):
            return super().block(h)
        named = "norms norms steps attention halves shuffle towers twice permuted stacked several"
        return getattr(self, self.pick(*named.split()))(h)

    def norms(self, h):
        kinds = (
            layers.LayerNormalization,
            layers.RMSNormalization,
            layers.UnitNormalization,
            lambda: layers.GroupNormalization(groups=1),
        )
        h = self.conv(self.pick(*kinds)()(h))
        return self.activation(h)

    def steps(self, h):
        """A recurrent layer over the rows of an image, or over a series."""
        if len(h.shape) == 4:
            return layers.TimeDistributed(layers.Dense(self.width(), activation="tanh"))(h)
        if len(h.shape) != 3:
            return self.plain(h)
        kind = self.pick(layers.LSTM, layers.GRU, layers.SimpleRNN)
        layer = kind(self.width(2, 4), return_sequences=True)
        return layers.Bidirectional(layer)(h) if self.chance(0.3) else layer(h)

    def attention(self, h):
        """An encoder's block over all places."""
        h = self.conv(h, filters=4)
        tokens = layers.Reshape((-1, 4))(h)
        kind = self.pick(layers.MultiHeadAttention, layers.GroupQueryAttention)
        attend = kind(2, 2) if kind is layers.MultiHeadAttention else kind(2, 2, 1)
        normed = layers.LayerNormalization()(tokens)
        tokens = layers.Add()([tokens, attend(normed, normed)])
        inner = layers.Dense(self.width(4, 8), activation="gelu")(
            layers.LayerNormalization()(tokens)
        )
        tokens = layers.Add()([tokens, layers.Dense(4)(inner)])
        return layers.Reshape(h.shape[1:])(tokens)

    def permuted(self, h):
        """Places in another order, some of them left out."""
        if len(h.shape) == 4:
            h = layers.Permute((2, 1, 3))(self.conv(h))
        return self.conv(h)[:, 1:] if h.shape[1] > 4 else self.conv(h)

    def stacked(self, h):
        """Two tensors of one width on an axis of their own, and their mean."""
        width = self.width()
        parts = [self.conv(h, filters=width), self.conv(h, filters=width, activation="tanh")]
        return keras.ops.mean(keras.ops.stack(parts, axis=-2), axis=-2)

    def several(self, h):
        """A block that is called on what it has made."""
        width = h.shape[-1]
        layer = self.layer_class("Conv")(width, 3, padding="same", activation="relu")
        return layer(self.conv(layer(h), filters=width))


# --- what must hold -------------------------------------------------------------------------------


def check(seed: int) -> int:
    """Identities (i) to (iii) on one family; returns how many channels could be pruned."""
    drawn = family(seed)
    networks = {task: read(model) for task, model in drawn.models.items()}
    expected, made = {}, {}  # Layers that networks have in common are made once.
    for task, model in drawn.models.items():
        found = answers_by_head(model(for_model(model, drawn.x), training=False), task)
        expected |= {head: keras.ops.convert_to_numpy(value) for head, value in found.items()}
        assert_same(_of(networks[task], drawn.x, made, task), expected, "read")
    alignment = align(list(networks), list(networks.values()), trunk_needed=False)
    separate = identities.assembled(alignment, fixed_masks)
    assert_same(_of(separate, drawn.x, made), expected, "separate")
    regrouped = identities.assembled(alignment, lambda own: _groups(own, seed))
    whole = _of(regrouped, drawn.x, made)
    assert_same(whole, expected, "regrouped, nothing cut")
    for chosen in all_combinations(list(networks)):
        part = _of(select(regrouped, chosen), drawn.x, made)
        assert list(part) == [h for t in chosen for h in network_heads(regrouped)[t]]
        assert_same(part, whole, chosen)
    return _check_removal(regrouped, drawn.x, made, seed)


def check_merged_again(seed: int) -> bool:
    """A merged network's parts, merged once more with nothing else shared, are the merged network.

    Returns whether they cost what it cost: where layers cannot be written in one piece again, as
    networks of other structures share them, they are computed once for each task.
    """
    drawn, made = family(seed), {}
    networks = {task: read(model) for task, model in drawn.models.items()}
    alignment = align(list(networks), list(networks.values()), trunk_needed=False)
    merged = identities.assembled(alignment, lambda own: _groups(own, seed))
    parts = {}
    for task in networks:
        part = select(merged, [task])
        parts[task] = without_groups(part.replace(outputs=part.outputs[task]))
    alignment = align(list(parts), list(parts.values()), trunk_needed=False)
    again = identities.assembled(alignment, lambda own: with_identical_once(own, fixed_masks(own)))
    assert_same(_of(again, drawn.x, made), _of(merged, drawn.x, made), "merged again")
    costs = [network_cost(network).macs for network in (again, merged)]
    assert costs[0] >= costs[1]
    return costs[0] == costs[1]


def _groups(alignment: Alignment, seed: int):
    masks = identities.random_masks(alignment, seed, must_own=True)
    return identities.nothing_is_cut(alignment, masks)


def _check_removal(network: Network, x: Inputs, made: dict, seed: int) -> int:
    """Masked channels and removed ones are the same (iii)."""
    try:
        prunable = find_prunable(network)
    except ValueError as error:
        if "can be pruned" not in str(error):
            raise
        return 0
    settings = PruningSettings(importance="random", measure="macs", seed=seed)
    budget = settings.budget(prunable)
    rng = np.random.default_rng([seed, 4])
    share = max(budget.least(), float(rng.uniform(0.2, 0.8)))
    keep = budget.choose(np.ones(len(prunable), bool), rng.random(len(prunable)), share)
    gated = _masked(insert_gates(prunable, settings), keep)
    small = remove_channels(prunable.graph, prunable.in_graph(keep)).network
    small = attention_together(small)
    assert_same(_of(small, x, made), _of(gated, x, made), "removed")
    return len(prunable)


def _masked(network: Network, keep: np.ndarray) -> Network:
    layers_by_name = dict(network.layers)
    for name, layer in network.layers.items():
        if layer.kind == "ChannelGates":
            made = instantiate(layer, wrap=False)
            made.build()
            made.mask.assign(keep.astype("float32"))
            weights = [keras.ops.convert_to_numpy(weight) for weight in made.weights]
            weights = dict(zip(weight_names(made), weights, strict=True))
            layers_by_name[name] = dataclasses.replace(layer, weights=weights)
    return network.replace(layers=layers_by_name)


def _of(
    network: Network, x: Inputs, made: dict[Layer, Any], task: str | None = None
) -> dict[str, np.ndarray]:
    """What a network computes, by head, evaluated node by node."""
    found = evaluate(network, x, list(iterate_tensors(network.outputs)), made=made)
    outputs = {task: network.outputs} if task is not None else network.outputs
    heads = {h: t for name, nest in outputs.items() for h, t in leaves(name, nest).items()}
    return {head: found[tensor] for head, tensor in heads.items()}


def assert_same(found, expected, what, tolerance: float = 1e-4) -> None:
    """Outputs that are equal but for rounding, relative to the largest."""
    for head, values in found.items():
        error = float(np.abs(values - expected[head]).max())
        scale = max(1.0, float(np.abs(expected[head]).max()))
        assert error <= tolerance * scale, f"{what}, {head}: {error} of {scale}"


def check_files(seed: int, folder: pathlib.Path) -> None:
    """The files of one family's merged network compute what it does; `export` sees to that.

    TFLite lacks operations of five axes: of volumes nothing is asked, nor of random networks of
    which a head answers the same to all, which `export` takes for untrained.
    """
    drawn = family(seed)
    if any(len(tensor.shape) == 5 for m in drawn.models.values() for tensor in m.inputs):
        return
    networks = {task: read(model) for task, model in drawn.models.items()}
    alignment = align(list(networks), list(networks.values()), trunk_needed=False)
    network = identities.assembled(alignment, lambda own: _groups(own, seed))
    if any(np.ptp(values, axis=0).max() == 0 for values in _of(network, drawn.x, {}).values()):
        return
    merged = emit(network)
    tflite_export.export(merged, folder, mode="files", tune="none", samples=drawn.x, verbose=0)
