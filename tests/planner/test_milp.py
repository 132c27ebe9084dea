"""The dynamic programme and the price on noise against HiGHS's optimum of the joint 0-1 programme."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from zoo.planner import ChainSolver, CostGraph, InfeasibleBudgetError, Option, Part, noise_of, solve_quietly
from zoo.planner.milp import solve_milp

Chains = Callable[..., CostGraph]


@pytest.mark.parametrize(("drop", "rigid"), [(False, False), (False, True), (True, False), (True, True)])
def test_the_chain_solver_is_never_slower_than_the_programme(drop: bool, rigid: bool, random_chain: Chains) -> None:
    """Whatever options keep or let go: its schedules fit when replayed, and most are the fastest there are."""
    compared = equal = 0
    for seed in range(5):
        chain = random_chain(seed, 6, 2, drop, rigid)
        solver = ChainSolver(chain)
        for budget in np.linspace(solver.smallest.peak_bytes, solver.fastest.peak_bytes, 4).astype(int).tolist():
            try:
                found = solve_milp(chain, budget)
            except InfeasibleBudgetError:
                continue  # only stretches within stretches fit
            assert found.peak_bytes <= budget
            assert solver.solve(budget).seconds <= found.seconds + 1e-9
            compared, equal = compared + 1, equal + (solver.solve(budget).seconds == found.seconds)
    assert compared >= 15
    assert equal >= compared / 2, "the programme finds the same where nothing is nested"


def test_a_limit_on_noise_costs_at_most_two_per_cent_more_than_the_optimum(random_chain: Chains) -> None:
    compared = 0
    for seed in range(4):
        rng = np.random.default_rng(seed)
        parts = []
        for index in range(12):
            output, loud = int(rng.integers(2, 6)), float(rng.uniform(0.1, 1))
            coded = [Option(f"{b} bits", output + b, 1.2, 2.2, noise=loud / 4**b) for b in (4, 2)]
            parts.append(Part(str(index), output, (Option("keep", output + int(rng.integers(10, 30)), 1, 2), *coded)))
        chain = CostGraph.chain(parts)
        solver = ChainSolver(chain)
        budget = (solver.smallest.peak_bytes + solver.fastest.peak_bytes) // 2
        limit = noise_of(chain, solve_quietly(chain, budget)) / 2
        best, found = solve_milp(chain, budget, limit), solve_quietly(chain, budget, limit)
        assert noise_of(chain, best) <= limit + 1e-9
        assert found.seconds <= 1.02 * best.seconds
        compared += 1
    assert compared == 4
    with pytest.raises(ValueError, match="at most 16 parts"):
        solve_milp(random_chain(0, 17, 1), 100)
