"""All that the one-level planner can trade: memory against work, and the plan for a budget or a price."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from zoo.planner.chain import InfeasibleBudgetError
from zoo.planner.cuts import CutChain, CutPlan, caps, cheapest_cuts, least_memory_cuts, stretch_starts, work_before
from zoo.planner.graph import check_amount, check_bytes

SLOTS = 400
MOST_IN_SLOTS = 500  # candidates; of more, each is too small a share of all to be counted in slots
PRICES, PRICED_CAPS = 24, 40  # how many prices of work, and sizes of the largest stretch, are tried exactly


@dataclass(frozen=True, order=True)
class _Estimate:
    """A plan as the tables see it: peak in bytes (kept ones rounded to slots), work, and where to read it off."""

    peak_bytes: int
    work: float
    cap: int
    slots: int


class CutSolver:
    """Tables of one chain of candidates, from which plans for any budget or price are read.

    Args:
        chain: n candidates.
        slots: units in which kept bytes are counted while searching; each plan's figures are exact. Time grows with
            160 * slots * n * (candidates in a stretch). Beside that, and alone for more than 500 candidates, the
            convex hull of the frontier is found without slots.

    Raises:
        ValueError: less than one slot.

    Example:
        >>> solver = CutSolver(CutChain((1,) * 3, (4,) * 4, (1.0,) * 4))
        >>> [(plan.peak_bytes, plan.work) for plan in solver.frontier()]
        [(7, 4.0), (11, 3.0), (15, 2.0), (19, 0.0)]
        >>> solver.within(budget_bytes=16).work, solver.weighing(bytes_per_work=5).peak_bytes
        (2.0, 19)
    """

    def __init__(self, chain: CutChain, slots: int = SLOTS) -> None:
        if slots < 1:
            raise ValueError(f"slots must be at least 1, not {slots}")
        self.chain = chain
        self.smallest = least_memory_cuts(chain)
        self._priced = list(_least_priced(chain))
        self._unit = max(1, -(-(sum(chain.cut_bytes) + sum(chain.gap_bytes)) // slots))
        self._plans: dict[_Estimate, CutPlan] = {}
        self._table: tuple[int, _Table] | None = None
        all_caps = (0, *caps(chain)) if len(chain.cut_bytes) <= MOST_IN_SLOTS else ()
        estimates = [found for cap in all_caps for found in self._estimates(cap)]
        self._estimated: list[_Estimate] = []  # none both larger and more work than another, ascending in peak
        for estimate in sorted(estimates):
            if not self._estimated or estimate.work < self._estimated[-1].work:
                self._estimated.append(estimate)

    def frontier(self, points: int = 64) -> list[CutPlan]:
        """Plans none of which is both larger and more work than another, from the smallest to no work at all."""
        chosen = np.unique(np.linspace(0, len(self._estimated) - 1, points).round().astype(int))
        plans = [self.smallest, *self._priced]
        plans += [self._plan(self._estimated[index]) for index in chosen if self._estimated]
        found: list[CutPlan] = []
        for plan in sorted(plans, key=lambda plan: (plan.peak_bytes, plan.work)):
            if not found or plan.work < found[-1].work:
                found.append(plan)
        return found

    def within(self, budget_bytes: int) -> CutPlan:
        """The plan of least work whose peak is within the budget; a larger budget never gives more work.

        Raises:
            InfeasibleBudgetError: no cuts fit; states the smallest budget.
        """
        check_bytes("budget_bytes", budget_bytes)
        if budget_bytes < self.smallest.peak_bytes:
            raise InfeasibleBudgetError(budget_bytes, self.smallest.peak_bytes)
        fitting = [self.smallest, *(plan for plan in self._priced if plan.peak_bytes <= budget_bytes)]
        for estimate in reversed(self._estimated):
            if estimate.peak_bytes <= budget_bytes:
                plan = self._plan(estimate)
                if plan.peak_bytes <= budget_bytes:
                    fitting.append(plan)
                    break
        return min(fitting, key=lambda plan: (plan.work, plan.peak_bytes))

    def weighing(self, bytes_per_work: float) -> CutPlan:
        """The plan of least peak + bytes_per_work * work."""
        check_amount("bytes_per_work", bytes_per_work)

        def price(plan: CutPlan | _Estimate) -> float:
            return plan.peak_bytes + bytes_per_work * plan.work

        likely = sorted(self._estimated, key=price)[:8]
        return min([self.smallest, *self._priced, *(self._plan(estimate) for estimate in likely)], key=price)

    def _estimates(self, cap: int) -> list[_Estimate]:
        last = _Table(self.chain, cap, self._unit).least[-1] + work_before(self.chain)[-1]
        falls = np.isfinite(last) & np.append(True, last[1:] < last[:-1])
        return [
            _Estimate(int(s) * self._unit + cap, round(float(last[s]), 9), cap, int(s)) for s in np.flatnonzero(falls)
        ]

    def _plan(self, estimate: _Estimate) -> CutPlan:
        if estimate not in self._plans:
            if self._table is None or self._table[0] != estimate.cap:
                self._table = (estimate.cap, _Table(self.chain, estimate.cap, self._unit))
            self._plans[estimate] = self._table[1].plan(estimate.slots)
        return self._plans[estimate]


def _least_priced(chain: CutChain) -> Iterator[CutPlan]:
    """Plans of least peak + price * work: for prices of all sizes that matter, exactly."""
    work, size = float(work_before(chain)[-1]), sum(chain.cut_bytes) + sum(chain.gap_bytes)
    if not (work and size):
        return
    prices = size / work * np.geomspace(1e-3, 1e3, PRICES)
    all_caps = [0, *caps(chain)]
    for index in np.unique(np.linspace(0, len(all_caps) - 1, PRICED_CAPS).round().astype(int)):
        yield from cheapest_cuts(chain, all_caps[index], prices.tolist())


class _Table:
    """For one cap, the least work for every number of kept slots; gaps may be kept whole."""

    def __init__(self, chain: CutChain, cap: int, unit: int) -> None:
        self.chain, self.starts = chain, stretch_starts(chain, cap)
        count = len(chain.cut_bytes)
        self.cut_slots = [round(size / unit) for size in (*chain.cut_bytes, 0)]
        self.gap_slots = [round(size / unit) for size in chain.gap_bytes]
        self.slots = sum(self.cut_slots) + sum(self.gap_slots)
        self.done = work_before(chain)
        self.own = np.array([*chain.cut_work, 0.0])
        self.least = np.full((count + 2, self.slots + 1), np.inf)  # row c + 1: with c the last cut, less done[c + 1]
        self.least[0] = 0.0
        for end in range(count + 1):
            self._fill(end)

    def _fill(self, end: int) -> None:
        row = np.full(self.slots + 1, np.inf)
        if self.starts[end] < end:
            row = self.least[self.starts[end] + 1 : end + 1].min(axis=0) + (self.done[end + 1] - self.own[end])
        gap = self.gap_slots[end]
        whole = self.least[end, : len(row) - gap] + self.done[end]
        np.minimum(row[gap:], whole, out=row[gap:])
        offset = self.cut_slots[end]
        self.least[end + 1, offset:] = row[: len(row) - offset] - self.done[end + 1]

    def plan(self, slots: int) -> CutPlan:
        """The plan of least work that keeps so many slots."""
        cuts: list[int] = []
        whole: list[int] = []
        end = len(self.chain.cut_bytes)
        while end >= 0:
            if end < len(self.chain.cut_bytes):
                cuts.append(end)
            slots -= self.cut_slots[end]
            start = self.starts[end]
            column = self.least[start + 1 : end + 1, slots]
            redone = column.min() + (self.done[end + 1] - self.own[end]) if start < end else np.inf
            gap = self.gap_slots[end]
            kept = self.least[end, slots - gap] + self.done[end] if gap <= slots else np.inf
            if kept <= redone:
                whole.append(end)
                slots -= gap
                end -= 1
            else:
                end = start + int(column.argmin())
        return CutPlan.of(self.chain, cuts, whole)
