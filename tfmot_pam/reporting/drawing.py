"""A network as boxes and lines: which layers there are, what reads what, and where they stand."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping, Sequence

from tfmot_pam.graph.cost import network_cost
from tfmot_pam.graph.network import Network, iterate_tensors
from tfmot_pam.graph.selection import task_names
from tfmot_pam.graph.task_sets import tasks_of_nodes


@dataclasses.dataclass(frozen=True)
class DrawnLayer:
    """One call of a layer, with what it reads.

    Args:
        name: The node's name.
        kind: The layer's class.
        tasks: The tasks whose outputs need it, in model order; none where nothing does.
        shape: Shape of what it yields, without the samples' axis.
        macs: Multiply-accumulates per sample.
        parameters: Weights of all kinds.
        reads: The places, in the drawing, of the layers whose outputs reach it.
        heads: The tasks whose output it is, perhaps behind activations and the like.
        rank: Its row: one below the lowest of what it reads.
    """

    name: str
    kind: str
    tasks: tuple[str, ...]
    shape: tuple[int | None, ...]
    macs: int
    parameters: int
    reads: tuple[int, ...]
    heads: tuple[str, ...]
    rank: int


def drawn_layers(network: Network) -> tuple[DrawnLayer, ...]:
    """The inputs and the layers that compute something, in network order.

    What costs no multiply-accumulates (activations, concatenations, pooling) is left out, and
    counts as a part of the lines.
    """
    tasks, needed = task_names(network), tasks_of_nodes(network)
    costs = {cost.name: cost for cost in network_cost(network).per_layer}
    inputs = {tensor.node for tensor in network.inputs}
    sources: dict[str, tuple[int, ...]] = {}
    drawn: list[DrawnLayer] = []
    for node in network.nodes:
        behind = [place for tensor in node.inputs for place in sources[tensor.node]]
        reads = tuple(dict.fromkeys(behind))
        cost = costs.get(node.name)
        if node.name not in inputs and not (cost and cost.macs):
            sources[node.name] = reads
            continue
        sources[node.name] = (len(drawn),)
        drawn.append(
            DrawnLayer(
                name=node.name,
                kind=network.layer_of(node).kind,
                tasks=tuple(t for k, t in enumerate(tasks) if needed[node.name] >> k & 1),
                shape=tuple((node.shapes[0] or (None,))[1:]),
                macs=cost.macs if cost else 0,
                parameters=cost.parameters if cost else 0,
                reads=reads,
                heads=(),
                rank=1 + max((drawn[place].rank for place in reads), default=-1),
            )
        )
    return _with_heads(network, tasks, sources, drawn)


def _with_heads(
    network: Network,
    tasks: Sequence[str],
    sources: Mapping[str, Sequence[int]],
    drawn: Sequence[DrawnLayer],
) -> tuple[DrawnLayer, ...]:
    outputs = network.outputs
    by_task = outputs.values() if isinstance(outputs, dict) else [outputs]
    heads: dict[int, list[str]] = collections.defaultdict(list)
    for task, structure in zip(tasks, by_task, strict=True):
        for tensor in iterate_tensors(structure):
            for place in sources[tensor.node]:
                if task not in heads[place]:
                    heads[place].append(task)
    return tuple(
        dataclasses.replace(layer, heads=tuple(heads.get(place, ())))
        for place, layer in enumerate(drawn)
    )


@dataclasses.dataclass(frozen=True)
class Placed:
    """A drawing with coordinates, in pixels.

    Args:
        boxes: The upper left corner of each layer's box.
        width: Of the whole drawing.
        height: Of the whole drawing.
    """

    boxes: tuple[tuple[float, float], ...]
    width: float
    height: float


BOX, GAP = (168, 40), (22, 30)


def placed(layers: tuple[DrawnLayer, ...], tasks: tuple[str, ...]) -> Placed:
    """Puts layers into rows by rank; within a row those of many tasks come first."""
    rows: dict[int, list[int]] = collections.defaultdict(list)
    for place, layer in enumerate(layers):
        rows[layer.rank].append(place)
    most = max(len(row) for row in rows.values())
    width = most * (BOX[0] + GAP[0]) + GAP[0]
    boxes: dict[int, tuple[float, float]] = {}
    for rank, row in rows.items():
        row.sort(key=lambda place: (-len(layers[place].tasks), _order(layers[place], tasks), place))
        left = (width - len(row) * (BOX[0] + GAP[0]) + GAP[0]) / 2
        for position, place in enumerate(row):
            top = GAP[1] + rank * (BOX[1] + GAP[1])
            boxes[place] = (left + position * (BOX[0] + GAP[0]), top)
    height = GAP[1] + len(rows) * (BOX[1] + GAP[1])
    return Placed(tuple(boxes[place] for place in range(len(layers))), width, height)


def _order(layer: DrawnLayer, tasks: tuple[str, ...]) -> list[int]:
    return [tasks.index(task) for task in layer.tasks]
