"""ZipIt!: channels are matched by the correlation of what they do, within networks as well.

Stoica, Bolya, Bjorner, Ramesh, Hearn, Hoffman, ICLR 2024. In every space the two channels that
correlate most become one, their mean, which goes on taking part, until as many are left as a
network has. Whoever read one of them reads the mean: rows of channels that became one add up.

Beyond the paper: how the mean correlates is computed exactly, from covariances; it is multiplied by
what brings it closest to each channel where that is read; and no task gets more channels than its
network has. Where channels of one network became one there is room, which others' channels take.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from tfmot_pam.graph.inputs import count, joined
from tfmot_pam.graph.network import Tensor
from tfmot_pam.graph.runner import evaluate
from tfmot_pam.merging.alignment import Alignment
from tfmot_pam.merging.fusing import places_of_channels
from tfmot_pam.merging.matching import Members, apart, check_until, decision, matched_spaces
from tfmot_pam.merging.methods import MergeMethod, Request, SpaceDecision

_ROWS = 1 << 13  # of activations of a tensor that are looked at
_RANKS = 16  # positions of a channel in a flattened tensor that are looked at


def zip_method(*, until: str | None = None, within: bool = True, name: str = "zip") -> MergeMethod:
    """ZipIt! as a merge method: channels that correlate most become one, greedily.

    Use it to compare with. `merge(share=)` says how many of the channels that are too many for one
    network become part of another, the most alike first.

    Source: Stoica et al., ZipIt! Merging Models from Different Tasks without Training, ICLR 2024.

    Args:
        until: A layer of the networks' common trunk, the last whose channels become one (partial
            zipping); those behind it stay apart. None for all layers.
        within: Whether channels of one network may become one, too.
        name: What the method is called in plans and messages.

    Returns:
        The method, for `merge(method=)`. `merge(method="zip")` is the one without arguments.

    Raises:
        TypeError: `until` is no text, or `within` no bool.
        ValueError: on merging: `until` is no layer of the trunk.

    Example:
    >>> import tfmot_pam
    >>> tfmot_pam.zip_method(until="conv2", within=False).name
    'zip'
    """
    check_until(until)
    if not isinstance(within, (bool, np.bool_)):
        raise TypeError(
            f"`within` must be True or False. Received: {within!r} of type "
            f"{type(within).__name__}. Leave it out to match channels of one network, too."
        )
    return MergeMethod(
        name, lambda request: _zip(request, until, bool(within)), own_width=True, matches=True
    )


def _zip(request: Request, until: str | None, within: bool) -> dict[int, SpaceDecision]:
    alignment, share = request.alignment, request.threshold.share or 1.0
    wanted = matched_spaces(alignment, until)
    moments = _moments(request, wanted)
    places = places_of_channels(alignment)
    found = {}
    for index, space in enumerate(alignment.spaces):
        if space.given or space.frozen is not None:
            continue
        if index not in wanted:
            found[index] = decision(alignment, index, apart(alignment, index))
            continue
        covariance, second = moments[index]
        owners = np.repeat(np.arange(len(space.widths)), space.widths)
        kinds = [own[c] for own, c in zip(places, space.channels, strict=True)]
        merges = round(share * (len(owners) - max(space.widths)))
        clusters = zipped(covariance, owners, np.concatenate(kinds), merges, within)
        start = np.cumsum([0, *space.widths])
        classes = [[(int(owners[c]), int(c - start[owners[c]])) for c in own] for own in clusters]
        factors = {
            member: _factor(second, channel, own)
            for own, members in zip(clusters, classes, strict=True)
            for channel, member in zip(own, members, strict=True)
            if len(own) > 1
        }
        masks = _with_room(classes, kinds)
        found[index] = decision(alignment, index, classes, masks, factors)
    return found


def _factor(second: np.ndarray, channel: int, members: Sequence[int]) -> float:
    """What brings the mean of some channels closest to one of them."""
    square = float(second[np.ix_(members, members)].mean())
    return float(second[channel, members].mean()) / square if square > 0 else 1.0


def _with_room(classes: Sequence[Members], places: Sequence[np.ndarray]) -> list[int]:
    """The task set of each class: of its networks, and of those that have room left for it.

    Args:
        classes: The channels that become one.
        places: For each network a number for each of its channels, the same for those in the same
            tensors: room is counted for each of these numbers.
    """
    masks = [sum(1 << k for k in {k for k, _ in own}) for own in classes]
    kinds = [int(places[own[0][0]][own[0][1]]) for own in classes]
    room = [Counter(own.tolist()) for own in places]
    for kind, mask in zip(kinds, masks, strict=True):
        for k, left in enumerate(room):
            left[kind] -= mask >> k & 1
    for number in sorted(range(len(classes)), key=lambda number: -len(classes[number])):
        for k, left in enumerate(room):
            if left[kinds[number]] > 0 and not masks[number] >> k & 1:
                masks[number] |= 1 << k
                left[kinds[number]] -= 1
    return masks


def zipped(
    covariance: np.ndarray, owners: np.ndarray, kinds: np.ndarray, merges: int, within: bool
) -> list[list[int]]:
    """Clusters of channels, by merging the two of the highest correlation again and again.

    Args:
        covariance: Of the channels, `[channels, channels]`.
        owners: The network of each.
        kinds: Channels of different kinds stay apart.
        merges: How often two become one, at most.
        within: Whether channels of one network may be in one cluster.

    Returns:
        The channels of each cluster, ascending.
    """
    total = len(owners)
    covariance = covariance.astype(float)
    clusters: list[list[int]] = [[channel] for channel in range(total)]
    nets = owners[:, None] == np.arange(int(owners.max(initial=0)) + 1)
    likeness = np.stack([_likeness(covariance, i, nets, kinds, within) for i in range(total)])
    alive = np.ones(total, bool)
    for _ in range(merges):
        first, second = divmod(int(np.argmax(likeness)), total)
        if not np.isfinite(likeness[first, second]):
            break
        first, second = sorted((first, second))
        sizes = len(clusters[first]), len(clusters[second])
        weights = np.array(sizes) / sum(sizes)
        row = weights @ covariance[[first, second]]
        corner = weights @ covariance[np.ix_([first, second], [first, second])] @ weights
        covariance[first] = covariance[:, first] = row
        covariance[first, first] = corner
        clusters[first] += clusters[second]
        nets[first] |= nets[second]
        alive[second] = False
        row = _likeness(covariance, first, nets, kinds, within)
        likeness[first] = likeness[:, first] = np.where(alive, row, -np.inf)
        likeness[second] = likeness[:, second] = -np.inf
    return [sorted(clusters[number]) for number in np.flatnonzero(alive).tolist()]


def _likeness(
    covariance: np.ndarray, number: int, nets: np.ndarray, kinds: np.ndarray, within: bool
) -> np.ndarray:
    """The correlation of one channel and all others; -inf where they must not become one.

    A channel that is constant correlates with none but with others that are.
    """
    variance = np.maximum(np.diagonal(covariance), 0.0)
    norm = np.sqrt(variance * variance[number])
    constant = np.where(variance + variance[number] > 0, -1.0, 1.0)
    result = np.where(norm > 0, covariance[number] / np.maximum(norm, 1e-300), constant)
    never = kinds != kinds[number]
    if not within:
        never |= (nets & nets[number]).any(axis=1)
    never[number] = True
    return np.where(never, -np.inf, result)


def _moments(request: Request, wanted: Sequence[int]) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """The channels' covariances and second moments where they are read, by space.

    The first network's channels come first. Of several places that read a channel all count alike.
    """
    alignment = request.alignment
    inputs = list({id(x): x for x in request.inputs}.values())
    x = inputs[0] if len(inputs) == 1 else joined(inputs)
    looked_at = _looked_at(alignment, wanted)
    rng = np.random.default_rng(request.seed)
    seeds = {
        place: int(rng.integers(1 << 31)) for place in sorted(set().union(*looked_at.values()))
    }
    most = max(_ROWS // count(x), 1)
    values: list[dict[tuple[int, int], np.ndarray]] = []
    for k, network in enumerate(alignment.networks):
        tensors = {Tensor(alignment.trunk[i][k], o): (i, o) for i, o in seeds}

        def sample(
            tensor: Tensor, value: np.ndarray, tensors: Mapping[Tensor, tuple[int, int]] = tensors
        ) -> np.ndarray:
            """Some places of each map, the same ones in all networks."""
            value = value.reshape(len(value), -1, value.shape[-1])
            own = np.random.default_rng(seeds[tensors[tensor]])
            size = value.shape[1]
            return value[:, np.sort(own.choice(size, min(size, most), replace=False))]

        found = evaluate(network, x, tensors, sample)
        values.append({tensors[tensor]: value for tensor, value in found.items()})
    result = {}
    for index in wanted:
        total = sum(alignment.spaces[index].widths)
        covariance, second = np.zeros((total, total)), np.zeros((total, total))
        for place in looked_at[index]:
            rows = np.concatenate(
                [
                    _by_channel(alignment, k, index, place, own[place])
                    for k, own in enumerate(values)
                ],
                axis=1,
            ).astype(float)
            level = max(float(rows.var(axis=0).mean()), 1e-30) * len(rows)
            second += rows.T @ rows / level
            rows -= rows.mean(axis=0)
            covariance += rows.T @ rows / level
        result[index] = covariance, second
    return result


def _looked_at(alignment: Alignment, wanted: Sequence[int]) -> dict[int, list[tuple[int, int]]]:
    """The trunk's tensors, as place and output, in which each space is read by layers that mix it.

    Where heads alone read it, and in no such tensor, it is the last one that carries it.
    """
    graph = alignment.graphs[0]
    read = {
        tensor
        for node in graph.network.nodes
        if graph.roles[node.name] in ("mixing", "copied")
        for tensor in node.inputs
    }
    carrying: dict[int, list[tuple[int, int]]] = {index: [] for index in wanted}
    for place, names in enumerate(alignment.trunk):
        for output in range(len(graph.network.node(names[0]).shapes)):
            labels = graph.labels[Tensor(names[0], output)]
            for index in wanted:
                if np.isin(labels, alignment.spaces[index].channels[0]).any():
                    carrying[index].append((place, output))
    return {
        index: [at for at in found if Tensor(alignment.trunk[at[0]][0], at[1]) in read]
        or found[-1:]
        for index, found in carrying.items()
    }


def _by_channel(
    alignment: Alignment, k: int, index: int, place: tuple[int, int], value: np.ndarray
) -> np.ndarray:
    """A tensor's values `[samples, places, positions]` with a column for each channel of a space.

    Several positions of a channel are further rows; what the tensor does not carry is 0.
    """
    channels = alignment.spaces[index].channels[k]
    labels = alignment.graphs[k].labels[Tensor(alignment.trunk[place[0]][k], place[1])]
    positions = np.flatnonzero(np.isin(labels, channels))
    order = positions[np.argsort(labels[positions], kind="stable")]
    present, starts, times = np.unique(labels[order], return_index=True, return_counts=True)
    ranks = np.unique(np.linspace(0, times.min() - 1, _RANKS).astype(int))
    chosen = order[starts + ranks[:, None]]  # [ranks, channels]
    rows = np.moveaxis(value[:, :, chosen], 2, 0).reshape(-1, len(present))
    result = np.zeros((len(rows), len(channels)), np.float32)
    result[:, np.searchsorted(channels, present)] = rows
    return result
