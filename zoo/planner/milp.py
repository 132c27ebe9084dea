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
MOST_SECONDS = 60.0
Row = dict[int, float]


def solve_milp(chain: CostGraph, budget_bytes: int, max_noise: float | None = None) -> Schedule:
    """The fastest schedule within budget and noise whose stretches are run again as a whole, once.

    Args:
        chain: at most 16 parts.
        budget_bytes, max_noise: as `solve_quietly`.

    Raises:
        InfeasibleBudgetError: there is none; the smallest budget is not known to it: it states the budget itself.
        ImportError: SciPy is not installed.
        RuntimeError: HiGHS proves no optimum within a minute.
        ValueError: no chain, or too many parts.

    Example:
        >>> from zoo.planner import Option, Part
        >>> parts = [Part(str(i), 4, (Option("keep", 10, 1.0, 2.0),)) for i in range(4)]
        >>> solve_milp(CostGraph.chain(parts), 30).seconds
        15.0
    """
    check_milp(chain)
    try:
        from scipy.optimize import Bounds, LinearConstraint, milp  # imported when asked: it takes half a second
    except ModuleNotFoundError as error:
        raise ImportError(
            f"solver='milp' needs SciPy ({error}): pip install 'memory-efficient-zoo[demo]', or use solver='chain'"
        ) from None
    programme = _Programme(chain, budget_bytes)
    rows = list(programme.rows(max_noise))
    matrix = np.zeros((len(rows), programme.count))
    for number, (row, _, _) in enumerate(rows):
        for column, value in row.items():
            matrix[number, column] = value
    found = milp(
        programme.seconds(),
        constraints=LinearConstraint(matrix, [low for _, low, _ in rows], [high for _, _, high in rows]),
        integrality=programme.integrality(),
        bounds=Bounds(0, 1),
        options={"time_limit": MOST_SECONDS},
    )
    if found.status == 1:
        raise RuntimeError(f"HiGHS proved no optimum within {MOST_SECONDS:g} s: use solver='chain'")
    if found.x is None:
        raise InfeasibleBudgetError(budget_bytes, budget_bytes)
    steps, options = programme.read(found.x)
    return Schedule.of(chain, operations_of(steps, chain, options))


def check_milp(chain: CostGraph) -> None:
    """Raise ValueError unless a graph is one that `solve_milp` takes."""
    if not chain.is_chain or not chain.parts:
        raise ValueError("the joint programme is of a chain of at least one part: use solver='chain' on each stretch")
    if len(chain.parts) > MOST_PARTS:
        raise ValueError(
            f"the joint programme takes at most {MOST_PARTS} parts, not {len(chain.parts)}: use solver='chain', which "
            "is as good but for a limit on noise"
        )


class _Programme:
    """Columns: a part kept by an option, a part within a stretch by an option, a stretch; and for each part whether its
    output, which its option does not keep, lies there for the next part's backward: on the whole, and in a stretch."""

    def __init__(self, chain: CostGraph, budget_bytes: int) -> None:
        self.parts, self.budget = chain.parts, budget_bytes
        self.after, self.input_gradient = chain.left_after, chain.input_gradient_bytes
        self.choices = [(i, o) for i, part in enumerate(chain.parts) for o in range(len(part.options))]
        self.stretches = [(s, e) for s, end in enumerate(chain.furthest_rerun) for e in range(s, end)]
        columns = itertools.count()
        self.kept = {choice: next(columns) for choice in self.choices}
        self.again = {choice: next(columns) for choice in self.choices}
        self.stretch = {stretch: next(columns) for stretch in self.stretches}
        self.whole = len(self.kept) + len(self.again) + len(self.stretch)
        self.lies = {i: next(columns) for i in range(len(chain.parts) - 1)}
        self.lies_again = {i: next(columns) for i in range(len(chain.parts) - 1)}
        self.count = next(columns)
        # More than any moment needs; all in shares of the budget, so that the solver's tolerances mean something.
        self.most = 2.0 * self._share(
            self.input_gradient
            + sum(
                part.output_bytes
                + part.gradient_bytes
                + part.left_bytes
                + option.resident_bytes
                + option.forward_bytes
                + option.backward_bytes
                for part in chain.parts
                for option in part.options
            )
        )

    def _share(self, size: float) -> float:
        return size / max(self.budget, 1)

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

    def integrality(self) -> np.ndarray:
        """1 for what is all or nothing; whether an output lies there follows from that."""
        return (np.arange(self.count) < self.whole).astype(int)

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
        yield {self.again[i, o]: 1.0 for i, o in self.choices if not self.parts[i].options[o].reruns}, 0, 0
        yield from self._lying()
        last = len(self.parts) - 1
        for (place, option), column in self.kept.items():
            yield self._moment(self._before(place, running=True), self._forward(place, option, last), [column])
            yield self._moment(self._before(place), self._backward(place, option), [column])
        for (start, end), stretch in self.stretch.items():
            yield self._moment(self._before(start, running=True), self._first_run(start, end, last), [stretch])
            for place in range(start, end + 1):
                for option in range(len(self.parts[place].options)):
                    when = [stretch, self.again[place, option]]
                    held = {**self._before(start), **self._inside(start, place, running=True)}
                    yield self._moment(held, self._forward(place, option, end), when)
                    held = {**self._before(start), **self._inside(start, place)}
                    yield self._moment(held, self._backward(place, option), when)

    def _lying(self) -> Iterator[tuple[Row, float, float]]:
        """An output apart lies there until the next part's backward if that part, or a stretch from it, needs it."""
        for index, column in self.lies.items():
            needed = {self.stretch[s, e]: 1.0 for s, e in self.stretches if s == index + 1}
            needed |= {self.kept[i, o]: 1.0 for i, o in self._needing(index + 1)}
            yield {**self._apart(index), **needed, column: -1.0}, -math.inf, 1
        for index, column in self.lies_again.items():
            apart = {self.again[i, o]: 1.0 for i, o in self._letting_go(index)}
            needed = {self.again[i, o]: 1.0 for i, o in self._needing(index + 1)}
            yield {**apart, **needed, column: -1.0}, -math.inf, 1

    def _needing(self, part: int) -> Iterator[tuple[int, int]]:
        options = self.parts[part].options
        return ((part, number) for number, option in enumerate(options) if option.needs_input)

    def _letting_go(self, part: int) -> Iterator[tuple[int, int]]:
        options = self.parts[part].options
        return ((part, number) for number, option in enumerate(options) if not option.keeps_output)

    def _apart(self, part: int) -> Row:
        """What makes a part's output a value of its own: an option that does not keep it, or the end of a stretch."""
        ends = {self.stretch[s, e]: 1.0 for s, e in self.stretches if e == part}
        return {**{self.kept[choice]: 1.0 for choice in self._letting_go(part)}, **ends}

    def _moment(self, held: Row, own: float, when: list[int]) -> tuple[Row, float, float]:
        """What is held and a moment's own bytes are within the budget, when all these columns are 1."""
        row = {column: self._share(size) for column, size in held.items()}
        for column in when:
            row[column] = row.get(column, 0.0) + self.most
        return row, -math.inf, 1 - self._share(own) + len(when) * self.most

    def _before(self, part: int, running: bool = False) -> Row:
        """What lies there of earlier parts while a part that is not in their stretch runs; if it is `running` forward,
        its input too, whether needed later or not."""
        held: Row = {
            self.kept[i, o]: float(self.parts[i].options[o].resident_bytes) for i, o in self.choices if i < part
        }
        held |= {self.lies[i]: float(self.parts[i].output_bytes) for i in range(part - 1 if running else part)}
        if running and part:
            for column in self._apart(part - 1):
                held[column] = held.get(column, 0.0) + self.parts[part - 1].output_bytes
        return held

    def _inside(self, start: int, part: int, running: bool = False) -> Row:
        """As `_before`, of the parts of a stretch that is run again."""
        held: Row = {
            self.again[i, o]: float(self.parts[i].options[o].resident_bytes)
            for i, o in self.choices
            if start <= i < part
        }
        until = part - 1 if running else part
        held |= {self.lies_again[i]: float(self.parts[i].output_bytes) for i in range(start, until)}
        if running and part > start:
            for choice in self._letting_go(part - 1):
                held[self.again[choice]] = held.get(self.again[choice], 0.0) + self.parts[part - 1].output_bytes
        return held

    def _forward(self, part: int, option: int, end: int) -> float:
        chosen, own = self.parts[part].options[option], self.parts[part]
        loose = 0 if chosen.keeps_output else own.output_bytes
        held = self.parts[end].gradient_bytes + self.after[end]
        return held + chosen.resident_bytes + loose + chosen.forward_bytes

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
