"""The search for a plan: from several starts, single changes are tried on a replay of MXNet's planner, then on itself.

What is found depends on the network and the settings alone: a search ends after so much work, not after so much time,
and it does not matter how many processes share that work.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from mxnet_memonger.changes import Change, Draws, single_changes
from mxnet_memonger.costs import Costs, ReplayedCosts
from mxnet_memonger.ledger import Ledger, Point
from mxnet_memonger.mirror_plan import Choice, PlanSpace
from mxnet_memonger.planning import CutGraph
from mxnet_memonger.replay import Replay
from mxnet_memonger.starts import is_large, stages, starts, tails

CLIMBS, TRIAL_SHARE = 3, 1 / 10  # of the best starts, that are tried first; of the work for each
LAST_SHARES = (0.5, 0.9)  # of what is left each time, for annealing from what then is best
TWICE = 0.3  # of the steps of annealing make two changes at once
KICK_CHANGES = 4
MOST_KICKS = 8  # in a row without a gain
HOTTEST, COLDEST = 0.01, 0.0002  # worsenings by this share are taken in one of e cases, at first and at last
REHEATED = 0.004  # where the last annealing begins, from what the one before has found
ENOUGH = 0.0005  # a round of changes that gains less than this share is the last
LEAST_BOUND = 8  # of what was replayed; where there is work for more, a quarter of what may be bound
REPLAYS = 400  # times the work may be replayed, in about four seconds a trial
BIND_SHARE = 1 / 3  # of the work, where plans are replayed first
WITHOUT_REPLAYS, LARGE_WITHOUT = 4, 1.5  # times the work, where nothing is replayed; in a large network
FRONTIER_PART = 24  # of that work is for each point of the frontier
FEW_PRODUCTS = 0.7  # by number, for which a plan is told beside the frontier
SHARES = (0.1, 0.25, 0.5, 0.65, 0.8)  # of a forward pass done again, for which the frontier is searched
Rank = Callable[[Point], tuple[float, ...]]


@dataclass(frozen=True)
class Unplanned:
    """What the network without a plan tells: its executor's debug text, and the nodes that were marked when it came."""

    debug_text: str
    marked: frozenset[int]


@dataclass
class Search:
    """The means to find plans of one network.

    Args:
        space: the network.
        cut_graph: where it can be cut.
        bound: plans that were bound.
        drafts: plans that were replayed.
        frontier_work: of replaying, for each point of the frontier that is searched.
        as_it_came: the network with the marks that it had, than which nothing worse is to be found.
        seed: of the order in which changes are tried.
    """

    space: PlanSpace
    cut_graph: CutGraph
    bound: Ledger
    drafts: Ledger
    frontier_work: int
    as_it_came: Choice
    seed: int = 0

    @classmethod
    def of(cls, space: PlanSpace, costs: Costs, unplanned: Unplanned, work: int, seed: int) -> Search:
        """With nothing tried yet; `work` is of binding, in operators.

        Recurrent networks are not replayed: how their many small sums are ordered is not foreseen well.
        """
        cuts, came = CutGraph.of(space), Choice(frozenset(), frozenset(space.operators) - unplanned.marked)
        if is_large(space) or any(stages(space)):
            times = LARGE_WITHOUT if is_large(space) else WITHOUT_REPLAYS
            bound = Ledger(space, costs, space.flops, int(times * work))
            return cls(space, cuts, bound, bound, 0, came, seed)
        replay = Replay(space, unplanned.debug_text)
        bound = Ledger(space, costs, replay.flops_of, int(work * BIND_SHARE))
        drafts = Ledger(space, ReplayedCosts(replay), replay.flops_of, REPLAYS * work)
        return cls(space, cuts, bound, drafts, drafts.work // FRONTIER_PART, came, seed)

    def first(self, rank: Rank, brief: bool) -> Point:
        """The best place to start from, bound: of `starts.starts`, all are replayed, and the best of them bound."""
        half = self.drafts.work // 2
        for choice in self.drafts.in_turn(starts(self.space, self.cut_graph, brief)):
            self.drafts.point(choice)
            if self.drafts.work < half and not brief:
                break
        return self._bind_best(rank, LEAST_BOUND)

    def best(self, rank: Rank, frontier: bool) -> Point:
        """The best plan; with a frontier, also what is best for less and less work."""
        self._climb_all(self.drafts, rank)
        if frontier and self.drafts is not self.bound:
            self._bind_few_products(rank)
            self._search_frontier()
            found = self.drafts.frontier()
            most = max(LEAST_BOUND, self._binds() // 4)
            for place in range(0, len(found), max(1, len(found) // most)):
                self.bound.point(found[place].choice)
        self._bind_best(rank, max(LEAST_BOUND, self._binds() // 4))
        return self._climb_on(self.bound, min(self.bound.points.values(), key=rank), rank)

    def _binds(self) -> int:
        """How many plans may still be bound."""
        return self.bound.work // self.bound.work_of_a_plan

    def _bind_best(self, rank: Rank, count: int) -> Point:
        distinct = {rank(point): point for point in self.drafts.points.values()}
        ranked = [distinct[key] for key in sorted(distinct)[:count]]
        unplanned = Choice(frozenset(), frozenset(self.space.operators))
        choices = [*(point.choice for point in ranked), self.as_it_came, unplanned]
        points = [self.bound.point(choice) for choice in self.bound.in_turn(choices)]
        return min(points, key=rank)

    def _climb_all(self, ledger: Ledger, rank: Rank) -> Point:
        """Anneal from each of the best starts for a while, then from what is best."""
        ranked = sorted(ledger.points.values(), key=rank)[:CLIMBS]
        share = int(ledger.work * TRIAL_SHARE)
        for start in ranked:
            if not ledger.is_over:
                self.anneal(ledger, start, rank, share)
        for part, heat in zip(LAST_SHARES, (HOTTEST, REHEATED), strict=True):
            self.anneal(ledger, min(ledger.points.values(), key=rank), rank, int(ledger.work * part), heat)
        return self._climb_on(ledger, min(ledger.points.values(), key=rank), rank)

    def _climb_on(self, ledger: Ledger, start: Point, rank: Rank) -> Point:
        """Climb; where that ends, lead away by a few random changes at once, until that fails some times in a row."""
        best = self.climb(ledger, start, rank, ledger.work)
        order, kicks = random.Random(self.seed), 0
        while kicks < MOST_KICKS and not ledger.is_over:
            choice = best.choice
            for change in self._changes(best, order)[:KICK_CHANGES]:
                choice = change(choice)
            kicked = self.climb(ledger, ledger.point(choice), rank, ledger.work)
            kicks = 0 if rank(kicked) < rank(best) else kicks + 1
            best = min(best, kicked, key=rank)
        return best

    def _search_frontier(self) -> None:
        """Replay what is best for some shares of a forward pass done again."""
        total = self.space.graph.recomputed_flops(self.space.operators)
        for share in SHARES:
            rank = within_work(share * total)
            start = min(self.drafts.points.values(), key=rank)
            self.drafts.work = max(self.drafts.work, 0) + self.frontier_work
            self.anneal(self.drafts, start, rank, self.frontier_work)

    def _bind_few_products(self, rank: Rank) -> None:
        """Bind, of the best plans with their ends kept, the one of least memory that runs few products again."""
        best = sorted(self.drafts.points.values(), key=rank)[:CLIMBS]
        choices = [choice for point in best for choice in tails(self.space, self.cut_graph, point.choice)]
        ends = sorted((self.drafts.point(choice) for choice in choices), key=lambda point: point.bytes)
        few = next((point for point in ends if self.runs_few_products_again(point)), None)
        if few is not None:
            self.bound.point(few.choice)

    def runs_few_products_again(self, point: Point) -> bool:
        """Whether a plan does with at most 70 % of the convolutions and matrix products, by number."""
        return self.space.graph.matrix_share(self.space.mirrored(point.plan)) <= FEW_PRODUCTS

    def climb(self, ledger: Ledger, start: Point, rank: Rank, work: int) -> Point:
        """Change one thing at a time, as long as it improves the rank (less is better) and work is left."""
        best, order, least = start, random.Random(self.seed), max(0, ledger.work - work)
        while ledger.work > least:
            before = rank(best)
            changes = self._changes(best, order)
            place = 0
            while place < len(changes) and ledger.work > least:
                at = best.choice
                for choice in ledger.in_turn(change(at) for change in changes[place:]):
                    place += 1
                    found = ledger.point(choice)
                    if rank(found) < rank(best):  # changes to come start from there
                        best = found
                        break
                    if ledger.work <= least:
                        break
            if not _is_better_by(before, rank(best), ENOUGH):
                break
        return best

    def anneal(self, ledger: Ledger, start: Point, rank: Rank, work: int, hottest: float = HOTTEST) -> Point:
        """Change one thing or two at a time, at first also for the worse, until so much work is done.

        After Kirkpatrick, Gelatt and Vecchi 1983.
        """
        at = best = start
        order = random.Random(self.seed)
        draws = Draws(self.space, self.cut_graph, order)
        steps = work // ledger.work_of_a_plan  # known plans count too: a small network has no others
        for step in range(steps if draws.groups else 0):
            if ledger.is_over:
                break
            heat = hottest * (COLDEST / hottest) ** (step / steps)
            choice = draws.change(at.choice)
            found = ledger.glimpse(draws.change(choice) if order.random() < TWICE else choice)
            worse = _worsening(rank(at), rank(found))
            if worse <= 0 or order.random() < math.exp(-worse / heat):
                at = found
                if rank(at) < rank(best):
                    best = at
                    ledger.remember(at)
        return best

    def _changes(self, at: Point, order: random.Random) -> list[Change]:
        return single_changes(self.space, self.cut_graph, at.choice, order)


def within_work(most_flops: float) -> Rank:
    """The least memory with at most so many FLOPs done again."""
    return lambda point: (max(0.0, point.flops - most_flops), point.bytes, point.flops)


def _worsening(before: tuple[float, ...], after: tuple[float, ...]) -> float:
    """By which share the first figure that differs has grown."""
    for old, new in zip(before, after, strict=True):
        if old != new:
            return (new - old) / max(abs(old), 1.0)
    return 0.0


def _is_better_by(before: tuple[float, ...], after: tuple[float, ...], share: float) -> bool:
    for old, new in zip(before, after, strict=True):
        if old != new:
            return old - new > share * abs(old)
    return False
