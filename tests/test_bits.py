"""Bit allocation: within the budget, near the optimum, floors kept."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from zoo.bits import WIDTHS, added_variance, allocate


@pytest.mark.quick
@pytest.mark.parametrize("seed", range(6))
def test_few_items_are_solved_exactly(seed: int) -> None:
    costs = np.random.default_rng(seed).lognormal(0, 3, 5)
    best = min(
        (added_variance(costs, bits) for bits in itertools.product(WIDTHS, repeat=5) if sum(bits) <= 15),
    )
    found = allocate(costs, np.ones(5), 3)
    assert found.sum() <= 15
    assert added_variance(costs, found) == pytest.approx(best)


@pytest.mark.parametrize("average", [1, 1.5, 2, 3.3, 8, 40])
def test_greedy_keeps_the_budget_and_spends_it(average: float) -> None:
    rng = np.random.default_rng(1)
    costs, sizes = rng.lognormal(0, 4, 300), rng.integers(1, 9, 300).astype(float)
    found = allocate(costs, sizes, average)
    spent = float(found @ sizes) / sizes.sum()
    assert spent <= average + 1e-9
    assert spent >= min(average, 8) - 0.05
    if average == 2:
        assert added_variance(costs, found) < added_variance(costs, np.full(300, 2)) / 3
    if average in (2, 3.3):  # what costs more gets more
        assert np.corrcoef(np.log(costs / sizes), found)[0, 1] > 0.3


def test_floors_are_kept_where_they_cost_more_than_the_average() -> None:
    least = [8] * 10 + [1] * 10
    found = allocate(np.ones(20), np.arange(1.0, 21), 2, (1, 2, 4, 8, 32), least)
    assert (found >= least).all()


@pytest.mark.parametrize(
    ("costs", "sizes", "average", "words"),
    [([1.0], [1.0, 2.0], 2, "one weight an item"), ([1.0], [1.0], 0.5, "narrowest width")],
)
def test_bad_arguments_are_named(costs: list[float], sizes: list[float], average: float, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        allocate(costs, sizes, average)


def test_infinite_costs_and_no_items() -> None:
    assert allocate([np.inf, np.nan, 1.0], [1, 1, 1], 4).tolist()[2] <= 4
    assert allocate([], [], 2).tolist() == []
