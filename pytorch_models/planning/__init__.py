"""Plans for PyTorch: any `nn.Module` is traced, priced part by part, and made to fit a byte budget.

Planning works on a copy without data: the model, its random streams, its statistics and its modes are not touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from pytorch_models.planning.carry_out import apply_plan, planned_root, remove_plan
from pytorch_models.planning.fingerprint import fingerprint_of
from pytorch_models.planning.graph import Pricing, cost_graph
from pytorch_models.planning.parts import find_parts
from pytorch_models.planning.rounds import Search, within_budget
from pytorch_models.planning.settings import set_policy
from pytorch_models.planning.step import as_call, default_loss, step_bytes
from pytorch_models.planning.trace import fake_copy, tensors_in, trace
from zoo.choices import unknown
from zoo.planner import Plan, parse_budget
from zoo.planner.kinds import KEEP, KINDS, check_allowed, kinds_for

__all__ = ["apply_plan", "make_plan", "remove_plan"]

TIMES = ("measured", "counted")
OBJECTIVES = ("time", "memory")


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
) -> Plan:
    """The plan of a model under a budget; see `zoo.plan`.

    Args:
        batch: a tensor, a tuple of arguments, a mapping of keywords, or a shape with the batch first.
        loss: of what the model gives; by default cross-entropy of (N, classes), else a mean square.
        times: "measured" runs each kind of part for a moment; "counted" adds up operations and bytes.

    Raises:
        InfeasibleBudgetError: the budget is too small; states the smallest.
        TypeError, ValueError: as `zoo.plan`.
    """
    allowed = _checked(model, budget, allow, objective, times)
    args, kwargs = as_call(model, batch)
    shape = next((tuple(tensor.shape) for tensor in tensors_in((args, kwargs))), ())
    loss = loss or default_loss
    with fake_copy(model, (args, kwargs)) as (copied, (args, kwargs)):
        set_policy(copied, KINDS[KEEP])
        args, kwargs = tree_map_only(
            Tensor, lambda tensor: tensor.contiguous() if 0 in tensor.stride() else tensor, (args, kwargs)
        )
        plain_peak, _ = step_bytes(copied, args, kwargs, loss)
        limit = parse_budget(budget, plain_peak)
        found = trace(copied, lambda: loss(copied(*args, **kwargs)))
        parts = find_parts(found)
        timed = model if times == "measured" else None
        pricing = Pricing(copied, timed, kinds_for(allowed), shape[0] if shape else 1, {})
        graph = cost_graph(found, parts, pricing, loss, "recompute" in allowed)
        words = {"framework": "torch", "model": type(model).__name__, "fingerprint": fingerprint_of(model)}
        search = Search(
            graph,
            partial(_measured, copied, args, kwargs, loss),
            {**words, "input_shape": shape, "budget_bytes": limit, "plain_peak_bytes": plain_peak},
            max_noise,
        )
        return within_budget(search, limit, smallest=objective == "memory")


def _with_storage(tensor: Tensor) -> Tensor:
    """A tensor that was expanded from one value, as one with values of its own."""
    return tensor.contiguous() if 0 in tensor.stride() else tensor


def _measured(copied: nn.Module, args: Any, kwargs: Any, loss: Callable[[Any], Tensor], plan: Plan) -> tuple[int, int]:
    apply_plan(plan, copied)
    try:
        return step_bytes(copied, args, kwargs, loss)
    finally:
        remove_plan(plan, copied)


def _checked(model: Any, budget: Any, allow: Any, objective: str, times: str) -> tuple[str, ...]:
    """The checks that need no work."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"plan: model must be a torch.nn.Module, not a {type(model).__name__}")
    if planned_root(model) is not None:
        raise ValueError("plan: this model has a plan already: remove it first, with plan.remove(model)")
    parse_budget(budget, 2**60)
    allowed = check_allowed(allow)
    for name, value, valid in (("objective", objective, OBJECTIVES), ("times", times, TIMES)):
        if value not in valid:
            raise ValueError(f"plan: {unknown(name, value, valid)}")
    if "swap" in allowed:
        raise ValueError(
            "plan: 'swap' moves what is kept from a GPU to host memory; plans cannot do that yet: leave it out of allow"
        )
    return allowed
