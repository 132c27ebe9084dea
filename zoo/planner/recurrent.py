"""Reversing a sequence of equal segments: recurrent networks over time, where the chain solver has a closed form.

With room for c states (the first included), the fewest forward runs are known without a search: Griewank and Walther,
"Algorithm 799: revolve" (2000); for recurrent networks Gruslys et al., "Memory-efficient backpropagation through time"
(arXiv:1606.03401, section 3.1). A segment is a chunk of consecutive time steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from zoo.planner.chain import InfeasibleBudgetError
from zoo.planner.graph import check_bytes
from zoo.planner.schedule import Act, Operation


def most_segments(states: int, repeats: int) -> int:
    """The most segments that can be reversed with `states` kept (the first included), none run more than
    `repeats` times before the run that keeps what its backward needs.

    Example:
        >>> most_segments(states=9, repeats=1), most_segments(states=9, repeats=2)
        (10, 55)
    """
    return math.comb(states + repeats, repeats)


def repeats_needed(segments: int, states: int) -> int:
    """The least `repeats` for which `most_segments` reaches `segments`.

    Raises:
        ValueError: less than one segment or state.
    """
    _check_counts(segments, states)
    repeats = 0
    while most_segments(states, repeats) < segments:
        repeats += 1
    return repeats


def fewest_forward_runs(segments: int, states: int) -> int:
    """Forward runs of single segments that a step needs, those that keep everything included.

    Plain training needs `segments`. Exact for any number of segments, in closed form.

    Raises:
        ValueError: less than one segment or state.

    Example:
        >>> fewest_forward_runs(10, states=9), fewest_forward_runs(100_000, states=20)
        (19, 634220)
    """
    repeats = repeats_needed(segments, states)
    # Of the last repetition only what is left over; see Griewank and Walther, proposition 1.
    discarded = repeats * segments - math.comb(states + repeats, repeats - 1) if repeats else 0
    return segments + discarded


def recurrent_schedule(segments: int, states: int) -> Iterator[Operation]:
    """The operations of a step with the fewest forward runs, one after the other (never all in memory).

    Segments are numbered from 0; their states are kept by FORWARD_KEEP_INPUT as in `zoo.planner.schedule`.

    Raises:
        ValueError: less than one segment or state.

    Example:
        >>> [str(operation) for operation in recurrent_schedule(2, states=1)][:3]
        ['forward, keep input 0', 'forward, keep all 1 (option 0)', 'backward 1']
    """
    _check_counts(segments, states)
    return _reverse(segments, states)


def _reverse(segments: int, states: int) -> Iterator[Operation]:
    stack = [(0, segments, states)]  # first segment, how many, states to keep (that of the first included)
    while stack:
        first, count, kept = stack.pop()
        if count == 1:
            yield Operation(Act.FORWARD_KEEP_ALL, first, frees_output=True)
            yield Operation(Act.BACKWARD, first)
            continue
        run = _first_run(count, kept)
        yield Operation(Act.FORWARD_KEEP_INPUT, first)
        for segment in range(first + 1, first + run):
            yield Operation(Act.FORWARD_DISCARD, segment)
        stack += [(first, run, kept), (first + run, count - run, max(kept - 1, 1))]


def _first_run(count: int, states: int) -> int:
    """How many segments to run before the next state is kept: any such that both halves stay within their bounds."""
    if states == 1:
        return count - 1
    repeats = repeats_needed(count, states)
    return max(most_segments(states, repeats - 2) if repeats >= 2 else 1, count - most_segments(states - 1, repeats))


@dataclass(frozen=True)
class RecurrentPlan:
    """How a sequence is cut into chunks, and how many states are kept at once.

    Args:
        steps: time steps of the whole sequence.
        chunk_steps: of every chunk but perhaps the last.
        states: kept at once, the first included.
        peak_bytes: these states and one chunk's inside.
        forward_runs: forward runs of chunks, `chunks` of which a plain step needs too.
    """

    steps: int
    chunk_steps: int
    states: int
    peak_bytes: int
    forward_runs: int

    @property
    def chunks(self) -> int:
        """Segments of the schedule."""
        return -(-self.steps // self.chunk_steps)

    def schedule(self) -> Iterator[Operation]:
        """The operations, on chunks."""
        return recurrent_schedule(self.chunks, self.states)


def plan_recurrence(
    steps: int,
    state_bytes: int,
    step_bytes: int,
    *,
    repeats: int = 1,
    shortest_chunk: int = 1,
    budget_bytes: int | None = None,
) -> RecurrentPlan:
    """The chunk length and number of states that need the least memory, or the least work in a budget.

    Peak = states * state_bytes + chunk_steps * step_bytes. With `repeats` = 1 every step is run at most once more, and
    memory grows like the square root of the steps; with r like their (r + 1)-th root.

    Args:
        steps: T.
        state_bytes: of what crosses from one step to the next, all layers together.
        step_bytes: of all that one step keeps for its backward.
        repeats: the most times that a step is run again; raised as far as a budget needs.
        shortest_chunk: steps of a chunk that no plan goes below: each run of a chunk may have a cost of its own.
        budget_bytes: instead of the least memory, the fewest repeats (and of these the least memory) within it.

    Raises:
        InfeasibleBudgetError: no repeats fit; states the smallest budget.
        ValueError, TypeError: naming the argument, what came and what is needed.

    Example:
        >>> plan = plan_recurrence(4096, state_bytes=65536, step_bytes=262144)
        >>> plan.chunk_steps, plan.states, plan.forward_runs / plan.chunks < 2
        (32, 127, True)
    """
    _check_counts(steps, 1)
    for name, value in (("state_bytes", state_bytes), ("step_bytes", step_bytes)):
        check_bytes(name, value)
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, not {repeats}")
    _check_counts(shortest_chunk, 1)
    shortest = min(shortest_chunk, steps)
    if budget_bytes is None:
        return _least_memory(steps, state_bytes, step_bytes, repeats, shortest)
    check_bytes("budget_bytes", budget_bytes)
    whole = RecurrentPlan(steps, steps, 1, state_bytes + steps * step_bytes, 1)
    if whole.peak_bytes <= budget_bytes:
        return whole
    smallest_bytes = state_bytes + shortest * step_bytes  # one state, from which every step is reached again
    if budget_bytes < smallest_bytes:
        raise InfeasibleBudgetError(budget_bytes, smallest_bytes)
    low, high = 1, steps - 1
    while low < high:  # memory never grows with the repeats
        middle = (low + high) // 2
        fits = _least_memory(steps, state_bytes, step_bytes, middle, shortest).peak_bytes <= budget_bytes
        low, high = (low, middle) if fits else (middle + 1, high)
    return _least_memory(steps, state_bytes, step_bytes, low, shortest)


def _least_memory(steps: int, state_bytes: int, step_bytes: int, repeats: int, shortest: int) -> RecurrentPlan:
    """The plan of least memory among those that run no step more than `repeats` times again."""
    best: RecurrentPlan | None = None
    for states in range(1, steps + 1):
        if best is not None and states * state_bytes >= best.peak_bytes:
            break
        chunk = max(-(-steps // min(most_segments(states, repeats), steps)), shortest)
        peak = states * state_bytes + chunk * step_bytes
        if best is None or peak < best.peak_bytes:
            best = RecurrentPlan(steps, chunk, states, peak, 0)
        if chunk == shortest:
            break
    assert best is not None, "states = 1 always gives a plan"
    return RecurrentPlan(
        steps, best.chunk_steps, best.states, best.peak_bytes, fewest_forward_runs(best.chunks, best.states)
    )


def _check_counts(segments: int, states: int) -> None:
    for name, value in (("segments", segments), ("states", states)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name} must be an integer, not {value!r}")
        if value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")
