"""The chain solver against every possible order of operations, and what it promises about budgets."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from zoo.planner import (
    Act,
    ChainSolver,
    CostGraph,
    InfeasibleBudgetError,
    Operation,
    Option,
    Part,
    Schedule,
    replay,
    smallest_schedule,
    solve_chain,
)

Chains = Callable[..., CostGraph]


@pytest.mark.quick
@pytest.mark.parametrize(("drop", "rigid"), [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize(("parts", "options"), [(1, 2), (2, 3), (3, 2), (4, 2), (5, 1)])
def test_no_order_of_operations_is_faster(
    parts: int,
    options: int,
    drop: bool,
    rigid: bool,
    random_chain: Chains,
    fastest_seconds: Callable[[CostGraph, int], float],
) -> None:
    compared = 0
    for seed in range(6):
        chain = random_chain(seed, parts, options, drop, rigid)
        solver = ChainSolver(chain)
        low, high = solver.smallest.peak_bytes, solver.fastest.peak_bytes
        assert fastest_seconds(chain, low - 1) == np.inf, "the smallest budget is the smallest"
        for budget in np.unique(np.linspace(low, high + 1, 6).astype(int)):
            schedule = solver.solve(int(budget))
            assert schedule.peak_bytes <= budget
            assert schedule.seconds == fastest_seconds(chain, int(budget)), (seed, budget)
            compared += 1
    assert compared >= 12


def test_parts_that_do_not_join_are_not_run_again_together() -> None:
    """Six equal parts, the third of which does not join the second: no stretch goes over that border."""
    keep = Option("keep", 10, 1.0, 2.0)
    joined = CostGraph.chain([Part(str(i), 4, (keep,), left_bytes=1) for i in range(6)])
    parts = [replace(part, joins=i != 2, reruns=i != 5) for i, part in enumerate(joined.parts)]
    torn = CostGraph.chain(parts)
    assert joined.furthest_rerun == (6,) * 6
    assert torn.furthest_rerun == (2, 2, 5, 5, 5, 5)
    assert torn.left_after == (5, 4, 3, 2, 1, 0)
    assert smallest_schedule(joined).peak_bytes < smallest_schedule(torn).peak_bytes
    with pytest.raises(ValueError, match="together with the part before"):
        replay(
            torn,
            [
                Operation(Act.FORWARD_KEEP_INPUT, 0),
                Operation(Act.FORWARD_DISCARD, 1),
                Operation(Act.FORWARD_DISCARD, 2),
            ],
        )
    with pytest.raises(ValueError, match="cannot be run again"):
        replay(torn, [*(Operation(Act.FORWARD_KEEP_ALL, i) for i in range(5)), Operation(Act.FORWARD_KEEP_INPUT, 5)])


def test_dropped_inputs_are_worth_something(random_chain: Chains) -> None:
    """Options that do not need their input lower the smallest budget against the same ones that hold it."""
    lower = 0
    for seed in range(10):
        chain = random_chain(seed, 5, 2, drop=True)
        held = CostGraph.chain(
            [
                Part(
                    p.name,
                    p.output_bytes,
                    tuple(
                        Option(o.kind, o.resident_bytes + (0 if o.keeps_output else p.output_bytes), 1, 1)
                        for o in p.options
                    ),
                )
                for p in chain.parts
            ]
        )
        free = CostGraph.chain(
            [
                Part(
                    p.name,
                    p.output_bytes,
                    tuple(
                        Option(o.kind, o.resident_bytes, 1, 1, 0, 0, o.keeps_output, o.needs_input) for o in p.options
                    ),
                )
                for p in chain.parts
            ]
        )
        assert smallest_schedule(free).peak_bytes <= smallest_schedule(held).peak_bytes
        lower += smallest_schedule(free).peak_bytes < smallest_schedule(held).peak_bytes
    assert lower >= 5


def test_a_budget_that_is_too_small_is_an_error_that_says_the_smallest(random_chain: Chains) -> None:
    chain = random_chain(3, 6, 2)
    with pytest.raises(InfeasibleBudgetError, match="the smallest that works") as caught:
        solve_chain(chain, 1)
    smallest = caught.value.smallest_bytes
    assert f"{smallest:,} bytes" in str(caught.value)
    assert solve_chain(chain, smallest).peak_bytes == smallest
    with pytest.raises(InfeasibleBudgetError):
        solve_chain(chain, smallest - 1)


def big_chain(parts: int, options: int, seed: int = 0) -> CostGraph:
    """Sizes of real networks, with no common divisor."""
    rng = np.random.default_rng(seed)
    listed = []
    for index in range(parts):
        output = int(rng.integers(10**5, 10**7))
        made = tuple(
            Option(
                f"option {o}",
                resident_bytes=output + int(rng.integers(10**5, 10**8) / (o + 1)),
                forward_seconds=float(rng.uniform(1, 2)),
                backward_seconds=float(rng.uniform(2, 4) * (1 + o / 4)),
                forward_bytes=int(rng.integers(0, 10**6)),
                backward_bytes=int(rng.integers(0, 10**7)),
            )
            for o in range(options)
        )
        listed.append(Part(f"part {index}", output, made))
    return CostGraph.chain(listed)


def test_larger_budgets_never_give_slower_plans_and_every_plan_fits() -> None:
    solver = ChainSolver(big_chain(30, 3))
    low, high = solver.smallest.peak_bytes, solver.fastest.peak_bytes
    found = [solver.solve(budget) for budget in np.linspace(low, high * 1.1, 50).astype(int).tolist()]
    for budget, schedule in zip(np.linspace(low, high * 1.1, 50), found, strict=True):
        assert schedule.peak_bytes <= budget
    assert all(later.seconds <= earlier.seconds for earlier, later in itertools.pairwise(found))
    assert found[-1].seconds == solver.fastest.seconds
    assert found[0].seconds > 1.1 * found[-1].seconds
    frontier = solver.frontier(12)
    assert len(frontier) >= 6
    assert all(a.peak_bytes < b.peak_bytes and a.seconds > b.seconds for a, b in itertools.pairwise(frontier))


def test_slots_are_fine_enough() -> None:
    """Within 1 % of the seconds found with five times as many slots."""
    chain = big_chain(25, 3, seed=1)
    coarse, fine = ChainSolver(chain), ChainSolver(chain, slots=5000)
    for share in (0.15, 0.3, 0.5, 0.8):
        budget = int(share * fine.fastest.peak_bytes)
        assert coarse.solve(budget).seconds <= 1.01 * fine.solve(budget).seconds


@pytest.mark.parametrize(
    ("parts", "options", "seconds"), [(100, 4, 10), pytest.param(301, 3, 5, marks=pytest.mark.slow)]
)
def test_many_parts_take_seconds(parts: int, options: int, seconds: float) -> None:
    start = time.process_time()
    chain = big_chain(parts, options)
    solver = ChainSolver(chain)
    for share in (0.1, 0.3, 0.6):
        solver.solve(int(share * solver.fastest.peak_bytes))
    assert time.process_time() - start < seconds


def test_equal_parts_are_reversed_with_logarithmic_memory() -> None:
    """64 equal parts in room for 8 values cost less than three runs of each: the chain is not walked from its start."""
    keep = Option("keep", 1, 1.0, 1.0)
    chain = CostGraph.chain([Part(str(i), 1, (keep,)) for i in range(64)])
    assert solve_chain(chain, 66).seconds == 128
    schedule = solve_chain(chain, 12)
    assert schedule.peak_bytes <= 12
    assert schedule.seconds < 128 + 3 * 64


@pytest.mark.parametrize(
    ("operations", "words"),
    [
        ([Operation(Act.FORWARD_KEEP_ALL, 1), Operation(Act.BACKWARD, 1)], "input is not there"),
        ([Operation(Act.BACKWARD, 1)], "nothing of it is kept"),
        ([Operation(Act.FORWARD_KEEP_ALL, 0), Operation(Act.BACKWARD, 0)], "gradient that is known"),
        ([Operation(Act.FORWARD_KEEP_ALL, 0)], "ends before the backward of part 1"),
        ([Operation(Act.FORWARD_KEEP_ALL, 0, option=7)], "has 1 options"),
        ([Operation(Act.FORWARD_KEEP_ALL, 9)], "2 parts"),
        ([Operation(Act.FORWARD_KEEP_ALL, 0), Operation(Act.FORWARD_KEEP_ALL, 0)], "kept already"),
        ([Operation(Act.FORWARD_KEEP_ALL, 0), Operation(Act.FORWARD_DISCARD, 1)], "cannot be dropped"),
        ([Operation(Act.FORWARD_KEEP_ALL, 0, frees_input=True)], "needs its input"),
        ([Operation(Act.FORWARD_KEEP_INPUT, 0), Operation(Act.FORWARD_KEEP_INPUT, 0)], "there already"),
    ],
)
def test_a_schedule_that_cannot_be_done_is_refused(operations: list[Operation], words: str) -> None:
    keep = Option("keep", 4, 1.0, 1.0)
    chain = CostGraph.chain([Part("a", 2, (keep,)), Part("b", 2, (keep,))])
    with pytest.raises(ValueError, match=words):
        replay(chain, operations)


def test_replay_counts_by_hand() -> None:
    """Two parts; the first is run twice. Bytes at each moment are added up in the comment."""
    first = Option("keep", resident_bytes=10, forward_seconds=1, backward_seconds=2, forward_bytes=5, backward_bytes=7)
    second = Option("keep", resident_bytes=20, forward_seconds=3, backward_seconds=4, backward_bytes=1)
    chain = CostGraph.chain([Part("a", 4, (first,)), Part("b", 8, (second,), gradient_bytes=6)], 3)
    operations = [
        Operation(Act.FORWARD_KEEP_INPUT, 0),  # gradient 6 + output 4 + transient 5
        Operation(Act.FORWARD_KEEP_ALL, 1),  # 6 + 4 + 20
        Operation(Act.BACKWARD, 1),  # 6 + 4 + 20 + gradient of a 4 + transient 1 = 35; then 4 is left
        Operation(Act.FORWARD_KEEP_ALL, 0),  # 4 + 10 + 5
        Operation(Act.BACKWARD, 0),  # 4 + 10 + 3 + 7
    ]
    assert replay(chain, operations) == (35, 1 + 3 + 4 + 1 + 2)
    assert Schedule.of(chain, operations).options() == {0: 0, 1: 0}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Option("keep", -1, 1, 1), "resident_bytes must be at least 0"),
        (lambda: Option("keep", 1.5, 1, 1), "whole number of bytes"),
        (lambda: Option("keep", 1, float("nan"), 1), "finite"),
        (lambda: Part("a", 4, ()), "no options"),
        (lambda: Part("a", 4, (Option("keep", 3, 1, 1),)), "keeps_output=False"),
        (lambda: CostGraph((Part("a", 1, (Option("keep", 3, 1, 1),), inputs=(0,)),)), "reads only earlier ones"),
        (lambda: solve_chain(CostGraph(()), 5), "at least one part"),
        (lambda: ChainSolver(CostGraph.chain([Part("a", 1, (Option("k", 3, 1, 1),))]), slots=0), "at least 1"),
        (lambda: solve_chain(CostGraph.chain([Part("a", 1, (Option("k", 3, 1, 1),))]), 1.5), "whole number"),
    ],
)
def test_nonsense_is_refused(make: Callable[[], object], words: str) -> None:
    with pytest.raises((ValueError, TypeError), match=words):
        make()


def test_a_graph_that_is_no_chain_is_refused() -> None:
    keep = Option("keep", 4, 1.0, 1.0)
    graph = CostGraph((Part("a", 2, (keep,)), Part("b", 2, (keep,)), Part("c", 2, (keep,), inputs=(0, 1))))
    with pytest.raises(ValueError, match="not a chain"):
        solve_chain(graph, 100)
