"""Rounds of predicting and measuring: a target is loosened and tightened by what was measured."""

from __future__ import annotations

from typing import Any

import pytest

from zoo.planner import CostGraph, Option, Part
from zoo.planner.rounds import Search, within_budget


def search_of(measured_share: float) -> Search:
    """Twelve parts, and steps that need so much of what is predicted."""
    parts = [Part(str(n), 40, (Option("keep", 100, 1.0, 2.0), Option("efficient", 60, 1.0, 2.5))) for n in range(12)]
    words: dict[str, Any] = {"framework": "torch", "model": "Net", "fingerprint": "f00d", "input_shape": (8, 3)}
    words |= {"budget_bytes": 1, "plain_peak_bytes": 10**6}
    graph = CostGraph.chain(parts)
    return Search(graph, lambda plan: (int(measured_share * plan.predicted_peak_bytes), 0), words)


@pytest.mark.quick
@pytest.mark.parametrize("share", [0.8, 1.0, 1.1])
def test_a_plan_uses_the_budget_whatever_the_prediction_is_wrong_by(share: float) -> None:
    budget = 800  # between all by one kind and all by the other
    plan = within_budget(search_of(share), budget)
    assert 0.9 * budget < plan.peak_bytes <= budget
    assert plan.predicted_seconds <= within_budget(search_of(1.1), budget).predicted_seconds
    if share < 1:
        assert plan.predicted_peak_bytes > budget, "more was predicted than there is"
