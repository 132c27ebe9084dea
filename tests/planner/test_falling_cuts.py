"""Cuts for a backward pass that frees what it is done with: as good as the best of all plans of small chains."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import pytest

from zoo.planner import CutChain, CutPlan
from zoo.planner.cuts import least_memory_cuts
from zoo.planner.falling_cuts import falling_frontier, falling_peak, least_falling_cuts


def chains(count: int) -> Iterator[CutChain]:
    draw = random.Random(3)
    for _ in range(count):
        cuts = draw.randint(1, 5)
        sizes = [tuple(draw.randint(1, most) for _ in range(cuts + more)) for most, more in ((6, 0), (20, 1))]
        yield CutChain(sizes[0], sizes[1], tuple(float(draw.randint(1, 9)) for _ in range(cuts + 1)))


def every_plan(chain: CutChain) -> Iterator[CutPlan]:
    count = len(chain.cut_bytes)
    for many in range(count + 1):
        for cuts in itertools.combinations(range(count), many):
            gaps = [gap for gap in range(count + 1) if {gap - 1, gap} & set(range(count)) <= set(cuts)]
            for kept in range(len(gaps) + 1):
                yield from (CutPlan.of(chain, cuts, whole) for whole in itertools.combinations(gaps, kept))


def test_no_plan_is_smaller_and_none_within_its_peak_does_less() -> None:
    for chain in chains(25):
        plans = [(falling_peak(chain, plan), plan.work) for plan in every_plan(chain)]
        assert falling_peak(chain, least_falling_cuts(chain)) == min(peak for peak, _ in plans)
        for found in falling_frontier(chain):
            peak = falling_peak(chain, found)
            assert found.work >= min(work for other, work in plans if other <= peak)
        peaks = [falling_peak(chain, found) for found in falling_frontier(chain)]
        assert peaks[0] == min(peaks)


def test_stretches_become_shorter_towards_the_end() -> None:
    chain = CutChain((1,) * 63, (4,) * 64, (1.0,) * 64)
    falling, even = least_falling_cuts(chain), least_memory_cuts(chain)
    apart = [after - before for before, after in itertools.pairwise((-1, *falling.cuts))]
    assert apart == sorted(apart, reverse=True)
    assert falling_peak(chain, falling) < 0.8 * even.peak_bytes


def test_everything_kept_is_a_peak_too() -> None:
    chain = CutChain((3,), (1, 1), (1.0, 1.0))
    assert falling_peak(chain, CutPlan.of(chain, [0], [0, 1])) == 5
    with pytest.raises(ValueError, match="cannot be kept whole"):
        CutPlan.of(chain, [], [1])
