"""Plans for TensorFlow: the zoo's models, block by block, kept, saved by their own ways or run again, within a budget.

Bytes are those of a step in graph mode, as TensorFlow's profiler tells: steps really run to be measured, and of three
the one that needs most counts, because operators run side by side as they come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from tf_models.carry_out import CarriedPlan
from tf_models.measure import random_batch, step_allocations
from tf_models.part_costs import cost_graph
from tf_models.step import in_mixed_precision
from tf_models.zoo_model import ZooModel
from zoo.planner import Plan, parse_budget
from zoo.planner.adapt import adapted_plan, fingerprint_of_spec
from zoo.planner.asked import Asked, batch_shape, check_made_for
from zoo.planner.kinds import KEEP, KINDS, bits_of, kinds_for
from zoo.planner.rounds import Search
from zoo.planner.study import PlanStudy, planned, studied


def make_plan(
    model: ZooModel,
    batch: Any,
    *,
    budget: int | float | str,
    allow: str | Iterable[str] = ("recompute",),
    max_noise: float | None = None,
    objective: str = "time",
    loss: Callable[[Any], Any] | None = None,
    times: str = "measured",
    solver: str = "chain",
    amp: bool = False,
    device: str | None = None,
) -> Plan:
    """The plan of a zoo model under a budget; see `zoo.plan`.

    Args:
        model: one of this package's; its variables end as they were.
        batch: a shape as zoo counts, batch first: images (N, C, H, W) whatever the model's data_format.
        allow: "recompute"; and "compress", where the model was built with codes (`compressed=4`, say), whose parts a
            plan then tells how many bits to keep. "swap" and what else is lacking is left out with a
            `PlanChangedWarning`.
        loss: none but cross entropy is planned for.
        amp: the step will run in mixed precision, as `train` does it.
        device: is not looked at: bytes are counted on the CPU.
        budget, max_noise, objective, times, solver: as `zoo.plan`.

    Raises:
        InfeasibleBudgetError: the budget is too small; states the smallest.
        TypeError, ValueError: as `zoo.plan`.
    """
    asked = Asked(batch, budget, allow, max_noise, objective, loss, times, solver)
    return planned(_prepared(model, asked, amp), objective)


def real_peak(plan: Plan, model: ZooModel, loss: Any = None) -> int:
    """Peak bytes of one real step: the plan's figure was measured by one."""
    return plan.peak_bytes


def study_plan(
    model: ZooModel,
    batch: Any,
    *,
    budget: int | float | str,
    allow: str | Iterable[str] = ("recompute",),
    max_noise: float | None = None,
    loss: Callable[[Any], Any] | None = None,
    times: str = "measured",
    amp: bool = False,
    device: str | None = None,
) -> PlanStudy:
    """`make_plan`, with the frontier and the known methods beside it; how memory runs over a step is not told."""
    return studied(_prepared(model, Asked(batch, budget, allow, max_noise, "time", loss, times), amp))


def _prepared(model: Any, asked: Asked, amp: bool) -> Search:
    """The checks, and the model priced."""
    asked.check_no_loss("TensorFlow", "cross entropy")
    shape = _shape(model, asked.batch)
    computing = in_mixed_precision(model) if amp else model
    return _search(computing, shape, asked.without(*_lacking(computing)))


def adapt_plan(plan: Plan, model: ZooModel) -> Plan:
    """See `zoo.planner.Plan.adapted`."""
    _check(model, "Plan.adapted")
    check_made_for(plan, fingerprint_of_spec(model.spec), model, "Plan.adapted")
    allowed = ("recompute",) if model.code_seeds is None else ("recompute", "compress")
    asked = Asked(plan.input_shape, plan.budget_bytes, allowed, times="counted")
    return adapted_plan(plan, _search(model, plan.input_shape, asked))


def apply_plan(plan: Plan, model: ZooModel) -> ZooModel:
    """See `zoo.planner.Plan.apply`; `fit` makes its graph anew, functions of one's own are to be made afterwards."""
    _check(model, "Plan.apply")
    if model.carried_plan is not None:
        raise ValueError("Plan.apply: this model has a plan already: remove that one first")
    check_made_for(plan, fingerprint_of_spec(model.spec), model, "Plan.apply")
    names = tuple(name for name, _ in model.part_functions())
    if names != tuple(part.name for part in plan.parts[: len(names)]):
        raise ValueError(f"Plan.apply: the plan's parts are not the model's: {names}; give plan.adapted(model)")
    coded = [part for part in plan.parts if bits_of(part.choice)]
    if coded and model.code_seeds is None:
        raise ValueError(
            f"Plan.apply: {coded[0].name} is to be kept in {coded[0].choice}, and this model was built without codes: "
            "build it with compressed=4"
        )
    policies = {part.name: KINDS[part.choice] for part in plan.parts[: len(names)]}
    model.carried_plan, model.train_function = CarriedPlan(plan, names, policies, plan.steps), None
    return model


def remove_plan(plan: Plan, model: ZooModel) -> ZooModel:
    """See `zoo.planner.Plan.remove`."""
    carried = getattr(model, "carried_plan", None)
    if carried is not None and plan.undoes(carried.plan):
        model.carried_plan = model.train_function = None
    return model


def _search(model: ZooModel, shape: tuple[int, ...], asked: Asked) -> Search:
    if model.carried_plan is not None:
        raise ValueError("plan: this model has a plan already: remove it first, with plan.remove(model)")
    inputs, _ = random_batch(model, shape, np.float32)
    graph = cost_graph(model, inputs, kinds_for(asked.allow), asked.times, asked.reruns)
    names = tuple(part.name for part in graph.parts[:-1])
    words: dict[str, Any] = {
        "framework": "tensorflow",
        "model": model.spec.in_words(),
        "fingerprint": fingerprint_of_spec(model.spec),
        "input_shape": shape,
    }

    def measure(plan: Plan | None) -> tuple[int, int]:
        kinds = [KEEP] * len(names) if plan is None else [part.choice for part in plan.parts[: len(names)]]
        steps = tuple(range(len(names))) if plan is None else plan.steps
        model.carried_plan = CarriedPlan(plan, names, {n: KINDS[k] for n, k in zip(names, kinds, strict=True)}, steps)
        try:
            found = step_allocations(model, shape)
        finally:
            model.carried_plan = None
        return found.peak_bytes, found.held_bytes or 0

    plain_peak, _ = measure(None)
    words |= {"budget_bytes": parse_budget(asked.budget, plain_peak), "plain_peak_bytes": plain_peak}
    return Search(graph, measure, words, asked.max_noise, asked.solver)


def _lacking(model: ZooModel) -> tuple[str, tuple[str, ...]]:
    """What a model cannot do, and why, in a word: codes are made by what a model is built with."""
    if model.code_seeds is None:
        return "a model of tensorflow without compressed=...", ("compress", "swap")
    return "tensorflow", ("swap",)


def _check(model: Any, where: str) -> None:
    if not isinstance(model, ZooModel):
        raise TypeError(f"{where}: a model of tf_models is needed, not {type(model).__name__}")


def _shape(model: Any, batch: Any) -> tuple[int, ...]:
    _check(model, "plan")
    sizes = batch_shape(batch)
    if hasattr(batch, "shape") and len(sizes) == 4 and model.data_format == "channels_last":
        sizes = (sizes[0], sizes[3], sizes[1], sizes[2])
    return sizes
