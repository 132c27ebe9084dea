"""The one-level planner against every choice of cuts, and the places where a graph can be cut."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable

import numpy as np
import pytest

from zoo.planner import (
    CutChain,
    CutPlan,
    CutSolver,
    InfeasibleBudgetError,
    articulation_points,
    cut_sets,
    least_memory_cuts,
)


def random_chain(seed: int, count: int, scale: int = 1) -> CutChain:
    rng = np.random.default_rng(seed)
    return CutChain(
        tuple(scale * size for size in rng.integers(0, 9, count).tolist()),
        tuple(scale * size for size in rng.integers(0, 20, count + 1).tolist()),
        tuple(map(float, rng.integers(1, 9, count + 1))),
        tuple(map(float, rng.integers(0, 4, count))),
    )


def every_plan(chain: CutChain) -> list[CutPlan]:
    count, plans = len(chain.cut_bytes), []
    for kept in range(count + 1):
        for cuts in itertools.combinations(range(count), kept):
            gaps = [end for start, end in itertools.pairwise((-1, *cuts, count)) if end == start + 1]
            for whole in range(len(gaps) + 1):
                plans += [CutPlan.of(chain, cuts, chosen) for chosen in itertools.combinations(gaps, whole)]
    return plans


def points(plans: list[CutPlan]) -> list[tuple[int, float]]:
    """(peak, work) of those that no other beats."""
    found: list[tuple[int, float]] = []
    for plan in sorted(plans, key=lambda plan: (plan.peak_bytes, plan.work)):
        if not found or plan.work < found[-1][1]:
            found.append((plan.peak_bytes, plan.work))
    return found


@pytest.mark.quick
@pytest.mark.parametrize("seed", range(12))
def test_the_frontier_is_that_of_all_plans(seed: int) -> None:
    chain = random_chain(seed, seed % 7)
    expected, solver = points(every_plan(chain)), CutSolver(chain)
    assert points(solver.frontier()) == expected
    assert least_memory_cuts(chain).peak_bytes == expected[0][0]
    for budget in range(expected[0][0], expected[-1][0] + 2):
        assert solver.within(budget).work == min(work for peak, work in expected if peak <= budget)
    for price in (0.1, 1.0, 3.0, 10.0):
        chosen = solver.weighing(price)
        assert chosen.peak_bytes + price * chosen.work == min(peak + price * work for peak, work in expected)


def test_a_price_of_work_moves_from_the_smallest_to_no_work() -> None:
    solver = CutSolver(random_chain(1, 20))
    assert solver.weighing(0).peak_bytes == solver.smallest.peak_bytes
    assert solver.weighing(1e9).work == 0


@pytest.mark.parametrize("count", [60, 600])
def test_long_chains_are_fast_monotone_and_within_their_budgets(count: int) -> None:
    chain = random_chain(0, count, scale=10**6 + 3)
    start = time.process_time()
    solver = CutSolver(chain)
    smallest = solver.smallest.peak_bytes
    budgets = [int(smallest * share) for share in (1, 1.2, 1.5, 2, 3, 5, 8)]
    found = [solver.within(budget) for budget in budgets]
    assert time.process_time() - start < 10
    for budget, plan in zip(budgets, found, strict=True):
        assert plan.peak_bytes <= budget
        assert CutPlan.of(chain, plan.cuts, plan.whole) == plan
    assert all(later.work <= earlier.work for earlier, later in itertools.pairwise(found))
    assert found[-1].work < 0.8 * found[0].work
    evenly = CutPlan.of(chain, range(round(count**0.5) // 2, count, round(count**0.5)))
    assert smallest < evenly.peak_bytes, "better than a cut every sqrt(n)"


def test_trying_some_sizes_of_stretches_is_as_good_as_trying_all(monkeypatch: pytest.MonkeyPatch) -> None:
    chains = [random_chain(seed, 50, scale=10**4 + 7) for seed in range(4)]
    found = [least_memory_cuts(chain).peak_bytes for chain in chains]
    monkeypatch.setattr(sys.modules[CutChain.__module__], "MOST_CAPS", 10**6)
    assert found == [least_memory_cuts(chain).peak_bytes for chain in chains]


def test_a_budget_that_is_too_small_names_the_smallest() -> None:
    solver = CutSolver(random_chain(2, 6))
    with pytest.raises(InfeasibleBudgetError) as caught:
        solver.within(solver.smallest.peak_bytes - 1)
    assert caught.value.smallest_bytes == solver.smallest.peak_bytes


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: CutChain((1,), (1,), (1.0, 1.0)), "gap_bytes must hold 2 values"),
        (lambda: CutChain((1,), (1, -1), (1.0, 1.0)), r"gap_bytes\[1\] must be at least 0"),
        (lambda: CutChain((1,), (1, 1), (1.0, 1.0), (float("inf"),)), "finite"),
        (lambda: CutPlan.of(CutChain((1,), (1, 1), (1.0, 1.0)), [], [0]), "cannot be kept whole"),
        (lambda: CutSolver(CutChain((), (1,), (1.0,)), slots=0), "at least 1"),
        (lambda: CutSolver(CutChain((), (1,), (1.0,))).weighing(-1), "at least 0"),
        (lambda: CutSolver(CutChain((), (1,), (1.0,))).within(1.0), "whole number"),
        (lambda: cut_sets([(1,), ()], [1, 1]), "reads only earlier ones"),
    ],
)
def test_nonsense_is_refused(make: Callable[[], object], words: str) -> None:
    with pytest.raises((ValueError, TypeError), match=words):
        make()


def random_graph(seed: int, count: int) -> list[tuple[int, ...]]:
    rng = np.random.default_rng(seed)
    return [
        tuple({max(0, node - int(back)) for back in rng.geometric(0.6, size=rng.integers(1, 3))} - {node})
        if node and rng.random() > 0.1
        else ()
        for node in range(count)
    ]


def pieces(inputs: list[tuple[int, ...]], without: int | None = None) -> int:
    """Connected pieces of the graph, by spreading labels."""
    label = {node: node for node in range(len(inputs)) if node != without}
    changed = True
    while changed:
        changed = False
        for node, sources in enumerate(inputs):
            for source in sources:
                if without not in (node, source) and label[node] != label[source]:
                    label[node] = label[source] = min(label[node], label[source])
                    changed = True
    return len(set(label.values()))


@pytest.mark.parametrize("seed", range(15))
def test_articulation_points_are_those_whose_loss_breaks_the_graph(seed: int) -> None:
    inputs = random_graph(seed, 14)
    whole = pieces(inputs)
    expected = [node for node in range(len(inputs)) if pieces(inputs, without=node) > whole]
    assert articulation_points(inputs) == expected


@pytest.mark.parametrize("seed", range(8))
def test_cut_sets_are_what_is_read_later(seed: int) -> None:
    inputs = random_graph(seed, 14)
    sizes = np.random.default_rng(seed).integers(1, 9, 14).tolist()
    found = {cut.position: cut for cut in cut_sets(inputs, sizes, only_minima=False)}
    for position in range(13):
        alive = tuple(n for n in range(position + 1) if any(n in inputs[later] for later in range(position + 1, 14)))
        assert (found[position].nodes if position in found else ()) == alive
        if alive:
            assert found[position].bytes == sum(sizes[node] for node in alive)
    least = cut_sets(inputs, sizes)
    assert set(least) <= set(found.values())


def test_a_recurrent_net_is_cut_between_its_time_steps() -> None:
    """Two layers; each step reads its own input, gates are four times as wide as the states h and c."""
    inputs: list[tuple[int, ...]] = []
    sizes: list[int] = []

    def add(size: int, *sources: int) -> int:
        inputs.append(sources)
        sizes.append(size)
        return len(inputs) - 1

    states: list[tuple[int, int] | None] = [None, None]
    for _ in range(5):
        below = add(3)
        for layer, state in enumerate(states):
            gates = add(8, below, *(state or ())[:1])
            c = add(2, gates, *(state or ())[1:])
            h = add(2, gates, c)
            states[layer], below = (h, c), h
    steps = [cut for cut in cut_sets(inputs, sizes) if cut.bytes == 8]
    assert len(steps) == 7, "after each layer of each step, but where the last step has nothing more to come"
    assert all(len(cut.nodes) == 4 for cut in steps)


def test_graphs_of_many_thousand_nodes_take_no_recursion_and_linear_time() -> None:
    count = 50_000
    inputs = [(), *((node - 1,) if node % 3 else (node - 1, max(node - 3, 0)) for node in range(1, count))]
    start = time.process_time()
    assert articulation_points(inputs)[:3] == [3, 6, 9]
    assert cut_sets(inputs, [1] * count)
    assert time.process_time() - start < 5
