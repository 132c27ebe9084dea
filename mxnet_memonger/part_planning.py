"""zoo.plan in MXNet: blocks priced from the Symbol, plans measured by what MXNet's own planner allocates."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mxnet_memonger.binding import saved_bytes
from mxnet_memonger.devices import check_device
from mxnet_memonger.part_plans import OFFERED, BlockPart, CarriedPlan, PartSpace
from mxnet_memonger.symbol_graph import BYTES_A_VALUE, Entry
from mxnet_memonger.symbol_model import SymbolModel
from zoo.planner import CostGraph, Option, Part, Plan, parse_budget
from zoo.planner.adapt import adapted_plan, fingerprint_of_spec
from zoo.planner.asked import Asked, batch_shape, check_made_for
from zoo.planner.kinds import KEEP
from zoo.planner.rounds import Search
from zoo.planner.study import PlanStudy, planned, studied
from zoo.refusals import Request, check_offered

FLOPS_PER_SECOND, BYTES_PER_SECOND = 5e10, 1e10  # of one core, about: only their ratio matters to a plan
LACKS = ("compress", "swap")


def make_plan(
    model: SymbolModel,
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
    """The plan of a zoo model under a budget; see `zoo.plan`. For any other Symbol there is `memonger.search_plan`.

    Peak bytes are what MXNet's planner allocates, and the parameters' gradients: predicted and measured are one figure.

    Args:
        model: one of this package's image models.
        batch: the shape of "data".
        allow: "recompute". What MXNet lacks in plans, "compress" and "swap", is left out with a `PlanChangedWarning`.
        max_noise: there is none to be limited.
        loss: none but the model's own softmax is planned for.
        times: "counted" or "measured": MXNet's are counted by FLOPs and bytes either way.
        amp: is not offered in MXNet.
        device: is not looked at: MXNet's figure is the same on every one.
        budget, objective, solver: as `zoo.plan`.

    Raises:
        InfeasibleBudgetError: the budget is too small; states the smallest.
        TypeError, ValueError: as `zoo.plan`; an LSTM, whose time steps are no blocks.
    """
    check_device("cpu", amp)
    asked = Asked(batch, budget, allow, max_noise, objective, loss, times, solver)
    return planned(_prepared(model, asked), objective)


def real_peak(plan: Plan, model: SymbolModel, loss: Any = None) -> int:
    """Peak bytes of one real step: the plan's figure is MXNet's own figure for it."""
    return plan.peak_bytes


def study_plan(
    model: SymbolModel,
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
    check_device("cpu", amp)
    return studied(_prepared(model, Asked(batch, budget, allow, max_noise, "time", loss, times)))


def _prepared(model: Any, asked: Asked) -> Search:
    """The checks, and the network priced."""
    asked.check_no_loss("MXNet", "the model's own softmax")
    return _search(model, asked.without("mxnet", LACKS))


def adapt_plan(plan: Plan, model: SymbolModel) -> Plan:
    """See `zoo.planner.Plan.adapted`."""
    _check(model, "Plan.adapted", plan.budget_bytes)
    check_made_for(plan, fingerprint_of_spec(model.spec), model, "Plan.adapted")
    return adapted_plan(plan, _search(model, Asked(plan.input_shape, plan.budget_bytes)))


def apply_plan(plan: Plan, model: SymbolModel) -> SymbolModel:
    """See `zoo.planner.Plan.apply`; before a step is bound, as executors made before know nothing of it."""
    _check(model, "Plan.apply", plan.budget_bytes)
    if model.carried_plan is not None:
        raise ValueError("Plan.apply: this model has a plan already: remove that one first")
    check_made_for(plan, fingerprint_of_spec(model.spec), model, "Plan.apply")
    model.carried_plan = CarriedPlan(plan)
    return model


def remove_plan(plan: Plan, model: SymbolModel) -> SymbolModel:
    """See `zoo.planner.Plan.remove`."""
    carried = getattr(model, "carried_plan", None)
    if carried is not None and plan.undoes(carried.plan):
        model.carried_plan = None
    return model


def _search(model: Any, asked: Asked) -> Search:
    _check(model, "plan", asked.budget)
    if model.carried_plan is not None:
        raise ValueError("plan: this model has a plan already: remove it first, with plan.remove(model)")
    shape = batch_shape(asked.batch)
    found = PartSpace.of(model, shape)
    gradients = sum(BYTES_A_VALUE * math.prod(model.arrays[name].shape) for name in model.parameter_names())
    graph = cost_graph(found, gradients, asked.reruns)

    def measure(plan: Plan) -> tuple[int, int]:
        mirrored = found.mirror_plan(plan.steps, [part.choice for part in plan.parts])
        symbol = found.space.symbol(mirrored)
        return found.binder.cost_bytes(symbol) + gradients, saved_bytes(symbol, model.shapes(shape))

    plain_peak = found.binder.cost_bytes(found.space.symbol(found.space.everything_kept)) + gradients
    words: dict[str, Any] = {
        "framework": "mxnet",
        "model": model.spec.in_words(),
        "fingerprint": fingerprint_of_spec(model.spec),
        "input_shape": shape,
        "budget_bytes": parse_budget(asked.budget, plain_peak),
        "plain_peak_bytes": plain_peak,
    }
    return Search(graph, measure, words, asked.max_noise, asked.solver, once=True)


def cost_graph(found: PartSpace, gradients: int, again: bool) -> CostGraph:
    """The network's blocks as a chain.

    Args:
        gradients: bytes of the parameters' gradients, which lie there from start to end.
        again: whether blocks may run again.
    """
    parts = []
    for place, part in enumerate(found.parts):
        is_last = place == len(found.parts) - 1
        kinds = OFFERED if again and not is_last and place else (KEEP,)
        options = [_option(found, part, kind, gradients) for kind in kinds]
        options = [one for n, one in enumerate(options) if not n or one.resident_bytes < options[0].resident_bytes]
        output = 0 if is_last else found.space.graph.nodes[part.output].output_bytes
        joins = again and not is_last and place > 0
        parts.append(Part(part.name, output, tuple(options), reruns=again and not is_last, joins=joins))
    return CostGraph.chain(parts)


def _option(found: PartSpace, part: BlockPart, kind: str, gradients: int) -> Option:
    nodes, inside = found.space.graph.nodes, frozenset(part.nodes)
    sizes = {
        (index, number): BYTES_A_VALUE * math.prod(shape)
        for index in part.nodes
        for number, shape in enumerate(nodes[index].shapes)
    }
    read = {entry for entry in found.read_entries if entry[0] in inside} | {(part.output, 0)}
    held = {entry for entry in read if kind == KEEP or entry[0] in found.kept_of(part, kind)}
    if kind != KEEP:
        held |= {(index, 0) for index in found.kept_of(part, kind)}
    again = _largest_run(part, found.kept_of(part, kind), {entry: sizes.get(entry, 0) for entry in read - held})
    largest = max(sizes.values(), default=0)
    done = found.space.mirrored(found.space.keeping(found.kept_of(part, kind))) & inside if kind != KEEP else ()
    flops = sum(nodes[index].flops for index in part.nodes)
    moved = 2 * sum(sizes.values())
    forward = flops / FLOPS_PER_SECOND + moved / BYTES_PER_SECOND
    repeated = sum(nodes[i].flops / FLOPS_PER_SECOND + 2 * nodes[i].output_bytes / BYTES_PER_SECOND for i in done)
    return Option(
        kind,
        sum(sizes.get(entry, 0) for entry in held),
        forward,
        2 * forward + repeated,
        largest + gradients,
        again + largest + gradients,
    )


def _largest_run(part: BlockPart, kept: frozenset[int], sizes: Mapping[Entry, int]) -> int:
    """Bytes of what lies there at once while a block is done again: what is between two kept nodes, and the next."""
    runs = [0]
    for index in part.nodes:
        runs[-1] += sum(size for entry, size in sizes.items() if entry[0] == index)
        if index in kept:
            runs.append(0)
    return max(a + b for a, b in zip(runs, [*runs[1:], 0], strict=True))


def _check(model: Any, where: str, budget: int | float | str) -> None:
    if not isinstance(model, SymbolModel):
        raise TypeError(f"{where}: a model of mxnet_memonger is needed, not {type(model).__name__}")
    check_offered("mxnet", Request(model.spec, budget=budget))
