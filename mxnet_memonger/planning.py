"""From a network to zoo's planner and back: where it can be cut, what lies between, and the plans worth binding."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

from mxnet_memonger.mirror_plan import MirrorPlan, PlanSpace
from mxnet_memonger.symbol_graph import BYTES_A_VALUE, Entry, SymbolGraph
from zoo.planner import CutChain, CutPlan, CutSet, cut_sets

SHORT_LIFE = 16  # cuts in a row that a value is part of, at most, for it to be counted with each of them
MOST_CUTS = 400  # candidates; of more, evenly spread ones


@dataclass(frozen=True)
class CutGraph:
    """The places where a network can be cut, in its order, and the nodes between them.

    Args:
        space: the network.
        cuts: places where little is alive: for a chain of blocks one output each, for a recurrent net a time step's
            states. The user's `mirror_stage` marks are among them.
        gaps: operators before, between and after them; one more than `cuts`.
        chains: the same in bytes and FLOPs, for zoo's planner, which counts a cut's bytes whatever cut is kept before
            it. What several cuts share counts with each of them in the first chain, unless it lives long, and with
            the first of them alone in the second: one is right for cuts far from one another, one for neighbours.
    """

    space: PlanSpace
    cuts: tuple[frozenset[int], ...]
    gaps: tuple[frozenset[int], ...]
    chains: tuple[CutChain, ...]

    @classmethod
    def of(cls, space: PlanSpace, most: int = MOST_CUTS) -> CutGraph:
        """Find the cuts of a network."""
        cuts = find_cuts(space.graph, most)
        positions = [cut.position for cut in cuts]
        outputs = tuple(frozenset(cut.nodes) & frozenset(space.operators) for cut in cuts)
        edges = [-1, *positions, len(space.graph.nodes) - 1]
        gaps = tuple(
            frozenset(index for index in space.operators if low < index <= high)
            - frozenset().union(*outputs[max(place - 1, 0) : place + 1])
            for place, (low, high) in enumerate(itertools.pairwise(edges))
        )
        inside = tuple(_inside_bytes(space, gap) for gap in gaps)
        work = tuple(float(space.graph.recomputed_flops(gap - space.fixed)) for gap in gaps)
        counted = (_counted_bytes(space, outputs, short) for short in (max(SHORT_LIFE, len(outputs) // 8), 1))
        return cls(space, outputs, gaps, tuple(CutChain(sizes, inside, work) for sizes in dict.fromkeys(counted)))

    def plan(self, found: CutPlan) -> MirrorPlan:
        """What zoo's planner found, as nodes."""
        outputs = frozenset[int]().union(*(self.cuts[cut] for cut in found.cuts))
        whole = frozenset[int]().union(*(self.gaps[gap] for gap in found.whole))
        for gap in found.whole:  # a gap that is kept whole needs no copies at its ends
            whole |= self.cuts[gap] if gap < len(self.cuts) else frozenset()
        return self.space.keeping(outputs, whole)


def find_cuts(graph: SymbolGraph, most: int = MOST_CUTS) -> list[CutSet]:
    """Where few bytes are alive between two operators, parameters not counted; the user's marks are honoured."""
    sources: list[tuple[int, ...]] = []
    sizes: list[int] = []
    for node in graph.nodes:
        read = dict.fromkeys(source for source, _ in node.inputs if not graph.nodes[source].is_variable)
        sources.append(tuple(read))
        sizes.append(0 if node.is_variable else _largest_output(node.shapes))
    least = {cut.position for cut in cut_sets(sources, sizes)}
    marked = _marked_positions(graph)
    # Where one value alone is alive is a cut even if no minimum: in a chain of equal sizes nothing is a minimum.
    every = cut_sets(sources, sizes, only_minima=False)
    found = [cut for cut in every if cut.position in least | marked or len(cut.nodes) == 1]
    return _thin_out(found, most)


def _counted_bytes(space: PlanSpace, cuts: tuple[frozenset[int], ...], short: int) -> tuple[int, ...]:
    """Bytes of each cut; what is in more than `short` of them counts with the first alone."""
    lives: dict[int, list[int]] = {}
    for place, nodes in enumerate(cuts):
        for index in nodes:
            lives.setdefault(index, []).append(place)
    sizes = [0] * len(cuts)
    for index, places in lives.items():
        for place in places if len(places) <= short else places[:1]:
            sizes[place] += space.graph.nodes[index].output_bytes
    return tuple(sizes)


def _largest_output(shapes: tuple[tuple[int, ...], ...]) -> int:
    return BYTES_A_VALUE * sum(math.prod(shape) for shape in shapes)


def _marked_positions(graph: SymbolGraph) -> set[int]:
    """After the last node of every `mirror_stage`: one that says True is a stage of its own."""
    last: dict[str, int] = {}
    for node in graph.nodes:
        if node.stage is not None and not node.is_variable:
            last[node.stage if node.stage != "True" else f"True {node.index}"] = node.index
    return set(last.values())


def _thin_out(cuts: list[CutSet], most: int) -> list[CutSet]:
    """Those with the fewest bytes (in a recurrent net: between two time steps), evenly spread where they tie."""
    if len(cuts) <= most:
        return cuts
    limit = sorted(cut.bytes for cut in cuts)[most - 1]
    smallest = [cut for cut in cuts if cut.bytes <= limit]
    step = max(1.0, len(smallest) / most)
    return [smallest[int(place * step)] for place in range(min(most, len(smallest)))]


def _inside_bytes(space: PlanSpace, gap: frozenset[int]) -> int:
    """What the backward passes of a gap read of it and of its inputs, and the largest gradient in it."""
    read: set[Entry] = set()
    for index in gap:
        read |= space.reads[index]
    total, largest = 0, 0
    for index in gap:
        node = space.graph.nodes[index]
        sizes = [BYTES_A_VALUE * math.prod(shape) for shape in node.shapes]
        total += sum(size for output, size in enumerate(sizes) if (index, output) in read)
        largest = max([largest, *sizes])
    return total + largest
