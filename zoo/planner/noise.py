"""A limit on noise: options that round what they keep are priced until a schedule is quiet enough."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from zoo.planner.chain import ChainSolver, InfeasibleBudgetError
from zoo.planner.graph import CostGraph, Option, Part, check_amount
from zoo.planner.kinds import bits_of, rounding_variance
from zoo.planner.schedule import Schedule

ROUNDS = 8


def with_noise(parts: Sequence[Part]) -> list[Part]:
    """The parts, their options' noise by the kind: the rounding variance of what is coded, weighed by the part's share
    of all that a plain step keeps.

    Example:
        >>> from zoo.planner import Option
        >>> options = (Option("keep", 10, 1.0, 2.0), Option("2 bits", 4, 1.0, 2.0))
        >>> [round(option.noise, 2) for option in with_noise([Part("only", 4, options)])[0].options]
        [0.0, 0.6]
    """
    total = max(sum(part.options[0].resident_bytes for part in parts), 1)

    def quiet_or_not(part: Part, option: Option) -> Option:
        bits = bits_of(option.kind)
        share = part.options[0].resident_bytes / total
        return replace(option, noise=share * rounding_variance(bits) if bits else 0.0)

    return [replace(part, options=tuple(quiet_or_not(part, one) for one in part.options)) for part in parts]


def noise_of(chain: CostGraph, schedule: Schedule) -> float:
    """The variances of all chosen options, added up."""
    return math.fsum(chain.parts[part].options[option].noise for part, option in schedule.options().items())


def solve_quietly(chain: CostGraph, budget_bytes: int, max_noise: float | None = None) -> Schedule:
    """The fastest schedule found within the budget whose noise is at most `max_noise` (None: any).

    Seconds plus price times noise are minimised, and the price is bisected. What it finds is at most slower than the
    fastest by what one part's options differ.

    Raises:
        InfeasibleBudgetError: too small; where only the noise stands in the way, the smallest exact budget is stated.

    Example:
        >>> from zoo.planner import Option, Part
        >>> coded = Option("4 bits", 2, 1.0, 3.0, keeps_output=False, noise=0.1)
        >>> chain = CostGraph.chain([Part(str(i), 4, (Option("keep", 10, 1.0, 2.0), coded)) for i in range(4)])
        >>> noise_of(chain, solve_quietly(chain, 30, max_noise=0.2)) <= 0.2
        True
    """
    if max_noise is None:
        return ChainSolver(chain).solve(budget_bytes)
    check_amount("max_noise", max_noise)
    loud: Schedule | None = _priced(chain, budget_bytes, 0.0)
    if loud is None or noise_of(chain, loud) <= max_noise:
        return loud or _exact(chain, budget_bytes)
    best: Schedule | None = None
    total = sum(option.forward_seconds + option.backward_seconds for part in chain.parts for option in part.options)
    low, high = 0.0, total / max(noise_of(chain, loud), 1e-300)
    for _ in range(ROUNDS):
        price = high if best is None else (low + high) / 2
        found = _priced(chain, budget_bytes, price)
        if found is not None and noise_of(chain, found) <= max_noise:
            best = found if best is None or found.seconds <= best.seconds else best
            high = price
        else:
            low, high = price, high if best is not None else 16 * high
    return best if best is not None else _exact(chain, budget_bytes)


def _priced(chain: CostGraph, budget_bytes: int, price: float) -> Schedule | None:
    """The best schedule at a price, with its true cost; None where none fits."""
    parts = [
        replace(
            part, options=tuple(replace(o, backward_seconds=o.backward_seconds + price * o.noise) for o in part.options)
        )
        for part in chain.parts
    ]
    try:
        found = ChainSolver(CostGraph.chain(parts, chain.input_gradient_bytes)).solve(budget_bytes)
    except InfeasibleBudgetError:
        return None
    return Schedule.of(chain, found.operations)


def _exact(chain: CostGraph, budget_bytes: int) -> Schedule:
    """The fastest schedule without any noise."""
    quiet = [tuple(index for index, option in enumerate(part.options) if not option.noise) for part in chain.parts]
    parts = [
        replace(part, options=tuple(part.options[i] for i in kept) or part.options)
        for part, kept in zip(chain.parts, quiet, strict=True)
    ]
    found = ChainSolver(CostGraph.chain(parts, chain.input_gradient_bytes)).solve(budget_bytes)
    places = [kept or tuple(range(len(part.options))) for part, kept in zip(chain.parts, quiet, strict=True)]
    operations = (replace(step, option=places[step.part][step.option]) for step in found.operations)
    return Schedule.of(chain, operations)
