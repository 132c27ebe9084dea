"""What plans of one network cost, each asked for once: as MXNet's planner counts it, or as a replay of it does."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from mxnet_memonger.costs import Costs
from mxnet_memonger.mirror_plan import Choice, MirrorPlan, PlanSpace

OVERHEAD = 100  # a plan's cost takes about as long as one of so many more operators, whose own time were all


@dataclass(frozen=True)
class Point:
    """A plan, what MXNet allocates for it, and the work done again."""

    choice: Choice
    plan: MirrorPlan
    bytes: int
    flops: int


@dataclass
class Ledger:
    """Plans and their costs, until so much work is done.

    Args:
        space: the network.
        costs: says what a plan costs.
        flops: says what work it does again.
        work: in operators of plans, after which nothing new is to be asked for.
    """

    space: PlanSpace
    costs: Costs
    flops: Callable[[MirrorPlan], int]
    work: int
    points: dict[MirrorPlan, Point] = field(default_factory=dict)
    _ahead: dict[MirrorPlan, int] = field(default_factory=dict)  # known, but not yet asked for

    @property
    def is_over(self) -> bool:
        """Whether the work is done."""
        return self.work <= 0

    @property
    def work_of_a_plan(self) -> int:
        """What one costs."""
        return OVERHEAD + len(self.space.operators)

    def point(self, choice: Choice) -> Point:
        """One plan and its cost."""
        plan = self.space.keeping(choice.outputs, choice.whole)
        if plan not in self.points:
            self._learn([choice])
            self.work -= self.work_of_a_plan
            self.points[plan] = Point(choice, plan, self._ahead.pop(plan), self.flops(plan))
        return self.points[plan]

    def glimpse(self, choice: Choice) -> Point:
        """One plan and its cost, which is not remembered: for many thousands of plans that nobody asks for again."""
        plan = self.space.keeping(choice.outputs, choice.whole)
        if plan in self.points:
            return self.points[plan]
        self.work -= self.work_of_a_plan
        return Point(choice, plan, self.costs.many([plan])[0], self.flops(plan))

    def remember(self, point: Point) -> None:
        """Keep what was only glimpsed."""
        self.points.setdefault(point.plan, point)

    def in_turn(self, choices: Iterable[Choice]) -> Iterator[Choice]:
        """The choices one by one; costs of some are found out together. Whether one is looked at is still open."""
        rest = iter(choices)
        while some := list(itertools.islice(rest, self.costs.batch)):
            if len(some) > 1:
                self._learn(some)
            yield from some

    def frontier(self) -> list[Point]:
        """Points none of which needs both more memory and more work than another, from least memory to least work."""
        found: list[Point] = []
        for point in sorted(self.points.values(), key=lambda point: (point.bytes, point.flops)):
            if not found or point.flops < found[-1].flops:
                found.append(point)
        return found

    def _learn(self, choices: Iterable[Choice]) -> None:
        plans = [self.space.keeping(choice.outputs, choice.whole) for choice in choices]
        new = [plan for plan in dict.fromkeys(plans) if plan not in self.points and plan not in self._ahead]
        self._ahead.update(zip(new, self.costs.many(new), strict=True))
