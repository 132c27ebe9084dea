"""The search for a plan: from several starts, single changes are tried on the cost that MXNet counts.

What is found depends on the network and the settings alone: a search ends after so much work, not after so much time,
and it does not matter how many processes share that work.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from mxnet_memonger.binding import Binder
from mxnet_memonger.changes import Change, single_changes
from mxnet_memonger.costs import Costs
from mxnet_memonger.mirror_plan import Choice, MirrorPlan, PlanSpace
from mxnet_memonger.planning import CutGraph
from mxnet_memonger.starts import every_cut, free_to_keep, starts

BIND_OVERHEAD = 100  # a bind takes about as long as one of so many more operators, whose own time were all
CLIMBS, TRIAL_SHARE = 4, 1 / 10  # of the best starts, that are climbed from first; of the work for each
KICK_CHANGES = 4
MOST_KICKS = 6  # in a row without a gain
ENOUGH = 0.0005  # a round of changes that gains less than this share is the last
Rank = Callable[["Point"], tuple[float, ...]]


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
        work: of binding, in operators bound, after which nothing new is tried.
        seed: of the order in which changes are tried.
    """

    space: PlanSpace
    cut_graph: CutGraph
    costs: Costs
    binder: Binder
    work: int
    seed: int = 0
    points: dict[MirrorPlan, Point] = field(default_factory=dict)
    _ahead: dict[MirrorPlan, int] = field(default_factory=dict)  # bound, but not yet asked for

    @property
    def is_over(self) -> bool:
        """Whether the work is done."""
        return self.work <= 0

    def propose(self, brief: bool = False) -> None:
        """Bind where to start from; see `starts.starts`."""
        for choice in self._bound_ahead(starts(self.space, self.cut_graph, brief)):
            if self.is_over and not brief:
                return
            self.point(choice)

    def point(self, choice: Choice) -> Point:
        """Bind one plan, if it was not bound before."""
        plan = self.space.keeping(choice.outputs, choice.whole)
        if plan not in self.points:
            self._bind_ahead([choice])
            self.work -= BIND_OVERHEAD + len(self.space.operators)
            self.points[plan] = Point(choice, plan, self._ahead.pop(plan), self.space.flops(plan))
        return self.points[plan]

    def best(self, rank: Rank) -> Point:
        """The best point after climbing from every cut, the cheap nodes, and the best starts.

        Each gets a tenth of the work, what then is best the rest. Where that ends before its time, a few random
        changes at once lead away from it, and the climb starts anew, until that fails some times in a row.
        """
        free = Choice(frozenset(free_to_keep(self.space)))
        ranked = sorted(self.points.values(), key=rank)[:CLIMBS]
        share = int(self.work * TRIAL_SHARE)
        for choice in dict.fromkeys([*(point.choice for point in ranked), every_cut(self.cut_graph), free]):
            if not self.is_over:
                self.climb(self.point(choice), rank, share)
        best = self.climb(min(self.points.values(), key=rank), rank, self.work)
        order, kicks = random.Random(self.seed), 0
        while kicks < MOST_KICKS and not self.is_over:
            choice = best.choice
            for change in self._changes(best, order)[:KICK_CHANGES]:
                choice = change(choice)
            kicked = self.climb(self.point(choice), rank, self.work)
            kicks = 0 if rank(kicked) < rank(best) else kicks + 1
            best = min(best, kicked, key=rank)
        return best

    def climb(self, start: Point, rank: Rank, work: int) -> Point:
        """Change one thing at a time, as long as it improves the rank (less is better) and work is left."""
        best, order, least = start, random.Random(self.seed), max(0, self.work - work)
        while self.work > least:
            before = rank(best)
            changes = self._changes(best, order)
            place = 0
            while place < len(changes) and self.work > least:
                at = best.choice
                for choice in self._bound_ahead(change(at) for change in changes[place:]):
                    place += 1
                    found = self.point(choice)
                    if rank(found) < rank(best):  # changes to come start from there
                        best = found
                        break
                    if self.work <= least:
                        break
            if not _is_better_by(before, rank(best), ENOUGH):
                break
        return best

    def frontier(self) -> list[Point]:
        """Points none of which needs both more memory and more work than another, from least memory to least work."""
        found: list[Point] = []
        for point in sorted(self.points.values(), key=lambda point: (point.bytes, point.flops)):
            if not found or point.flops < found[-1].flops:
                found.append(point)
        return found

    def _changes(self, at: Point, order: random.Random) -> list[Change]:
        return single_changes(self.space, self.cut_graph, at.choice, order)

    def _bound_ahead(self, choices: Iterable[Choice]) -> Iterator[Choice]:
        """The choices one by one, some of them bound beforehand, all at once; whether one is looked at is still open."""
        rest = iter(choices)
        while some := list(itertools.islice(rest, self.costs.batch)):
            if len(some) > 1:
                self._bind_ahead(some)
            yield from some

    def _bind_ahead(self, choices: Iterable[Choice]) -> None:
        plans = [self.space.keeping(choice.outputs, choice.whole) for choice in choices]
        new = [plan for plan in dict.fromkeys(plans) if plan not in self.points and plan not in self._ahead]
        self._ahead.update(zip(new, self.costs.many(new), strict=True))


def _is_better_by(before: tuple[float, ...], after: tuple[float, ...], share: float) -> bool:
    for old, new in zip(before, after, strict=True):
        if old != new:
            return old - new > share * abs(old)
    return False
