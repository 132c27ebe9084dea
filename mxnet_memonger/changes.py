"""Single changes of a plan: one node kept or not, shifted, a stretch kept whole, a cut moved."""

from __future__ import annotations

import random
from collections.abc import Callable

from mxnet_memonger.mirror_plan import Choice, PlanSpace
from mxnet_memonger.operators import is_matrix_work
from mxnet_memonger.planning import CutGraph
from mxnet_memonger.starts import is_large

SMALLEST_SHARE = 2000  # nodes with less than a two-thousandth of all bytes are not tried one by one
MOST_SINGLE_NODES = 1200
NEARBY = 3  # how far a kept node is shifted, in nodes that may be kept
FREE_WEIGHT = 3  # nodes that hold nothing beside their outputs are drawn so many times as often as others
FLIPS, SHIFTS, DROPS = 0.5, 0.4, 0.05  # of the changes that are drawn; the rest are stretches kept whole and cuts moved
Change = Callable[[Choice], Choice]


def single_changes(space: PlanSpace, cut_graph: CutGraph, at: Choice, order: random.Random) -> list[Change]:
    """Every single change worth trying, in random order; those of large outputs tend to come first."""
    changes: list[Change] = []
    nodes = single_nodes(space)
    bytes_of = {index: space.graph.nodes[index].output_bytes for index in nodes}
    weights: list[float] = []
    place = {index: number for number, index in enumerate(nodes)}
    for index in nodes:
        own = [_flip_output(index)]
        if index in at.outputs:
            near = range(max(0, place[index] - NEARBY), min(len(nodes), place[index] + NEARBY + 1))
            own += [_shift(index, nodes[other]) for other in near if nodes[other] != index]
        changes += own
        weights += [bytes_of[index] / max(bytes_of.values()) + 0.05] * len(own)
    changes += _cut_changes(cut_graph, at)
    if not is_large(space):
        changes += [_flip_whole(group) for group in (*cut_graph.gaps, *_units(space)) if group]
    weights += [0.3] * (len(changes) - len(weights))
    drawn = [order.random() ** (1 / weight) for weight in weights]  # Efraimidis and Spirakis 2006
    return [changes[place] for place in sorted(range(len(changes)), key=drawn.__getitem__, reverse=True)]


class Draws:
    """Draws one change after the other, without a list of all; what can be changed is found once.

    Args:
        space, cut_graph: the network.
        order: what draws.
    """

    def __init__(self, space: PlanSpace, cut_graph: CutGraph, order: random.Random) -> None:
        self.cut_graph, self.order = cut_graph, order
        nodes = single_nodes(space)
        self.free = [index for index in nodes if not space.holds_inputs(index)] or nodes
        self.place = {index: number for number, index in enumerate(self.free)}
        held = [index for index in nodes if index not in self.place]
        self.nodes = self.free * FREE_WEIGHT + held
        self.groups = [group for group in (*cut_graph.gaps, *_units(space)) if group]

    def change(self, at: Choice) -> Choice:
        """Another plan."""
        kind, kept = self.order.random(), sorted(at.outputs)
        if self.nodes and (kind < FLIPS or not kept):
            return _flip_output(self.order.choice(self.nodes))(at)
        if kept and kind < FLIPS + SHIFTS:
            index = self.order.choice(kept)
            if index in self.place:
                other = self.place[index] + self.order.choice((-NEARBY, -2, -1, 1, 2, NEARBY))
                return _shift(index, self.free[min(max(other, 0), len(self.free) - 1)])(at)
        if kept and kind < FLIPS + SHIFTS + DROPS:
            return _flip_output(self.order.choice(kept))(at)
        swaps = _cut_changes(self.cut_graph, at) if self.order.random() < 1 / 2 else []
        return self.order.choice(swaps or [_flip_whole(self.order.choice(self.groups))])(at)


def single_nodes(space: PlanSpace) -> list[int]:
    """Nodes that are kept or not one by one; none of a network that is too large for that."""
    if is_large(space):
        return []
    nodes = space.graph.nodes
    least = sum(nodes[index].output_bytes for index in space.operators) // SMALLEST_SHARE
    large = [i for i in space.operators if i not in space.fixed and nodes[i].output_bytes >= max(1, least)]
    return large if len(large) <= MOST_SINGLE_NODES else []


def _cut_changes(cut_graph: CutGraph, at: Choice) -> list[Change]:
    """A kept cut dropped, or moved to where no other is kept."""
    cuts, changes = cut_graph.cuts, list[Change]()
    held = [number for number, cut in enumerate(cuts) if cut <= at.outputs]
    for number in held:
        changes.append(_swap(cuts[number], frozenset()))
        beside = [other for other in (number - 1, number + 1) if 0 <= other < len(cuts) and other not in held]
        changes += [_swap(cuts[number], cuts[other]) for other in beside]
    return changes


def _units(space: PlanSpace) -> list[frozenset[int]]:
    """Each convolution or matrix product with what follows it up to the next."""
    groups: dict[int, set[int]] = {}
    unit: dict[int, int] = {}
    for index in space.operators:
        node = space.graph.nodes[index]
        before = [unit[source] for source, _ in node.inputs if source in unit]
        unit[index] = index if is_matrix_work(node.op) or not before else max(before)
        groups.setdefault(unit[index], set()).add(index)
    return [frozenset(group) for group in groups.values()]


def _flip_output(index: int) -> Change:
    return lambda choice: Choice(choice.outputs ^ {index}, choice.whole - {index})


def _shift(index: int, other: int) -> Change:
    return lambda choice: Choice((choice.outputs - {index}) | {other}, choice.whole)


def _swap(leaving: frozenset[int], coming: frozenset[int]) -> Change:
    return lambda choice: Choice((choice.outputs - leaving) | coming, choice.whole)


def _flip_whole(group: frozenset[int]) -> Change:
    def change(choice: Choice) -> Choice:
        if group <= choice.whole:
            return Choice(choice.outputs, choice.whole - group)
        return Choice(choice.outputs, choice.whole | group)

    return change
