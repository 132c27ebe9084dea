"""A plan and what it is chosen from: the frontier of all budgets, known methods, memory over a step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from zoo.planner.graph import CostGraph
from zoo.planner.methods import known_methods
from zoo.planner.plan import Plan

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


def points_of_methods(graph: CostGraph) -> dict[str, Point]:
    """Predicted peak bytes and seconds of `known_methods`."""
    return {name: (schedule.peak_bytes, schedule.seconds) for name, schedule in known_methods(graph).items()}
