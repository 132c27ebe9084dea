"""The last word on time: plans that fit a budget take real steps in turns, and the fastest is the plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from zoo.planner.plan import Plan
from zoo.planner.rounds import Search

MOST_RIVALS, MOST_TRIED = 3, 8
SLOWEST = 2.0  # what is predicted to take longer than so many times the plan's seconds takes no step


def raced(search: Search, plans: Sequence[Plan]) -> list[Plan]:
    """The plans with what a real step of each takes; as they are where a search takes no steps, or there is one plan.

    What parts take alone leaves out what a step makes of them: caches, fresh memory, the calls between them.
    """
    seconds = search.race(plans) if search.race is not None and len(plans) > 1 else ()
    if not seconds:
        return list(plans)
    return [replace(plan, step_seconds=one) for plan, one in zip(plans, seconds, strict=True)]


def fastest(plans: Sequence[Plan], budget_bytes: int) -> Plan | None:
    """Of plans that were all raced, or all not, the fastest within a budget; None = none is within it."""
    fitting = [plan for plan in plans if plan.peak_bytes <= budget_bytes]
    return min(fitting, key=lambda plan: plan.seconds, default=None)


def with_rivals(search: Search, best: Plan, budget_bytes: int) -> Plan:
    """`best`, or what others do with every part alike, where that fits the budget as well and a real step is faster."""
    if search.race is None:
        return best
    rivals: list[Plan] = []
    for schedule in search.known(budget_bytes, SLOWEST * best.predicted_seconds, MOST_TRIED):
        found = search.plan(schedule)
        if found.peak_bytes <= budget_bytes and not any(found.decides_as(one) for one in (best, *rivals)):
            rivals.append(found)
        if len(rivals) == MOST_RIVALS:
            break
    return fastest(raced(search, [best, *rivals]), budget_bytes) or best
