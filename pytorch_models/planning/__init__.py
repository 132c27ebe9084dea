"""Plans for PyTorch: any `nn.Module` is traced, priced part by part, and made to fit a byte budget.

Planning works on a copy without data: the model, its random streams, its statistics and its modes are not touched.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from pytorch_models.devices import check_device, devices_for
from pytorch_models.planning.carry_out import apply_plan, planned_root, remove_plan
from pytorch_models.planning.fingerprint import fingerprint_of
from pytorch_models.planning.graph import Pricing, cost_graph
from pytorch_models.planning.parts import find_parts
from pytorch_models.planning.race import step_seconds
from pytorch_models.planning.settings import set_policy
from pytorch_models.planning.step import as_call, autocasting, check_machine, default_loss, step_bytes
from pytorch_models.planning.timeline import timeline_of
from pytorch_models.planning.trace import device_type_of, fake_copy, tensors_in, trace
from zoo.field_checks import check_switch
from zoo.planner import Plan, parse_budget
from zoo.planner.adapt import adapted_plan
from zoo.planner.asked import Asked, check_made_for
from zoo.planner.kinds import KEEP, KINDS, kinds_for
from zoo.planner.rounds import Search
from zoo.planner.study import PlanStudy, Sweep, Timeline, planned, studied, swept

__all__ = ["adapt_plan", "apply_plan", "make_plan", "real_peak", "remove_plan", "study_plan", "sweep_plans"]

Result = TypeVar("Result")


def make_plan(
    model: nn.Module,
    batch: Any,
    *,
    budget: int | float | str,
    allow: str | Iterable[str] = ("recompute",),
    max_noise: float | None = None,
    objective: str = "time",
    loss: Callable[[Any], Tensor] | None = None,
    times: str = "measured",
    solver: str = "chain",
    amp: bool = False,
    device: str | None = None,
) -> Plan:
    """The plan of a model under a budget; see `zoo.plan`.

    Args:
        batch: a tensor, a tuple of arguments, a mapping of keywords, or a shape with the batch first.
        loss: of what the model gives; by default cross-entropy of (N, classes), else a mean square.
        times: "measured" runs each kind of part for a moment; "counted" adds up operations and bytes.
        solver: "chain", or "milp" for at most 16 parts.
        amp: the step will run under autocast, to the dtype that `train` uses on its device.
        device: where the step will run, "auto" too as in training; None = where the model is.

    Raises:
        InfeasibleBudgetError: the budget is too small; states the smallest.
        TypeError, ValueError: as `zoo.plan`.
    """
    asked = Asked(batch, budget, allow, max_noise, objective, loss, times, solver)
    with _placed(model, amp, device) as placed, _prepared(placed, asked) as (search, _):
        return planned(search, objective)


def study_plan(
    model: nn.Module,
    batch: Any,
    *,
    budget: int | float | str,
    allow: str | Iterable[str] = ("recompute",),
    max_noise: float | None = None,
    loss: Callable[[Any], Tensor] | None = None,
    times: str = "measured",
    amp: bool = False,
    device: str | None = None,
) -> PlanStudy:
    """`make_plan`, with what is drawn beside a plan."""
    asked = Asked(batch, budget, allow, max_noise, "time", loss, times)
    with _placed(model, amp, device) as placed, _prepared(placed, asked) as (search, timeline):
        found = studied(search)
        return replace(found, timelines={"plain": timeline(None), "plan": timeline(found.plan)})


def sweep_plans(
    model: nn.Module,
    batch: Any,
    budgets: Iterable[int | float | str],
    *,
    between: Iterable[float] = (),
    allow: str | Iterable[str] = ("recompute",),
    loss: Callable[[Any], Tensor] | None = None,
    times: str = "measured",
) -> Sweep:
    """A plan, or why there is none, for each budget, from one pricing of the model; see `zoo.planner.study.swept`."""
    _check(model)
    with _prepared(model, Asked(batch, 2**60, allow, None, "time", loss, times)) as (search, _):
        return swept(search, budgets, between)


def adapt_plan(plan: Plan, model: nn.Module) -> Plan:
    """See `zoo.planner.Plan.adapted`: a plan of another framework for a model of the zoo in PyTorch."""
    check_made_for(plan, fingerprint_of(model), model, "Plan.adapted")
    _check(model)
    asked = Asked(plan.input_shape, plan.budget_bytes, ("recompute", "compress"), times="counted")
    with _prepared(model, asked) as (search, _):
        return adapted_plan(plan, search)


def real_peak(plan: Plan, model: nn.Module, loss: Callable[[Any], Tensor] | None = None) -> int:
    """Peak bytes of one step that is really run, with a plan, on a copy of the model and inputs of zeros.

    Raises:
        MemoryError: it needs more than the machine has.
    """
    check_machine(plan, model)
    copied = copy.deepcopy(model)
    args, kwargs = as_call(copied, plan.input_shape)
    args, kwargs = tree_map_only(Tensor, _with_storage, (args, kwargs))
    apply_plan(plan, copied)
    with torch.random.fork_rng():
        return step_bytes(copied, args, kwargs, loss or default_loss)[0]


@contextlib.contextmanager
def _placed(model: nn.Module, amp: bool, device: str | None) -> Iterator[nn.Module]:
    """The model, or its copy on another device; what is run meanwhile runs under autocast, if `amp`."""
    _check(model)
    check_switch("plan: amp", amp)
    if device is not None:
        check_device(device)
    placed = model if device is None else copy.deepcopy(model).to(devices_for(device)[0])
    with autocasting(placed, amp):
        yield placed


@contextlib.contextmanager
def _prepared(model: nn.Module, asked: Asked) -> Iterator[tuple[Search, Callable[[Plan | None], Timeline]]]:
    """The model traced and priced on a copy without data, which lives as long as the context."""
    loss = asked.loss or default_loss
    args, kwargs = as_call(model, asked.batch)
    if device_type_of((*model.parameters(), *tensors_in((args, kwargs)))) == "cpu":
        asked = asked.without("a model in host memory", ("swap",))
    shape = next((tuple(tensor.shape) for tensor in tensors_in((args, kwargs))), ())
    with fake_copy(model, (args, kwargs)) as (copied, (args, kwargs)):
        set_policy(copied, KINDS[KEEP])
        args, kwargs = tree_map_only(Tensor, _with_storage, (args, kwargs))
        found = trace(copied, lambda: loss(copied(*args, **kwargs)))
        plain_peak, _ = step_bytes(copied, args, kwargs, loss)
        limit = parse_budget(asked.budget, plain_peak)
        timed = model if asked.times == "measured" else None
        pricing = Pricing(copied, timed, kinds_for(asked.allow), shape[0] if shape else 1, {})
        graph = cost_graph(found, find_parts(found), pricing, loss, asked.reruns)
        words: dict[str, Any] = {
            "framework": "torch",
            "model": _in_words(model),
            "fingerprint": fingerprint_of(model),
        }
        words |= {"input_shape": shape, "budget_bytes": limit, "plain_peak_bytes": plain_peak}
        measure = partial(_with_plan, copied, lambda: step_bytes(copied, args, kwargs, loss))
        timeline = partial(_with_plan, copied, lambda: timeline_of(copied, args, kwargs, loss))
        race = None if timed is None or asked.solver != "chain" else partial(step_seconds, model, asked.batch, loss)
        yield Search(graph, measure, words, asked.max_noise, asked.solver, race=race), timeline


def _in_words(model: nn.Module) -> str:
    in_words = getattr(getattr(model, "spec", None), "in_words", None)
    return str(in_words()) if callable(in_words) else type(model).__name__


def _with_storage(tensor: Tensor) -> Tensor:
    """A tensor that was expanded from one value, as one with values of its own."""
    return tensor.contiguous() if 0 in tensor.stride() else tensor


def _with_plan(copied: nn.Module, what: Callable[[], Result], plan: Plan | None) -> Result:
    """What happens in a model with a plan applied; None = in the model as it is."""
    if plan is None:
        return what()
    apply_plan(plan, copied)
    try:
        return what()
    finally:
        remove_plan(plan, copied)


def _check(model: Any) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"plan: model must be a torch.nn.Module, not a {type(model).__name__}")
    if planned_root(model) is not None:
        raise ValueError("plan: this model has a plan already: remove it first, with plan.remove(model)")
