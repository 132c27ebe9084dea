"""The joint 0-1 programme of a small chain, solved by HiGHS: options, stretches that run again once, bytes and noise.

An oracle beside the dynamic programme: it knows a limit on noise exactly, but no stretches within stretches.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np

from zoo.planner.chain import InfeasibleBudgetError
from zoo.planner.graph import CostGraph
from zoo.planner.schedule import Schedule
from zoo.planner.steps import Steps, operations_of

MOST_PARTS = 16
Row = dict[int, float]


def solve_milp(chain: CostGraph, budget_bytes: int, max_noise: float | None = None) -> Schedule:
    """The fastest schedule within budget and noise whose stretches are run again as a whole, once.

    Args:
        chain: at most 16 parts, whose options keep their output and need their input.
        budget_bytes, max_noise: as `solve_quietly`.

    Raises:
        InfeasibleBudgetError: there is none; the smallest budget is not known to it: it states the budget itself.
        ValueError: too many parts, or options it does not know.

    Example:
        >>> from zoo.planner import Option, Part
        >>> parts = [Part(str(i), 4, (Option("keep", 10, 1.0, 2.0),)) for i in range(4)]
        >>> solve_milp(CostGraph.chain(parts), 30).seconds
        15.0
    """
    from scipy.optimize import Bounds, LinearConstraint, milp  # imported when asked: it takes half a second

    if len(chain.parts) > MOST_PARTS:
        raise ValueError(f"solve_milp takes at most {MOST_PARTS} parts, not {len(chain.parts)}: use solve_chain")
    if any(option.keeps_output is False or not option.needs_input for part in chain.parts for option in part.options):
        raise ValueError("solve_milp knows options that keep their output and need their input alone: use solve_chain")
    programme = _Programme(chain, budget_bytes)
    rows = list(programme.rows(max_noise))
    matrix = np.zeros((len(rows), programme.count))
    for number, (row, _, _) in enumerate(rows):
        for column, value in row.items():
            matrix[number, column] = value
    limits = LinearConstraint(matrix, [low for _, low, _ in rows], [high for _, _, high in rows])
    found = milp(programme.seconds(), constraints=limits, integrality=np.ones(programme.count), bounds=Bounds(0, 1))
    if found.x is None:
        raise InfeasibleBudgetError(budget_bytes, budget_bytes)
    steps, options = programme.read(found.x)
    return Schedule.of(chain, operations_of(steps, chain, options))


class _Programme:
    """Columns: a part kept by an option, a part within a stretch by an option, a stretch."""

    def __init__(self, chain: CostGraph, budget_bytes: int) -> None:
        self.parts, self.budget = chain.parts, budget_bytes
        self.after, self.input_gradient = chain.left_after, chain.input_gradient_bytes
        self.choices = [(i, o) for i, part in enumerate(chain.parts) for o in range(len(part.options))]
        self.stretches = [(s, e) for s, end in enumerate(chain.furthest_rerun) for e in range(s, end)]
        columns = itertools.count()
        self.kept = {choice: next(columns) for choice in self.choices}
        self.again = {choice: next(columns) for choice in self.choices}
        self.stretch = {stretch: next(columns) for stretch in self.stretches}
        self.count = next(columns)
        self.most = (
            10.0
            * sum(  # more than any moment needs
                part.output_bytes
                + part.gradient_bytes
                + part.left_bytes
                + option.resident_bytes
                + option.forward_bytes
                + option.backward_bytes
                for part in chain.parts
                for option in part.options
            )
            + self.input_gradient
        )

    def seconds(self) -> np.ndarray:
        """Of each column."""
        cost = np.zeros(self.count)
        for part, option in self.choices:
            chosen = self.parts[part].options[option]
            cost[self.kept[part, option]] = chosen.forward_seconds + chosen.backward_seconds
            cost[self.again[part, option]] = chosen.forward_seconds + chosen.backward_seconds
        for start, end in self.stretches:
            cost[self.stretch[start, end]] = sum(part.rerun.forward_seconds for part in self.parts[start : end + 1])
        return cost

    def rows(self, max_noise: float | None) -> Iterator[tuple[Row, float, float]]:
        """Coefficients by column, least and most."""
        for index, part in enumerate(self.parts):
            options = range(len(part.options))
            inside = {self.stretch[s, e]: -1.0 for s, e in self.stretches if s <= index <= e}
            yield {**{self.again[index, o]: 1.0 for o in options}, **inside}, 0, 0
            yield {column[index, o]: 1.0 for o in options for column in (self.kept, self.again)}, 1, 1
        if max_noise is not None:
            noise = {(i, o): self.parts[i].options[o].noise for i, o in self.choices}
            yield {column[c]: noise[c] for c in self.choices for column in (self.kept, self.again)}, 0, max_noise
        last = len(self.parts) - 1
        for (place, option), column in self.kept.items():
            yield self._moment(self._before(place), self._forward(place, option, last), [column])
            yield self._moment(self._before(place), self._backward(place, option), [column])
        for (start, end), stretch in self.stretch.items():
            yield self._moment(self._before(start), self._first_run(start, end, last), [stretch])
            for place in range(start, end + 1):
                inner = {
                    self.again[i, o]: float(self.parts[i].options[o].resident_bytes)
                    for i, o in self.choices
                    if start <= i < place
                }
                for option in range(len(self.parts[place].options)):
                    given = {**self._before(start), **inner}
                    when = [stretch, self.again[place, option]]
                    yield self._moment(given, self._forward(place, option, end), when)
                    yield self._moment(given, self._backward(place, option), when)

    def _moment(self, held: Row, own: float, when: list[int]) -> tuple[Row, float, float]:
        """What is held and a moment's own bytes are within the budget, when all these columns are 1."""
        row = {column: held.get(column, 0.0) + (self.most if column in when else 0.0) for column in {*held, *when}}
        return row, -math.inf, self.budget - own + len(when) * self.most

    def _before(self, part: int) -> Row:
        """What lies there of earlier parts while a part that is not in their stretch runs."""
        held: Row = {
            self.kept[i, o]: float(self.parts[i].options[o].resident_bytes) for i, o in self.choices if i < part
        }
        held |= {self.stretch[s, e]: float(self.parts[e].output_bytes) for s, e in self.stretches if e < part}
        return held

    def _forward(self, part: int, option: int, end: int) -> float:
        chosen = self.parts[part].options[option]
        return self.parts[end].gradient_bytes + self.after[end] + chosen.resident_bytes + chosen.forward_bytes

    def _backward(self, part: int, option: int) -> float:
        chosen, own = self.parts[part].options[option], self.parts[part]
        before = self.parts[part - 1].gradient_bytes if part else self.input_gradient
        own_bytes = own.gradient_bytes + own.left_bytes + chosen.resident_bytes + chosen.backward_bytes
        return before + self.after[part] + own_bytes

    def _first_run(self, start: int, end: int, last: int) -> float:
        peaks = [part.output_bytes + part.rerun.forward_bytes for part in self.parts[start : end + 1]]
        inputs = [0, *(part.output_bytes for part in self.parts[start:end])]
        return self.parts[last].gradient_bytes + max(a + b for a, b in zip(peaks, inputs, strict=True))

    def read(self, solution: np.ndarray) -> tuple[Steps, dict[int, int]]:
        """Steps and options of a solution."""
        on = {column for column, value in enumerate(solution) if value > 0.5}
        options = {i: o for i, o in self.choices if self.kept[i, o] in on or self.again[i, o] in on}
        ends = {s: e for (s, e), column in self.stretch.items() if column in on}
        steps: list[int | Steps] = []
        place = 0
        while place < len(self.parts):
            end = ends.get(place, place)
            steps.append(tuple(range(place, end + 1)) if place in ends else place)
            place = end + 1
        return tuple(steps), options
