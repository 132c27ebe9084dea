"""The closed form for equal segments against the recurrence it solves, the chain solver, and the bytes it promises."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

import pytest

from zoo.planner import (
    Act,
    CostGraph,
    InfeasibleBudgetError,
    Operation,
    Option,
    Part,
    fewest_forward_runs,
    plan_recurrence,
    recurrent_schedule,
    replay,
    solve_chain,
)


@functools.cache
def discarded_runs(segments: int, states: int) -> int:
    """Gruslys et al. 2016, equation 2: try every place for the next state."""
    if segments == 1:
        return 0
    if states == 1:
        return segments * (segments - 1) // 2
    return min(
        run + discarded_runs(segments - run, states - 1) + discarded_runs(segments, states)
        if run == segments
        else run + discarded_runs(segments - run, states - 1) + discarded_runs(run, states)
        for run in range(1, segments)
    )


def equal_chain(segments: int, state_bytes: int = 1, inside_bytes: int = 5) -> CostGraph:
    """Segments that keep nothing but their inside; gradients take no room."""
    keep = Option("keep", inside_bytes, 1.0, 1.0, keeps_output=False)
    return CostGraph.chain([Part(str(index), state_bytes, (keep,), gradient_bytes=0) for index in range(segments)])


def most_states(operations: list[Operation]) -> int:
    """States that lie there at once, the first included, by the operations alone."""
    kept, most = {-1}, 1
    for operation in operations:
        if operation.act is Act.FORWARD_KEEP_INPUT:
            kept.add(operation.part - 1)
        elif operation.act is Act.BACKWARD:
            kept.discard(operation.part - 1)
        most = max(most, len(kept))
    return most


@pytest.mark.quick
@pytest.mark.parametrize("states", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("segments", [1, 2, 3, 7, 10, 24, 41])
def test_the_closed_form_is_the_recurrences_optimum(segments: int, states: int) -> None:
    operations = list(recurrent_schedule(segments, states))
    forward = sum(operation.act is not Act.BACKWARD for operation in operations)
    assert forward == fewest_forward_runs(segments, states) == segments + discarded_runs(segments, states)
    assert most_states(operations) <= states
    _, seconds = replay(equal_chain(segments), operations)
    assert seconds == forward + segments


def test_the_chain_solver_finds_no_faster_one() -> None:
    for states in (1, 2, 4):
        chain = equal_chain(12)
        peak, seconds = replay(chain, recurrent_schedule(12, states))
        assert solve_chain(chain, peak).seconds == seconds


def test_a_hundred_thousand_steps_are_scheduled_at_once() -> None:
    start = time.process_time()
    assert fewest_forward_runs(100_000, 20) == 634_220
    plan = plan_recurrence(100_000, 65_536, 262_144)
    forward = sum(operation.act is not Act.BACKWARD for operation in plan.schedule())
    assert forward == plan.forward_runs < 2 * plan.chunks
    assert time.process_time() - start < 3


def test_memory_grows_like_the_square_root_and_slower_with_more_repeats() -> None:
    def peak(steps: int, repeats: int) -> int:
        return plan_recurrence(steps, 65_536, 262_144, repeats=repeats).peak_bytes

    assert peak(16_384, 1) / peak(4096, 1) == pytest.approx(2, rel=0.05)
    assert peak(8 * 4096, 2) / peak(4096, 2) == pytest.approx(2, rel=0.1)
    assert peak(4096, 1) > peak(4096, 2) > peak(4096, 3)


def test_no_other_chunk_length_needs_less() -> None:
    for steps, state, inside in ((100, 3, 10), (977, 64, 100), (5, 10, 1), (1, 3, 3), (64, 0, 5)):
        plan = plan_recurrence(steps, state, inside)
        every = [state * max(-(-steps // chunk) - 1, 1) + inside * chunk for chunk in range(1, steps + 1)]
        assert plan.peak_bytes == min(every)
        assert plan.peak_bytes == state * plan.states + inside * plan.chunk_steps


def test_a_budget_is_kept_with_the_fewest_repeats() -> None:
    sizes = (1000, 64, 256)
    whole = plan_recurrence(*sizes, budget_bytes=10**9)
    assert (whole.chunks, whole.forward_runs) == (1, 1)
    runs = []
    for budget in (20_000, 10_000, 5000, 2000, 1000, 320):
        plan = plan_recurrence(*sizes, budget_bytes=budget)
        assert plan.peak_bytes <= budget
        runs.append(plan.forward_runs / plan.chunks)
    assert runs == sorted(runs)
    with pytest.raises(InfeasibleBudgetError, match="320 bytes"):
        plan_recurrence(*sizes, budget_bytes=319)


def test_chunks_may_have_a_shortest_length() -> None:
    free, bound = plan_recurrence(4096, 64, 256), plan_recurrence(4096, 64, 256, shortest_chunk=64)
    assert (free.chunk_steps, bound.chunk_steps) == (32, 64)
    assert bound.peak_bytes == bound.states * 64 + 64 * 256
    assert most_states(list(bound.schedule())) == bound.states
    with pytest.raises(InfeasibleBudgetError, match=f"{64 + 64 * 256:,} bytes"):
        plan_recurrence(4096, 64, 256, shortest_chunk=64, budget_bytes=100)
    assert plan_recurrence(10, 64, 256, shortest_chunk=64).chunks == 1


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: fewest_forward_runs(0, 1), "segments must be at least 1"),
        (lambda: recurrent_schedule(5, 0), "states must be at least 1"),
        (lambda: plan_recurrence(0, 1, 1), "at least 1"),
        (lambda: plan_recurrence(2.0, 1, 1), "must be an integer"),
        (lambda: plan_recurrence(5, -1, 1), "state_bytes must be at least 0"),
        (lambda: plan_recurrence(5, 1, 1, repeats=0), "repeats must be at least 1"),
        (lambda: plan_recurrence(5, 1, 1, budget_bytes=-3), "budget_bytes must be at least 0"),
    ],
)
def test_nonsense_is_refused(make: Callable[[], object], words: str) -> None:
    with pytest.raises((ValueError, TypeError), match=words):
        make()
