"""Why a budget is too small: a bound that no schedule is below, and an error that says what it is made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from zoo.planner import CostGraph, InfeasibleBudgetError, Option, Part, smallest_schedule
from zoo.planner.bounds import lower_bound
from zoo.planner.rounds import Search, within_budget
from zoo.planner.study import swept


@pytest.mark.quick
def test_no_schedule_is_below_the_bound_and_some_are_at_it(random_chain: Callable[..., CostGraph]) -> None:
    chains = [random_chain(seed, 5, 2, drop, rigid) for seed in range(10) for drop in (0, 1) for rigid in (0, 1)]
    gaps = [smallest_schedule(chain).peak_bytes - lower_bound(chain).total_bytes for chain in chains]
    assert min(gaps) == 0
    assert gaps.count(0) >= 10, "it is more than a guess"
    with pytest.raises(ValueError, match="not a chain"):
        lower_bound(CostGraph(()))


def search_of(left_bytes: int) -> Search:
    options = (Option("keep", 30, 1.0, 2.0), Option("efficient", 12, 1.0, 2.5))
    parts = [Part(name, 4, options, left_bytes=left_bytes) for name in ("first", "second", "third")]
    words: dict[str, Any] = {"framework": "torch", "model": "Net", "fingerprint": "f00d", "input_shape": (8, 3)}
    words |= {"budget_bytes": 1, "plain_peak_bytes": 150}
    return Search(CostGraph.chain(parts), lambda plan: (plan.predicted_peak_bytes, 0), words)


@pytest.mark.quick
def test_an_error_says_what_stands_in_the_way_and_what_it_would_take() -> None:
    words = (
        r"28 bytes .* 20 for the backward pass of 'second' alone, 4 for its input, 4 of parameters' .*a smaller batch"
    )
    with pytest.raises(InfeasibleBudgetError, match=words) as caught:
        within_budget(search_of(2), 20)
    assert caught.value.smallest_bytes >= 28
    assert "allow 'compress'" in str(caught.value)
    with pytest.raises(InfeasibleBudgetError) as caught:
        within_budget(search_of(0), 5)
    assert "parameters" not in str(caught.value)
    too_much = search_of(2)
    too_much.measure = lambda plan: (plan.predicted_peak_bytes - 15, 0)  # a step that needs less than is predicted
    with pytest.raises(InfeasibleBudgetError, match=r"options is \d+ bytes; give a larger budget"):
        within_budget(too_much, 5)


def test_what_can_only_be_kept_is_in_the_bound() -> None:
    """And what is needed forward alone, as of layers that are not trained."""
    fixed = Part("fixed", 4, (Option("keep", 30, 1.0, 2.0),), reruns=False)
    loose = Part("loose", 4, (Option("keep", 3, 1.0, 2.0, keeps_output=False),), reruns=False)
    free = Part("free", 4, (Option("keep", 10, 1.0, 2.0),))
    bound = lower_bound(CostGraph.chain([fixed, loose, free]))
    assert (bound.part, bound.way, bound.kept_bytes, bound.input_bytes, bound.own_bytes) == (
        "free",
        "backward",
        33,
        4,
        18,
    )
    assert "33 of parts before it that can only be kept" in str(bound)
    frozen = Part("frozen", 40, (Option("keep", 0, 1.0, 0.0, keeps_output=False, needs_input=False),), 0, reruns=False)
    bound = lower_bound(CostGraph.chain([frozen, frozen, free]))
    assert (bound.part, bound.way, bound.total_bytes) == ("frozen", "forward", 80)
    assert smallest_schedule(CostGraph.chain([frozen, frozen, free])).peak_bytes == 84, "and a gradient of 4"


@pytest.mark.quick
def test_a_sweep_has_a_plan_for_the_smallest_and_for_shares_of_the_way_to_the_plain_peak() -> None:
    search = search_of(0)
    found = swept(search, [10, 0.5], between=(0.0, 0.5, 1.0))
    assert isinstance(found.plans[0], InfeasibleBudgetError)
    plans = found.plans[1:]
    assert [plan.budget_bytes for plan in plans[1:]] == [
        found.smallest.peak_bytes + int(share * (150 - found.smallest.peak_bytes)) for share in (0, 0.5, 1)
    ]
    for plan, optimum in zip(plans, found.optima[1:], strict=True):
        assert not isinstance(plan, InfeasibleBudgetError)
        assert plan.peak_bytes <= plan.budget_bytes
        assert plan.predicted_seconds == optimum
    assert found.best_single(found.smallest.peak_bytes - 1) is None
    assert found.best_single(2**40) == "keep"
