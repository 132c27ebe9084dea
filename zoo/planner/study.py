"""A plan and what it is chosen from: the frontier of all budgets, known methods, memory over a step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from zoo.planner.budget import parse_budget
from zoo.planner.chain import InfeasibleBudgetError
from zoo.planner.graph import CostGraph
from zoo.planner.methods import known_methods
from zoo.planner.plan import Plan
from zoo.planner.race import fastest, raced, with_rivals
from zoo.planner.rounds import Search, within_budget

Point = tuple[int, float]  # peak bytes, seconds


@dataclass(frozen=True)
class Timeline:
    """What is allocated after each event (an allocation, or the end of one) of a step.

    Args:
        saved, gradients, other: bytes: kept for the backward pass, parameters' gradients, everything else.
    """

    saved: tuple[int, ...]
    gradients: tuple[int, ...]
    other: tuple[int, ...]

    @property
    def total(self) -> tuple[int, ...]:
        """Bytes of all three."""
        return tuple(sum(parts) for parts in zip(self.saved, self.gradients, self.other, strict=True))


@dataclass(frozen=True)
class PlanStudy:
    """A plan, and what to look at beside it.

    Args:
        frontier: predicted (peak bytes, seconds) of the fastest plans of all budgets.
        methods: the same of what others do, by name.
        timelines: of a plain step, and of one with the plan, by "plain" and "plan"; empty where that is not known.
    """

    plan: Plan
    frontier: tuple[Point, ...]
    methods: Mapping[str, Point]
    timelines: Mapping[str, Timeline]


@dataclass(frozen=True)
class Sweep:
    """Plans of one model at many budgets, and what they are compared with.

    Args:
        plans: for each budget a plan, or why there is none.
        smallest: the plan that needs least.
        methods: plans of `known_methods`, measured as the others are; their budget is what they need.
        optima: for each budget the least seconds that are predicted for any schedule within it.
    """

    plans: tuple[Plan | InfeasibleBudgetError, ...]
    smallest: Plan
    methods: Mapping[str, Plan]
    optima: tuple[float, ...]

    def best_single(self, budget_bytes: int) -> str | None:
        """Which method is fastest, by prediction, or by real steps where such were taken, among those measured to be
        within a budget; None = none is."""
        found = fastest(tuple(self.methods.values()), budget_bytes)
        return next((name for name, plan in self.methods.items() if plan is found), None)


def planned(search: Search, objective: str = "time") -> Plan:
    """The plan that a priced model's budget gives: the fastest, or with "memory" the one that needs least."""
    limit = search.words["budget_bytes"]
    if objective == "memory":
        return within_budget(search, limit, smallest=True)
    return with_rivals(search, within_budget(search, limit), limit)


def studied(search: Search, timelines: Mapping[str, Timeline] = MappingProxyType({})) -> PlanStudy:
    """A plan, with the frontier and the known methods beside it."""
    return PlanStudy(planned(search), search.frontier(), points_of_methods(search.graph), timelines)


def swept(search: Search, budgets: Iterable[int | float | str], between: Iterable[float] = ()) -> Sweep:
    """Plans for many budgets from one pricing of a model.

    Args:
        budgets: as `zoo.plan` takes them.
        between: further budgets, as shares of the way from the least that a plan needs (0) to the plain peak (1).
    """
    plain, smallest = search.words["plain_peak_bytes"], within_budget(search, 2**60, smallest=True)
    limits = [parse_budget(budget, plain) for budget in budgets]
    limits += [smallest.peak_bytes + int(share * (plain - smallest.peak_bytes)) for share in between]
    plans: list[Plan | InfeasibleBudgetError] = []
    for limit in limits:
        try:
            plans.append(within_budget(search.for_budget(limit), limit))
        except InfeasibleBudgetError as error:
            plans.append(error)
    methods = {name: search.plan(schedule) for name, schedule in known_methods(search.graph).items()}
    methods = {name: replace(plan, budget_bytes=plan.peak_bytes) for name, plan in methods.items()}
    optima = tuple(search.least_seconds(limit) for limit in limits)
    sweep = Sweep(tuple(plans), smallest, methods, optima)
    return sweep if search.race is None else _with_real_steps(search, sweep)


def _with_real_steps(search: Search, sweep: Sweep) -> Sweep:
    """The sweep, each plan in it the fastest by real steps of all that fit its budget."""
    found = [plan for plan in sweep.plans if isinstance(plan, Plan)]
    taken = raced(search, [*found, *sweep.methods.values()])

    def chosen(plan: Plan | InfeasibleBudgetError) -> Plan | InfeasibleBudgetError:
        best = fastest(taken, plan.budget_bytes)
        return plan if best is None else replace(best, budget_bytes=plan.budget_bytes)

    methods = dict(zip(sweep.methods, taken[len(found) :], strict=True))
    return replace(sweep, plans=tuple(chosen(plan) for plan in sweep.plans), methods=methods)


def points_of_methods(graph: CostGraph) -> dict[str, Point]:
    """Predicted peak bytes and seconds of `known_methods`."""
    return {name: (schedule.peak_bytes, schedule.seconds) for name, schedule in known_methods(graph).items()}
