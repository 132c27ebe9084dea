"""Where a search starts from: zoo's planner's plans, the rule of Chen et al. 2016, and stages that a user numbered."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from mxnet_memonger.mirror_plan import Choice, PlanSpace
from mxnet_memonger.operators import is_matrix_work
from mxnet_memonger.planning import CutGraph
from zoo.planner import CutPlan, CutSolver
from zoo.planner.falling_cuts import falling_frontier

LARGE = 4800  # operators from which only a few dozen plans can be bound
MOST_PROPOSALS = 24  # of the planner's plans that are bound for a network so large
PILES = (4, 6, 9, 13, 20, 30, 45, 10**9)  # into how many parts a network's outputs are divided
STAGES_APART = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32)


def is_large(space: PlanSpace) -> bool:
    """Whether a bind takes so long that single nodes are not tried."""
    return len(space.operators) > LARGE


def starts(space: PlanSpace, cuts: CutGraph, brief: bool = False) -> Iterator[Choice]:
    """The unplanned network, plans that keep stages, every cut, every cheap node, then what zoo's planner finds.

    Args:
        space, cuts: the network.
        brief: of a network whose stages are numbered, those plans and that rule's alone.
    """
    yield Choice(frozenset(), frozenset(space.operators))
    numbered = list(stages(space))
    yield from numbered
    yield from piles(space)
    if numbered and brief:
        return
    yield every_cut(cuts)
    yield Choice(frozenset(free_to_keep(space)))
    for chain in cuts.chains if cuts.cuts else ():
        for plan in falling_frontier(chain):
            yield _choice(cuts, plan)
        found = CutSolver(chain).frontier()
        step = max(1, len(found) // MOST_PROPOSALS)
        for plan in found[:: step if is_large(space) else 1]:
            yield _choice(cuts, plan)


def every_cut(cuts: CutGraph) -> Choice:
    """Keep all places where the network can be cut."""
    return Choice(frozenset[int]().union(*cuts.cuts))


def tails(space: PlanSpace, cuts: CutGraph, choice: Choice) -> Iterator[Choice]:
    """A plan with the end of the network kept, from each cut on: all of it, and its convolutions and products alone.

    The backward pass frees what is kept there before it needs the most.
    """
    products = frozenset(index for index in space.operators if is_matrix_work(space.graph.nodes[index].op))
    for start in sorted({min(cut) for cut in cuts.cuts}):
        tail = frozenset(index for index in space.operators if index >= start)
        yield Choice(choice.outputs - tail, choice.whole | tail)
        yield Choice(choice.outputs, choice.whole | (tail & products))


def _choice(cuts: CutGraph, plan: CutPlan) -> Choice:
    mirror_plan = cuts.plan(plan)
    whole = frozenset[int]().union(*(cuts.gaps[gap] for gap in plan.whole)) & mirror_plan.kept
    return Choice((mirror_plan.kept | mirror_plan.copied) - whole, whole)


def piles(space: PlanSpace) -> Iterator[Choice]:
    """Keep a node whenever so much has piled up since the last, of the user's marked ones, or of the cheap ones.

    The rule of Chen et al. 2016 (arXiv:1604.06174, algorithm 3): where it does well, no search does worse.
    """
    nodes = space.graph.nodes
    marked = frozenset(index for index in space.operators if nodes[index].stage is not None)
    cheap = frozenset(i for i in space.operators if i not in space.fixed and not space.holds_inputs(i))
    total = sum(nodes[index].output_bytes for index in space.operators)
    for family in (marked, cheap) if not is_large(space) else ():
        for parts in PILES if family else ():
            kept, local = set[int](), 0
            for index in space.operators:
                local += nodes[index].output_bytes
                if index in family and local * parts > total:
                    kept.add(index)
                    local = 0
            yield Choice(frozenset(kept))


def stages(space: PlanSpace) -> Iterator[Choice]:
    """Keep every so-manieth of the stages that the user has numbered, and each value marked as its own stage.

    Also more and more of them towards the end: when the last stretches run backward, all that is kept is there.
    """
    numbered: dict[str, dict[str, set[int]]] = {}
    alone = set[int]()
    for index in space.operators:
        stage = space.graph.nodes[index].stage
        series, _, number = (stage or "").rpartition(".")
        if number.isdecimal():
            numbered.setdefault(series, {}).setdefault(number, set()).add(index)
        elif stage is not None:
            alone.add(index)
    longest = max(map(len, numbered.values()), default=0)
    for apart in (apart for apart in STAGES_APART if apart <= longest / 2 or apart == 1 <= longest):
        for places in dict.fromkeys((tuple(range(apart - 1, longest, apart)), nearing(longest, apart))):
            chosen = [
                itertools.chain.from_iterable(list(series.values())[place] for place in places if place < len(series))
                for series in numbered.values()
            ]
            yield Choice(frozenset(alone).union(*chosen))


def nearing(count: int, first: int) -> tuple[int, ...]:
    """Places among `count`, `first` apart at the start and one apart at the end, evenly less between.

    Example:
        >>> nearing(12, 4)
        (3, 6, 8, 9, 10, 11)
    """
    found, place, apart = [], -1, float(first)
    while place < count - 1:
        place = min(place + max(1, round(apart)), count - 1)
        found.append(place)
        apart = first * (1 - (place + 1) / count)
    return tuple(found)


def free_to_keep(space: PlanSpace) -> Iterator[int]:
    """Sums and concatenations: kept, they hold nothing beside their outputs."""
    nodes = space.graph.nodes
    for index in space.operators:
        if not space.reads[index] and len(nodes[index].inputs) > 1 and not is_matrix_work(nodes[index].op):
            yield index
