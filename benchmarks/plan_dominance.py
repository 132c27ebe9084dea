"""Plans against the best single technique within the same budget: predicted, and measured by steps in turns."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import nn

import zoo
from pytorch_models.planning import sweep_plans
from pytorch_models.planning.alone import now
from pytorch_models.planning.step import default_loss
from zoo.planner import InfeasibleBudgetError, Plan
from zoo.report import MIB

HEADS = ("model", "budget", "time", "best single", "predicted gain", "measured gain", "which")
BUDGETS = (0.5, 0.3, 0.2)
SHAPES: Mapping[str, tuple[int, ...]] = MappingProxyType(  # small batches: a step takes a fraction of a second
    {
        "resnet20": (16, 3, 32, 32),
        "resnet56": (16, 3, 32, 32),
        "preact_resnet56": (16, 3, 32, 32),
        "resnet18": (8, 3, 64, 64),
        "resnet50": (8, 3, 64, 64),
        "mobilenet_v2": (8, 3, 64, 64),
        "densenet_bc_40_12": (16, 3, 32, 32),
        "lstm_pixel_mnist": (16, 1, 28, 28),
    }
)


def rows_of(name: str, budgets: Sequence[float], allow: Sequence[str], times: str, rounds: int) -> Iterator[list[str]]:
    """One row a budget; gains are how much longer a step by the best single technique takes: as the planner has it, by
    counting or by the steps it took, and measured again."""
    model, shape = zoo.create_model(name), SHAPES[name]
    sweep = sweep_plans(model, shape, budgets, allow=allow, times=times)
    for budget, plan in zip(budgets, sweep.plans, strict=True):
        row = [name, f"{budget:g}"]
        if isinstance(plan, InfeasibleBudgetError):
            yield [*row, f"smallest {plan.smallest_bytes / MIB:.1f} MiB", "", "", "", ""]
            continue
        plain = sweep.methods["keep"].seconds
        row.append(f"{plan.seconds / plain:.3f}")
        best = sweep.best_single(plan.budget_bytes)
        if best is None:
            yield [*row, "none fits", "", "", ""]
            continue
        single = sweep.methods[best]
        row.append(f"{single.seconds / plain:.3f}")
        gain = single.seconds / plan.seconds - 1
        same = single.decides_as(plan)
        measured = "the same plan" if same else f"{measured_gain(model, shape, plan, single, rounds):+.1%}"
        yield [*row, f"{gain:+.1%}", measured, best]


def measured_gain(model: nn.Module, shape: Sequence[int], plan: Plan, single: Plan, rounds: int) -> float:
    """By how much a real step takes longer with `single` than with `plan`: medians of steps in turns, in CPU
    seconds on one thread."""
    torch.manual_seed(0)
    batch = torch.randn(*shape)
    models = [one.apply(copy.deepcopy(model)) for one in (plan, single)]
    seconds: list[list[float]] = [[], []]
    for _ in range(rounds + 1):
        for taken, one in zip(seconds, models, strict=True):
            one.zero_grad(set_to_none=True)
            start = now("cpu")
            default_loss(one(batch)).backward()
            taken.append(now("cpu") - start)
    first, second = (statistics.median(taken[1:]) for taken in seconds)
    return second / first - 1
