"""Multi-Task Zipping: channels of several networks are paired by what their weights compute.

He, Zhou, Thiele, NeurIPS 2018. With the second moments H_k of the inputs that network k's layer
sees on its own data, those of matched channels in one order and with the constant 1, channels of
incoming weights w_a and w_b lose least when they share w = (H_a + H_b)^-1 (H_a w_a + H_b w_b):

    difference(a, b) = 1/2 (w_a - w_b)' H_a (H_a + H_b)^-1 H_b (w_a - w_b)

The middle is factored as L L', so that the differences of all pairs are distances of the rows
L' w. Layers are taken from the input on. A further network is matched with what the ones before it
have become, whose weights are w and whose moments are the sums.

Beyond the paper: batch normalisation is folded into w; channels of a residual stream are matched
by all layers that write it; what a layer's other inputs add is fitted to the matched ones.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import scipy.linalg
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from tfmot_pam.graph.network import Tensor
from tfmot_pam.merging.fusing import places_of_channels
from tfmot_pam.merging.layer_terms import LayerTerms, Term
from tfmot_pam.merging.matching import (
    Members,
    apart,
    check_until,
    decision,
    identical_members,
    matched_spaces,
)
from tfmot_pam.merging.methods import MergeMethod, Request, SpaceDecision

# Differences of the channels of two networks, by their numbers.
_Pairs = dict[tuple[int, int], np.ndarray]
_ROUNDING = 1e-9  # of a mean moment
_CERTAIN = 1e6  # of a mean channel's variance: channels that are the same are paired first


def mtz_method(*, until: str | None = None, name: str = "mtz") -> MergeMethod:
    """Multi-Task Zipping as a merge method: one-to-one pairs of least functional difference.

    Use it to compare with: it makes one channel out of one of each network, layer by layer, and
    `merge(share=)` says how many, those of the least difference first. What has no partner in
    networks of other widths stays with its own task.

    Source: He, Zhou, Thiele, Multi-Task Zipping via Layer-wise Neuron Sharing, NeurIPS 2018.

    Args:
        until: A layer of the networks' common trunk, the last whose channels become one; those
            behind it stay apart. None for all layers.
        name: What the method is called in plans and messages.

    Returns:
        The method, for `merge(method=)`. `merge(method="mtz")` is the one without arguments.

    Raises:
        TypeError: `until` is no text.
        ValueError: on merging: `until` is no layer of the trunk.

    Example:
    >>> import tfmot_pam
    >>> tfmot_pam.mtz_method(until="conv2").name
    'mtz'
    """
    check_until(until)
    return MergeMethod(
        name, lambda request: _Matching(request, until).decide(), own_width=True, matches=True
    )


class _Matching:
    """Matches the spaces in the order in which the networks compute them.

    A residual stream is read before its last layers have written it. What these say is known at
    the end, and all is matched once more.
    """

    def __init__(self, request: Request, until: str | None):
        self.request = request
        self.alignment = request.alignment
        self.wanted = set(matched_spaces(self.alignment, until))
        self.space_of = {
            int(channel): index
            for index, space in enumerate(self.alignment.spaces)
            for channel in space.channels[0]
        }
        self.places = places_of_channels(self.alignment)

    def decide(self) -> dict[int, SpaceDecision]:
        found, late = self._sweep({})
        if late:
            found, _ = self._sweep(late)
        return {
            index: decision(self.alignment, index, found.get(index, apart(self.alignment, index)))
            for index, space in enumerate(self.alignment.spaces)
            if not space.given and space.frozen is None
        }

    def _sweep(self, late: Mapping[int, Sequence[_Pairs]]) -> tuple[dict[int, list[Members]], dict]:
        """Matches all spaces once.

        Args:
            late: By space, the differences of pairs by layers that write it after it was matched.

        Returns:
            The classes of each space, and such differences where there were none yet.
        """
        terms = LayerTerms(self.alignment, self.request.inputs, self.request.seed)
        early: dict[int, list[Term]] = defaultdict(list)
        found: dict[int, list[Members]] = {}
        left: dict[int, list[_Pairs]] = defaultdict(list)

        def settle(spaces: Sequence[int]) -> None:
            for index in spaces:
                if index in self.wanted and index not in found:
                    found[index] = self._match(index, early.pop(index, []), late.get(index, []))
                    terms.match(index, [own for own in found[index] if len(own) > 1])

        graph = self.alignment.graphs[0]
        for names in self.alignment.trunk:
            node = graph.network.node(names[0])
            role = graph.roles[node.name]
            if role in ("mixing", "copied"):
                settle(self._spaces(node.inputs))
            if not node.inputs or role not in ("mixing", "channelwise"):
                continue
            for index in self.wanted.intersection(self._spaces(node.outputs)):
                if index not in found:
                    early[index] += terms.of(names, index)
                elif not late:
                    left[index] += [_pairwise(term) for term in terms.of(names, index)]
        settle(sorted(self.wanted))
        return found, left

    def _spaces(self, tensors: Sequence[Tensor]) -> list[int]:
        labels = [self.alignment.graphs[0].labels[tensor] for tensor in tensors]
        return sorted({self.space_of[int(label)] for own in labels for label in np.unique(own)})

    def _match(
        self,
        index: int,
        early: Sequence[Term],
        late: Sequence[_Pairs],
    ) -> list[Members]:
        """The classes of a space: one-to-one with the first network, then with each further one."""
        widths, same = self.alignment.spaces[index].widths, identical_members(self.alignment, index)
        if not early and not late:
            return apart(self.alignment, index)
        channels = self.alignment.spaces[index].channels
        places = [own[c] for own, c in zip(self.places, channels, strict=True)]
        classes: list[Members] = [[(0, channel)] for channel in range(widths[0])]
        share = self.request.threshold.share or 1.0
        for k in range(1, len(widths)):
            total = np.zeros((len(classes), widths[k]))
            for term in early:
                total += _to_classes(term, classes, k)
            for pairs in late:
                total += [np.mean([pairs[j, k][c] for j, c in own], axis=0) for own in classes]
            known = [[same[k] == same[j][c] for j, c in own] for own in classes]
            sure = np.array([np.any(found, axis=0) for found in known]).reshape(total.shape)
            lead = [places[own[0][0]][own[0][1]] for own in classes]
            never = np.not_equal.outer(np.array(lead), places[k])
            count = round(share * min(total.shape))
            partner = _assigned(total + _CERTAIN * (2.0 * never - sure), count)
            for column in range(widths[k]):
                row = partner.get(column)
                if row is None or never[row, column]:
                    classes.append([(k, column)])
                else:
                    classes[row].append((k, column))
        return classes


def _assigned(cost: np.ndarray, count: int) -> dict[int, int]:
    """So many pairs of least total cost: the row of each column that has one."""
    rows, columns = cost.shape
    # Whoever has no partner among the others gets one of these, for nothing.
    padded = np.zeros((rows + columns - count, rows + columns - count))
    padded[:rows, :columns] = cost
    padded[rows:, columns:] = 4 * np.abs(cost).sum() + 1.0
    found = zip(*linear_sum_assignment(padded), strict=True)
    return {int(c): int(r) for r, c in found if r < rows and c < columns}


def _to_classes(term: Term, classes: Sequence[Members], k: int) -> np.ndarray:
    """The differences of classes and the channels of a further network, `[classes, channels]`."""
    by_nets: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for number, members in enumerate(classes):
        by_nets[tuple(net for net, _ in members)].append(number)
    result = np.empty((len(classes), term.weights[k].shape[-1]))
    for nets, numbers in by_nets.items():
        own = [term.weights[j][..., [dict(classes[n])[j] for n in numbers]] for j in nets]
        moments, weights = term.moments[nets[0]], own[0]
        if len(nets) > 1:
            moments = np.sum([term.moments[net] for net in nets], axis=0)
            pairs = zip(nets, own, strict=True)
            right = np.sum([term.moments[net] @ found for net, found in pairs], axis=0)
            weights = _solved(moments, np.concatenate(list(right), axis=-1))
            weights = np.stack(np.split(weights, len(right), axis=-1))
        result[numbers] = difference(moments, weights, term.moments[k], term.weights[k])
    return result


def _pairwise(term: Term) -> _Pairs:
    count = len(term.moments)
    return {
        (j, k): difference(term.moments[j], term.weights[j], term.moments[k], term.weights[k])
        for k in range(count)
        for j in range(k)
    }


def difference(
    first: np.ndarray, weights: np.ndarray, second: np.ndarray, others: np.ndarray
) -> np.ndarray:
    """The functional difference of each channel of one layer and each of another.

    Args:
        first: Second moments of the inputs of the first, `[inputs, inputs]`.
        weights: Incoming weights of its channels, `[parts, inputs, channels]`; parts add up.
        second: As `first`, of the other layer.
        others: As `weights`.

    Returns:
        `[channels, channels of the other]`.
    """
    middle = first - first @ _solved(first + second, first)
    middle = (middle + middle.T) / 2
    level = _ROUNDING * np.trace(middle) / len(middle)
    root = np.linalg.cholesky(middle + level * np.eye(len(middle)))
    parts = zip(root.T @ weights, root.T @ others, strict=True)
    return sum(0.5 * cdist(one.T, other.T, "sqeuclidean") for one, other in parts)


def _solved(moments: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Solves a system of second moments, which are positive definite."""
    factor = scipy.linalg.cho_factor(moments, lower=True, check_finite=False)
    return scipy.linalg.cho_solve(factor, right, check_finite=False)
