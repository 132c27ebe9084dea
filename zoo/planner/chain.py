"""The chain solver: the fastest schedule of a chain of parts, several options each, under a byte budget.

Beaumont, Eyraud-Dubois, Herrmann, Joly, Shilova, "Optimal checkpointing for heterogeneous chains" (arXiv:1911.13214),
theorem 1, generalised to several options a part and to options that do not need their input again. Memory is counted
in equal slots; every schedule found is replayed to the byte, so that a budget is kept whatever the slots.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from zoo.planner.graph import CostGraph, check_bytes
from zoo.planner.schedule import Act, Operation, Schedule
from zoo.planner.smallest import smallest_schedule
from zoo.planner.tables import Tables
from zoo.planner.walk import Stretch, walk

MOST_SLOTS, FEWEST_SLOTS = 1000, 250
CELL_BUDGET = 2 * 10**8  # slots times thirds of triangles of parts: about a second


class InfeasibleBudgetError(ValueError):
    """No schedule fits the budget; `smallest_bytes` is the smallest budget for which there is one.

    Args:
        why: what stands in the way, in words.
    """

    def __init__(self, budget_bytes: int, smallest_bytes: int, why: str = "") -> None:
        super().__init__(
            f"a budget of {budget_bytes:,} bytes is too small: the smallest that works with these options is "
            f"{smallest_bytes:,} bytes{f'; {why}' if why else ''}"
        )
        self.budget_bytes, self.smallest_bytes = budget_bytes, smallest_bytes


def solve_chain(chain: CostGraph, budget_bytes: int, slots: int | None = None) -> Schedule:
    """The fastest schedule whose peak is within the budget.

    Optimal among schedules that keep a value until its part's backward, where all sizes are multiples of the memory
    slot (always, if their greatest common divisor allows it); near that otherwise. A larger budget never gives a
    slower schedule. For several budgets of one chain, make a `ChainSolver` once.

    Raises:
        InfeasibleBudgetError: too small; states the smallest budget.
        ValueError: the graph is not a chain.

    Example:
        >>> from zoo.planner import Option, Part
        >>> parts = [Part(str(i), 4, (Option("keep", 10, 1.0, 2.0),)) for i in range(4)]
        >>> chain = CostGraph.chain(parts)
        >>> [(s.peak_bytes, s.seconds) for s in (solve_chain(chain, budget) for budget in (48, 30))]
        [(48, 12.0), (30, 15.0)]
    """
    return ChainSolver(chain, slots).solve(budget_bytes)


class ChainSolver:
    """Tables of one chain, from which the schedule for any budget is read.

    Args:
        chain: L parts.
        slots: units in which the peak of keeping everything is counted; None = 1000, fewer for long chains.
            Time and memory grow with slots * L^3 / 6 and slots * L^2 * 8 bytes.

    Raises:
        ValueError: the graph is not a chain, or slots is less than 1.
    """

    def __init__(self, chain: CostGraph, slots: int | None = None) -> None:
        self.chain = chain
        self.smallest = smallest_schedule(chain)
        count = len(chain.parts)
        if slots is None:
            slots = int(np.clip(6 * CELL_BUDGET / count**3, FEWEST_SLOTS, MOST_SLOTS))
        if slots < 1:
            raise ValueError(f"slots must be at least 1, not {slots}")
        self.fastest = Schedule.of(chain, _keep_fastest(chain))
        # Half a slot each, for all that can lie there at once, and a few to spare; in long chains roundings up and down
        # cancel: a few standard deviations of their sum are enough.
        self._slack = min(count + 5, 4 * math.isqrt(count) + 20)
        self._unit = _slot_bytes(chain, max(self.fastest.peak_bytes, 1), slots)
        self._tables = Tables(chain, self._unit, -(-self.fastest.peak_bytes // self._unit) + self._slack)
        self._found: dict[int, Schedule] = {}

    def solve(self, budget_bytes: int) -> Schedule:
        """The fastest schedule within the budget; see `solve_chain`."""
        check_bytes("budget_bytes", budget_bytes)
        if budget_bytes < self.smallest.peak_bytes:
            raise InfeasibleBudgetError(budget_bytes, self.smallest.peak_bytes)
        room = min(self._tables.slots, budget_bytes // self._unit + self._slack)
        while room >= self._tables.least_room:
            schedule = self._schedule(room)
            if schedule.peak_bytes <= budget_bytes:
                return schedule
            # Far above the budget, one slot less will not do.
            room -= max(1, (schedule.peak_bytes - budget_bytes) // (4 * self._unit))
        return self.smallest

    def frontier(self, points: int = 32) -> list[Schedule]:
        """Schedules none of which is both larger and slower than another, from the smallest to the fastest."""
        low, high = self.smallest.peak_bytes, self.fastest.peak_bytes
        budgets = np.linspace(low, max(low, high), points).astype(np.int64)
        found: list[Schedule] = []
        for schedule in sorted((self.solve(int(b)) for b in budgets), key=lambda s: (s.peak_bytes, s.seconds)):
            if not found or schedule.seconds < found[-1].seconds:
                found.append(schedule)
        return found

    def _schedule(self, room: int) -> Schedule:
        if room not in self._found:
            whole = Stretch(room, 0, len(self.chain.parts) - 1)
            self._found[room] = Schedule.of(self.chain, walk(whole, self._tables.decide))
        return self._found[room]


def _keep_fastest(chain: CostGraph) -> Iterator[Operation]:
    """Every part once forward and once backward, by its fastest option."""
    for index, part in enumerate(chain.parts):
        options = range(len(part.options))
        best = min(options, key=lambda o: part.options[o].forward_seconds + part.options[o].backward_seconds)
        yield Operation(Act.FORWARD_KEEP_ALL, index, best)
    yield from (Operation(Act.BACKWARD, index) for index in reversed(range(len(chain.parts))))


def _slot_bytes(chain: CostGraph, top_bytes: int, slots: int) -> int:
    """Bytes of a slot: all sizes' greatest common divisor, if so many slots reach the top; else the top's share."""
    sizes = [chain.input_gradient_bytes]
    for part in chain.parts:
        sizes += [part.output_bytes, part.gradient_bytes, part.left_bytes]
        for option in part.options:
            sizes += [option.resident_bytes, option.forward_bytes, option.backward_bytes]
    divisor = max(math.gcd(*(int(size) for size in sizes)), 1)
    return divisor if top_bytes // divisor <= slots else -(-top_bytes // slots)
