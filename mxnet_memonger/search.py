"""The search for a plan: zoo's planner proposes cuts, then single changes are tried on the cost that MXNet counts."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from mxnet_memonger.binding import Binder
from mxnet_memonger.costs import Costs
from mxnet_memonger.mirror_plan import MirrorPlan, PlanSpace
from mxnet_memonger.operators import is_matrix_work
from mxnet_memonger.planning import CutGraph
from zoo.planner import CutSolver

SMALLEST_SHARE = 2000  # nodes with less than a two-thousandth of all bytes are not tried one by one
MOST_SINGLE_NODES = 1200
MOST_PROPOSALS = 24  # of the planner's plans that are bound before single changes
PILES = (4, 6, 9, 13, 20, 30, 45, 10**9)  # into how many parts a network's outputs are divided
STAGES_APART = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32)
NEARBY = 3  # how far a kept node is shifted, in nodes that may be kept
KICKS, KICK_CHANGES = 2, 4
TRIAL_SHARE = 1 / 8
ENOUGH = 0.0005  # a round of changes that gains less than this share is the last
T = TypeVar("T")
Rank = Callable[["Point"], tuple[float, ...]]


@dataclass(frozen=True)
class Choice:
    """What a plan is changed by: nodes whose outputs are kept, and nodes kept as they would be without a plan."""

    outputs: frozenset[int]
    whole: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Point:
    """A plan that was bound: what MXNet allocates for it, and the work done again."""

    choice: Choice
    plan: MirrorPlan
    bytes: int
    flops: int


@dataclass
class Search:
    """Everything that was bound so far for one network, and the means to bind more.

    Args:
        space: the network.
        cut_graph: where it can be cut.
        costs: binds plans.
        binder: of the network in this process.
        deadline: of `time.monotonic()`, after which nothing new is tried.
        seed: of the order in which changes are tried.
    """

    space: PlanSpace
    cut_graph: CutGraph
    costs: Costs
    binder: Binder
    deadline: float
    seed: int = 0
    points: dict[MirrorPlan, Point] = field(default_factory=dict)

    @property
    def is_over(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() >= self.deadline

    def bind(self, choices: Iterable[Choice]) -> list[Point]:
        """Points of these choices; those already known are not bound again."""
        chosen = [(choice, self.space.keeping(choice.outputs, choice.whole)) for choice in choices]
        new = list(dict.fromkeys(plan for _, plan in chosen if plan not in self.points))
        known = {plan: choice for choice, plan in chosen}
        for plan, size in zip(new, self.costs.many(new), strict=True):
            self.points[plan] = Point(known[plan], plan, size, self.space.flops(plan))
        return [self.points[plan] for _, plan in chosen]

    def propose(self, brief: bool = False) -> None:
        """Bind where to start from: the unplanned network, the planner's plans, every cut kept, every cheap node.

        Of a recurrent network also plans that keep the states of every so many time steps; if `brief`, those alone.
        """
        cuts, space = self.cut_graph, self.space
        everything = Choice(frozenset(), frozenset(space.operators))
        stages = list(self._stages())
        if stages:
            for some in _batches([everything, *stages], max(4, self.costs.batch)):
                self.bind(some)
                if self.is_over:
                    return
            if brief:
                return
        every_cut = frozenset[int]().union(*cuts.cuts)
        starts = [everything, Choice(every_cut), Choice(frozenset(self._free_to_keep())), *self._piles()]
        for chain in cuts.chains if cuts.cuts else ():
            found = CutSolver(chain).frontier()
            step = max(1, len(found) // MOST_PROPOSALS)
            for plan in found[:: step if self.costs_much else 1]:
                mirror_plan = cuts.plan(plan)
                whole = frozenset[int]().union(*(cuts.gaps[gap] for gap in plan.whole)) & mirror_plan.kept
                starts.append(Choice((mirror_plan.kept | mirror_plan.copied) - whole, whole))
        for some in _batches(starts, max(4, self.costs.batch)):
            self.bind(some)
            if self.is_over:
                return

    @property
    def costs_much(self) -> bool:
        """Whether the network is so large that only a few dozen plans can be bound."""
        return len(self.space.operators) > 4 * MOST_SINGLE_NODES

    def _piles(self) -> Iterator[Choice]:
        """Keep a node whenever so much has piled up since the last, of the user's marked ones, or of the cheap ones.

        The rule of Chen et al. 2016 (arXiv:1604.06174, algorithm 3): where it does well, no search does worse.
        """
        nodes, space = self.space.graph.nodes, self.space
        marked = frozenset(index for index in space.operators if nodes[index].stage is not None)
        cheap = frozenset(i for i in space.operators if i not in space.fixed and not space.holds_inputs(i))
        total = sum(nodes[index].output_bytes for index in space.operators)
        for family in (marked, cheap) if not self.costs_much else ():
            for parts in PILES if family else ():
                kept, local = set[int](), 0
                for index in space.operators:
                    local += nodes[index].output_bytes
                    if index in family and local * parts > total:
                        kept.add(index)
                        local = 0
                yield Choice(frozenset(kept))

    def _stages(self) -> Iterator[Choice]:
        """Keep every so-manieth of the stages that the user has numbered, and each value marked as its own stage."""
        numbered: dict[str, dict[str, set[int]]] = {}
        alone = set[int]()
        for index in self.space.operators:
            stage = self.space.graph.nodes[index].stage
            series, _, number = (stage or "").rpartition(".")
            if number.isdecimal():
                numbered.setdefault(series, {}).setdefault(number, set()).add(index)
            elif stage is not None:
                alone.add(index)
        longest = max(map(len, numbered.values()), default=0)
        for apart in (apart for apart in STAGES_APART if apart <= longest / 2 or apart == 1 <= longest):
            chosen = [list(series.values())[apart - 1 :: apart] for series in numbered.values()]
            yield Choice(frozenset(alone).union(*itertools.chain.from_iterable(chosen)))

    def _free_to_keep(self) -> Iterator[int]:
        """Sums and concatenations: kept, they hold nothing beside their outputs."""
        nodes = self.space.graph.nodes
        for index in self.space.operators:
            if not self.space.reads[index] and len(nodes[index].inputs) > 1 and not is_matrix_work(nodes[index].op):
                yield index

    def best(self, rank: Rank) -> Point:
        """The best point after climbing from every cut, from the cheap nodes, and from the best start.

        Each gets an eighth of the time, what then is best the rest. Where that ends before its time, a few random
        changes at once lead away from it, and the climb starts anew, until that fails twice.
        """
        free = Choice(frozenset(self._free_to_keep()))
        every_cut = Choice(frozenset[int]().union(*self.cut_graph.cuts))
        starts = dict.fromkeys([every_cut, free, min(self.points.values(), key=rank).choice])
        found = self.bind(starts) if not self.is_over else []
        share = (self.deadline - time.monotonic()) * TRIAL_SHARE
        for start in found:
            self.climb(start, rank, time.monotonic() + share)
        best = self.climb(min(self.points.values(), key=rank), rank, self.deadline)
        kicks, order = 0, random.Random(self.seed)
        while kicks < KICKS and not self.is_over:
            choice = best.choice
            for change in self._changes(best, order)[:KICK_CHANGES]:
                choice = change(choice)
            kicked = self.climb(self.bind([choice])[0], rank, self.deadline)
            kicks = 0 if rank(kicked) < rank(best) else kicks + 1
            best = min(best, kicked, key=rank)
        return best

    def climb(self, start: Point, rank: Rank, deadline: float) -> Point:
        """Change one thing at a time, as long as it improves the rank (less is better) and there is time."""
        best, order = start, random.Random(self.seed)
        while time.monotonic() < deadline:
            before = rank(best)
            for changes in _batches(self._changes(best, order), self.costs.batch):
                if time.monotonic() >= deadline:
                    break
                # A change is one of the best at the time it was thought of; after an improvement it starts from there.
                found = min(self.bind(change(best.choice) for change in changes), key=rank)
                if rank(found) < rank(best):
                    best = found
            if not _is_better_by(before, rank(best), ENOUGH):
                break
        return best

    def _changes(self, at: Point, order: random.Random) -> list[Callable[[Choice], Choice]]:
        """Every single change worth trying, in random order; those of large outputs tend to come first."""
        changes: list[Callable[[Choice], Choice]] = []
        nodes = self._single_nodes()
        bytes_of = {index: self.space.graph.nodes[index].output_bytes for index in nodes}
        weights: list[float] = []
        place = {index: number for number, index in enumerate(nodes)}
        for index in nodes:
            own = [_flip_output(index)]
            if index in at.choice.outputs:
                near = range(max(0, place[index] - NEARBY), min(len(nodes), place[index] + NEARBY + 1))
                own += [_shift(index, nodes[other]) for other in near if nodes[other] != index]
            changes += own
            weights += [bytes_of[index] / max(bytes_of.values()) + 0.05] * len(own)
        cuts = self.cut_graph.cuts
        if self.costs_much or not nodes:
            held = [number for number, cut in enumerate(cuts) if cut <= at.choice.outputs]
            for number in held:
                changes.append(_swap(cuts[number], frozenset()))
                beside = [other for other in (number - 1, number + 1) if 0 <= other < len(cuts) and other not in held]
                changes += [_swap(cuts[number], cuts[other]) for other in beside]
        if not self.costs_much:
            changes += [_flip_whole(group) for group in (*self.cut_graph.gaps, *self._units()) if group]
        weights += [0.3] * (len(changes) - len(weights))
        drawn = [order.random() ** (1 / weight) for weight in weights]  # Efraimidis and Spirakis 2006
        return [changes[place] for place in sorted(range(len(changes)), key=drawn.__getitem__, reverse=True)]

    def _single_nodes(self) -> list[int]:
        if self.costs_much:
            return []
        nodes, fixed = self.space.graph.nodes, self.space.fixed
        least = sum(nodes[index].output_bytes for index in self.space.operators) // SMALLEST_SHARE
        large = [i for i in self.space.operators if i not in fixed and nodes[i].output_bytes >= max(1, least)]
        return large if len(large) <= MOST_SINGLE_NODES else []

    def _units(self) -> list[frozenset[int]]:
        """Each convolution or matrix product with what follows it up to the next."""
        groups: dict[int, set[int]] = {}
        unit: dict[int, int] = {}
        for index in self.space.operators:
            node = self.space.graph.nodes[index]
            before = [unit[source] for source, _ in node.inputs if source in unit]
            unit[index] = index if is_matrix_work(node.op) or not before else max(before)
            groups.setdefault(unit[index], set()).add(index)
        return [frozenset(group) for group in groups.values()]

    def frontier(self) -> list[Point]:
        """Points none of which needs both more memory and more work than another, from least memory to least work."""
        found: list[Point] = []
        for point in sorted(self.points.values(), key=lambda point: (point.bytes, point.flops)):
            if not found or point.flops < found[-1].flops:
                found.append(point)
        return found


def _flip_output(index: int) -> Callable[[Choice], Choice]:
    return lambda choice: Choice(choice.outputs ^ {index}, choice.whole - {index})


def _shift(index: int, other: int) -> Callable[[Choice], Choice]:
    return lambda choice: Choice((choice.outputs - {index}) | {other}, choice.whole)


def _swap(leaving: frozenset[int], coming: frozenset[int]) -> Callable[[Choice], Choice]:
    return lambda choice: Choice((choice.outputs - leaving) | coming, choice.whole)


def _flip_whole(group: frozenset[int]) -> Callable[[Choice], Choice]:
    def change(choice: Choice) -> Choice:
        if group <= choice.whole:
            return Choice(choice.outputs, choice.whole - group)
        return Choice(choice.outputs, choice.whole | group)

    return change


def _batches(items: Iterable[T], size: int) -> Iterator[Sequence[T]]:
    rest = iter(items)
    while some := list(itertools.islice(rest, size)):
        yield some


def _is_better_by(before: tuple[float, ...], after: tuple[float, ...], share: float) -> bool:
    for old, new in zip(before, after, strict=True):
        if old != new:
            return old - new > share * abs(old)
    return False
