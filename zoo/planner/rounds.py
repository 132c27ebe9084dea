"""Predict, replay, measure, tighten: from a cost graph to a plan whose measured peak is within the budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from zoo.planner.bounds import lower_bound
from zoo.planner.chain import ChainSolver, InfeasibleBudgetError
from zoo.planner.graph import CostGraph
from zoo.planner.methods import known_methods, stretches
from zoo.planner.milp import check_milp, solve_milp
from zoo.planner.noise import noise_of, solve_quietly
from zoo.planner.plan import Plan, PlannedPart
from zoo.planner.schedule import Schedule
from zoo.planner.steps import nested_steps, operations_of, parts_of, runs_of

SOLVERS = ("chain", "milp")
HASTE = (1.25, 2.0, 1.0)  # of three rounds: by how many times what was too much the next target is lower
HOPE, MOST_KNOWN = 1.5, 3  # how far too large a prediction may be to be measured all the same, and how many are
MOST_LEAST = 12  # of the smallest predicted, how many are measured where that costs nothing
FLAT = 48  # schedules of the frontier that are laid flat where nothing may run more than twice
NEAR = 0.01  # of the budget: a plan that leaves no more unused is not loosened


@dataclass
class Search:
    """A cost graph, and how plans on it are measured.

    Args:
        measure: a plan -> peak and saved bytes of a step with it.
        words: the fields of a plan that do not depend on the schedule.
        max_noise: None = any.
        solver: "chain", the dynamic programme; "milp", the joint 0-1 programme of a small graph.
        once: what runs again can do so once only, and what is measured is what the framework itself predicts.
        race: plans -> seconds of a real step with each, in turns, or [] where none is taken; see `zoo.planner.race`.

    Raises:
        ValueError: a graph too large for "milp".
    """

    graph: CostGraph
    measure: Callable[[Plan], tuple[int, int]]
    words: Mapping[str, Any]
    max_noise: float | None = None
    solver: str = "chain"
    once: bool = False
    race: Callable[[Sequence[Plan]], Sequence[float]] | None = None

    def __post_init__(self) -> None:
        if self.solver == "milp":
            check_milp(self.graph)

    @cached_property
    def tables(self) -> ChainSolver:
        """Tables of the graph, made once."""
        return ChainSolver(self.graph)

    def for_budget(self, budget_bytes: int) -> Search:
        """The same search for another budget; tables are made once for all."""
        found = replace(self, words={**self.words, "budget_bytes": budget_bytes})
        made = {"tables": self.tables, "_steady": self._steady}
        vars(found).update(made | ({"_singles": self._singles} if self.once else {}))
        return found

    def least_seconds(self, budget_bytes: int) -> float:
        """The least that is predicted for any schedule within a budget; inf where none is."""
        try:
            return self._by_chain(budget_bytes).seconds
        except InfeasibleBudgetError:
            return math.inf

    def schedule(self, target_bytes: int) -> Schedule:
        """The fastest schedule within a target, and the noise that is allowed."""
        if self.solver == "milp":
            return solve_milp(self.graph, target_bytes, self.max_noise)
        found = self.settled(self._by_chain(target_bytes))
        if found.peak_bytes <= target_bytes and not self._steady:
            return found
        fitting = [one for one in (found, *self._without_codes(target_bytes)) if one.peak_bytes <= target_bytes]
        return min(fitting, key=lambda schedule: schedule.seconds, default=found)

    @cached_property
    def _steady(self) -> tuple[ChainSolver, list[list[int]]] | tuple[()]:
        """Tables of the graph without options that nothing may run again by, and which options are left; () = all."""
        left = [[n for n, option in enumerate(part.options) if option.reruns] for part in self.graph.parts]
        if all(len(kept) == len(part.options) for kept, part in zip(left, self.graph.parts, strict=True)):
            return ()
        parts = [
            replace(part, options=tuple(part.options[n] for n in kept))
            for kept, part in zip(left, self.graph.parts, strict=True)
        ]
        return ChainSolver(CostGraph.chain(parts, self.graph.input_gradient_bytes)), left

    def _without_codes(self, target_bytes: int) -> list[Schedule]:
        """What those tables say: where stretches run again, codes may only be in the way."""
        if not self._steady:
            return []
        tables, left = self._steady
        found = tables.solve(max(target_bytes, tables.smallest.peak_bytes))
        operations = (replace(step, option=left[step.part][step.option]) for step in found.operations)
        return [Schedule.of(self.graph, operations)]

    def settled(self, schedule: Schedule) -> Schedule:
        """The schedule with the first option of what runs again in the place of one that cannot be used then."""
        steps, options = nested_steps(schedule.operations), schedule.options()
        parts = self.graph.parts
        twice = [i for i, runs in runs_of(steps).items() if runs > 1 and not parts[i].options[options[i]].reruns]
        if not twice:
            return schedule
        return Schedule.of(self.graph, operations_of(steps, self.graph, {**options, **dict.fromkeys(twice, 0)}))

    def _by_chain(self, target_bytes: int) -> Schedule:
        if self.once:
            return self._once(target_bytes)
        if self.max_noise is None:
            return self.tables.solve(target_bytes)
        return solve_quietly(self.graph, target_bytes, self.max_noise)

    @cached_property
    def _singles(self) -> list[Schedule]:
        """Schedules in which nothing runs more than twice: the solver's with what is nested laid flat, and others'."""
        found = list(known_methods(self.graph).values())
        everything = range(1, len(self.graph.parts) + 1)
        found += [
            Schedule.of(self.graph, operations_of(stretches(self.graph, length), self.graph)) for length in everything
        ]
        for schedule in self.tables.frontier(FLAT):
            steps = nested_steps(schedule.operations)
            flat = tuple(step if isinstance(step, int) else tuple(parts_of(step)) for step in steps)
            found.append(Schedule.of(self.graph, operations_of(flat, self.graph, schedule.options())))
        return found

    def _once(self, target_bytes: int) -> Schedule:
        quiet = self._quiet_singles()
        fitting = [schedule for schedule in quiet if schedule.peak_bytes <= target_bytes]
        if not fitting:
            raise InfeasibleBudgetError(target_bytes, min(schedule.peak_bytes for schedule in quiet))
        return min(fitting, key=lambda schedule: (schedule.seconds, schedule.peak_bytes))

    def _quiet_singles(self) -> list[Schedule]:
        limit = math.inf if self.max_noise is None else self.max_noise
        return [schedule for schedule in self._singles if noise_of(self.graph, schedule) <= limit]

    def least(self) -> list[Schedule]:
        """The schedule with the lowest peak that is predicted for any; where plans cost nothing to measure, several."""
        if self.once:
            return sorted(self._quiet_singles(), key=lambda schedule: schedule.peak_bytes)[:MOST_LEAST]
        try:
            found = self._by_chain(0)
        except InfeasibleBudgetError as error:
            found = self._by_chain(error.smallest_bytes)
        if self.settled(found) is found:
            return [found]
        by_kind = sorted(known_methods(self.graph).values(), key=lambda schedule: schedule.peak_bytes)
        limit = math.inf if self.max_noise is None else self.max_noise
        others = [*self._without_codes(0), *by_kind[:MOST_KNOWN]]
        return [self.settled(found), *(schedule for schedule in others if noise_of(self.graph, schedule) <= limit)]

    def frontier(self, points: int = 24) -> tuple[tuple[int, float], ...]:
        """Predicted peak bytes and seconds of the fastest schedules, from the smallest to the fastest."""
        found: list[tuple[int, float]] = []
        listed = self._singles if self.once else self.tables.frontier(points)
        for size, seconds in sorted((schedule.peak_bytes, schedule.seconds) for schedule in listed):
            if not found or seconds < found[-1][1]:
                found.append((size, seconds))
        return tuple(found)

    def in_the_way(self, smallest_bytes: int) -> str:
        """Why a budget is too small, and what it would take.

        Args:
            smallest_bytes: the least that a plan was measured to need; what is predicted to be needed anyway is left
                out where that is more.
        """
        if self.once:
            return "give a larger budget or a smaller batch"
        lossy = any(option.noise for part in self.graph.parts for option in part.options)
        more = "" if lossy else ", or allow 'compress'"
        bound = lower_bound(self.graph)
        why = f"{bound}; " if bound.total_bytes <= smallest_bytes else ""
        return f"{why}give a larger budget or a smaller batch{more}"

    def keeping_all(self) -> list[Schedule]:
        """What may be done where memory is plenty: every part by its fastest option, or just kept."""
        everything = Schedule.of(self.graph, operations_of(tuple(range(len(self.graph.parts))), self.graph))
        fastest = self.tables.fastest
        quiet = self.max_noise is None or noise_of(self.graph, fastest) <= self.max_noise
        return [fastest, everything] if quiet else [everything]

    def known(self, budget_bytes: int, seconds: float, most: int = MOST_KNOWN) -> list[Schedule]:
        """What others do with every part alike, where less than so many seconds are predicted for it.

        It may have been passed over because more bytes were predicted for it than it needs. And the fastest schedule
        without codes from outside, whose prediction does not depend on what the parts around do.
        """
        limit = math.inf if self.max_noise is None else self.max_noise
        found = [
            schedule
            for schedule in (*known_methods(self.graph).values(), *self._without_codes(budget_bytes))
            if schedule.seconds < seconds
            and schedule.peak_bytes <= HOPE * budget_bytes
            and noise_of(self.graph, schedule) <= limit
        ]
        return sorted(found, key=lambda schedule: schedule.seconds)[:most]

    def plan(self, schedule: Schedule) -> Plan:
        """A schedule as a plan, measured."""
        steps, options = nested_steps(schedule.operations), schedule.options()
        runs = runs_of(steps)
        parts = []
        for index, part in enumerate(self.graph.parts):
            chosen, rerun = part.options[options[index]], part.rerun.forward_seconds
            seconds = chosen.forward_seconds + chosen.backward_seconds + (runs[index] - 1) * rerun
            kept = chosen.resident_bytes if runs[index] == 1 else 0
            parts.append(
                PlannedPart(part.name, chosen.kind, runs[index], part.options[0].resident_bytes, kept, seconds)
            )
        plain = sum(part.options[0].forward_seconds + part.options[0].backward_seconds for part in self.graph.parts)
        unmeasured = Plan(
            **self.words,
            parts=tuple(parts),
            steps=steps,
            predicted_peak_bytes=schedule.peak_bytes,
            predicted_seconds=schedule.seconds,
            peak_bytes=0,
            saved_bytes=0,
            plain_seconds=plain,
            noise=noise_of(self.graph, schedule),
        )
        peak, saved = self.measure(unmeasured)
        predicted = peak if self.once else schedule.peak_bytes
        measured = {"peak_bytes": peak, "saved_bytes": saved, "predicted_peak_bytes": predicted}
        return Plan(**{**vars(unmeasured), **measured})


def within_budget(search: Search, budget_bytes: int, smallest: bool = False) -> Plan:
    """The fastest plan that is measured to fit, or with `smallest` the one that needs least.

    Raises:
        InfeasibleBudgetError: none fits; states the peak of the smallest, as measured.
    """
    best: Plan | None = None
    target = budget_bytes
    if not smallest and budget_bytes >= search.words["plain_peak_bytes"]:
        for schedule in search.keeping_all():
            found = search.plan(schedule)
            if found.peak_bytes <= budget_bytes:
                return found
    for haste in () if smallest else HASTE:
        try:
            schedule = search.schedule(target)
        except InfeasibleBudgetError:
            break
        found = search.plan(schedule)
        if found.peak_bytes <= budget_bytes and (best is None or found.predicted_seconds < best.predicted_seconds):
            best = found
        gap = budget_bytes - found.peak_bytes
        target = target + gap if gap > 0 else max(0, min(target, schedule.peak_bytes) + int(haste * gap))
        if 0 <= gap <= NEAR * budget_bytes or (schedule.seconds <= search.tables.fastest.seconds and gap >= 0):
            break
    to_beat = math.inf if best is None else best.predicted_seconds
    for schedule in () if smallest else search.known(budget_bytes, to_beat):
        found = search.plan(schedule)
        if found.peak_bytes <= budget_bytes:
            best = found
            break
    if best is None:
        best = min((search.plan(schedule) for schedule in search.least()), key=lambda plan: plan.peak_bytes)
        if best.peak_bytes > budget_bytes:
            raise InfeasibleBudgetError(budget_bytes, best.peak_bytes, search.in_the_way(best.peak_bytes))
    return best
