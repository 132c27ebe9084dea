"""What a plan is asked for, checked before any work, in every framework alike."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from zoo.choices import unknown
from zoo.planner.adapt import PlanChangedWarning
from zoo.planner.budget import parse_budget
from zoo.planner.graph import check_amount
from zoo.planner.kinds import check_allowed
from zoo.planner.plan import Plan
from zoo.planner.rounds import SOLVERS

TIMES, OBJECTIVES = ("measured", "counted"), ("time", "memory")


@dataclass(frozen=True)
class Asked:
    """What a plan is asked for with, checked; see `zoo.plan`.

    Args:
        allow: a word or words; kept as words.

    Raises:
        TypeError, ValueError: a budget, a technique or a word that is none, with the nearest.

    Example:
        >>> Asked((8, 3, 32, 32), "1GiB", allow="recompute").allow
        ('recompute',)
    """

    batch: Any
    budget: int | float | str
    allow: Any = ("recompute",)
    max_noise: float | None = None
    objective: str = "time"
    loss: Callable[[Any], Any] | None = None
    times: str = "measured"
    solver: str = "chain"

    def __post_init__(self) -> None:
        allowed = check_asked(self.budget, self.allow, self.objective, self.times, self.solver)
        if self.max_noise is not None:
            check_amount("plan: max_noise", self.max_noise)
        if self.loss is not None and not callable(self.loss):
            raise TypeError(f"plan: loss must be a function of what the model gives, not {self.loss!r}")
        object.__setattr__(self, "allow", allowed)

    @property
    def reruns(self) -> bool:
        """Whether parts may run again."""
        return "recompute" in self.allow

    def without(self, framework: str, lacks: Sequence[str]) -> Asked:
        """The same without what a framework cannot do, which is said aloud.

        Warns:
            PlanChangedWarning: names what is left out.
        """
        return replace(self, allow=without_lacking(framework, self.allow, lacks))

    def check_no_loss(self, framework: str, planned_with: str) -> None:
        """Refuse a loss where a step is planned with one alone.

        Raises:
            ValueError: there is one.
        """
        if self.loss is not None:
            raise ValueError(f"plan: in {framework} a step is planned with {planned_with}: leave loss out")


def check_asked(budget: Any, allow: Any, objective: str, times: str, solver: str) -> tuple[str, ...]:
    """What may be done to save, out of what was asked for.

    Raises:
        TypeError, ValueError: a budget, a technique or a word that is none, with the nearest.

    Example:
        >>> check_asked("1GiB", "recompute", "time", "measured", "chain")
        ('recompute',)
    """
    parse_budget(budget, 2**60)
    allowed = check_allowed(allow)
    words = (("objective", objective, OBJECTIVES), ("times", times, TIMES), ("solver", solver, SOLVERS))
    for name, value, valid in words:
        if value not in valid:
            raise ValueError(f"plan: {unknown(name, value, valid)}")
    return allowed


def without_lacking(framework: str, allowed: Sequence[str], lacks: Sequence[str]) -> list[str]:
    """Leave out, aloud, what a framework cannot do.

    Warns:
        PlanChangedWarning: names what is left out.
    """
    lacking = [word for word in allowed if word in lacks]
    if lacking:
        warnings.warn(
            f"plan: {framework} cannot {' or '.join(lacking)}: planned without", PlanChangedWarning, stacklevel=6
        )
    return [word for word in allowed if word not in lacks]


def batch_shape(batch: Any) -> tuple[int, ...]:
    """The sizes of a batch, or of an array.

    Raises:
        TypeError, ValueError: no whole numbers, or none above 0.

    Example:
        >>> batch_shape((8, 3, 32, 32))
        (8, 3, 32, 32)
    """
    sizes = tuple(batch.shape) if hasattr(batch, "shape") else tuple(batch) if isinstance(batch, Iterable) else ()
    if not sizes or not all(hasattr(size, "__index__") and not isinstance(size, bool) for size in sizes):
        raise TypeError(f"plan: batch must be a shape or a number of samples, not {batch!r}")
    if min(sizes) < 1:
        raise ValueError(f"plan: a batch's shape needs positive sizes, the batch first, not {sizes}")
    return tuple(int(size) for size in sizes)


def check_made_for(plan: Plan, fingerprint: str, model: object, where: str) -> None:
    """Refuse a plan of another model.

    Raises:
        ValueError: says of which it is.
    """
    problem = plan.is_of_other_model(fingerprint, type(model).__name__)
    if problem:
        raise ValueError(f"{where}: {problem}")
