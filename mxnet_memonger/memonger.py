"""Plans with less memory for MXNet Symbols: the functions of the original memonger, with a better search behind them.

    from mxnet_memonger import memonger
    net_planned = memonger.search_plan(net, data=(32, 3, 224, 224))
    mx.mod.Module(net_planned).fit(...)

After Chen, Xu, Zhang, Guestrin, "Training deep nets with sublinear memory cost" (arXiv:1604.06174).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mxnet_memonger.binding import MIB, Binder, allocated_mib
from mxnet_memonger.costs import open_costs, worker_setting
from mxnet_memonger.ledger import Point
from mxnet_memonger.mirror_plan import PlanSpace
from mxnet_memonger.plan_info import PlanInfo, PlanPoint
from mxnet_memonger.planning import CutGraph
from mxnet_memonger.rewrites import flat_concat
from mxnet_memonger.saving import mirror
from mxnet_memonger.search import Rank, Search, Unplanned, within_work
from mxnet_memonger.shapes import infer
from mxnet_memonger.symbol_graph import SymbolGraph, backward_reads
from zoo.planner import InfeasibleBudgetError
from zoo.planner.budget import parse_budget

__all__ = [
    "PlanInfo",
    "PlanPoint",
    "flat_concat",
    "get_cost",
    "gluon_train",
    "make_mirror_plan",
    "mirror",
    "search_plan",
]

WORK_A_TRIAL = 40_000  # operators: a second or two of binding, four of replaying
_log = logging.getLogger(__name__)


def search_plan(
    sym: Any,
    ntrial: int = 6,
    type_dict: Any = None,
    *,
    budget: int | float | str | None = None,
    bytes_per_flop: float = 0.0,
    most_recomputed: float | None = None,
    return_info: bool = False,
    copies: bool = True,
    workers: int | None = None,
    seed: int = 0,
    **input_shapes: Any,
) -> Any:
    """A copy of a Symbol that needs less memory in training and computes the same, to the bit.

    Without `budget`, `most_recomputed` and `bytes_per_flop`, the least memory that is found; a forward pass is then
    done again almost whole. With a budget, the least work within it. With a limit on work, the least memory within it.

    Same numbers: the plan runs the same operators on the same values. Only where MKL-DNN, which chooses how to compute
    by how an array lies in memory, finds an array laid out otherwise (seen for channels that fill no block of 16 and
    are reshaped), or where MXNet adds more than two gradients of one output, their last bits may differ.

    Args:
        sym: the network. Its marks are hints: `mirror_stage='True'` on a node, or the same integer on the states of
            one time step, says "cut here". None are needed. Marks of an earlier plan are dropped.
        ntrial: how much to search: so many times some eight seconds of work. 0 = the best of the plans from which the
            search would start.
        type_dict: types of inputs by name, where they are not float32.
        budget: bytes that MXNet may allocate, or text such as "2GiB".
        bytes_per_flop: minimise memory + bytes_per_flop * recomputed FLOPs instead.
        most_recomputed: the share of a forward pass's work that may be done again, 0 to 1.
        return_info: return (symbol, PlanInfo) instead of the symbol alone.
        copies: let identities be inserted behind nodes whose output is to be kept but not their inputs. They cost
            nothing and change no number; without them the plan consists of marks alone.
        workers: processes that try plans; 0 = this one, None = one per core for a large network.
        seed: of the order in which changes are tried. The same arguments find the same plan again, on any machine
            and however many processes bind: work is counted, not time.
        input_shapes: by the inputs' names, such as data=(32, 3, 224, 224); none where the Variables carry shapes.

    Returns:
        A Symbol with the same arguments, auxiliary states and outputs.

    Raises:
        TypeError: not a Symbol, or a value of the wrong type.
        ValueError: shapes that are missing (names the inputs) or do not fit, an input that does not exist.
        zoo.planner.InfeasibleBudgetError: no plan was found within the budget; states the smallest that was.

    Example:
        >>> from mxnet_memonger.numpy_names import mx
        >>> net = mx.sym.Variable("data", shape=(512, 64))
        >>> for layer in range(9):
        ...     net = mx.sym.Activation(mx.sym.FullyConnected(net, num_hidden=64), act_type="tanh")
        >>> planned, info = search_plan(net, ntrial=0, return_info=True)
        >>> info.chosen.bytes < info.before_bytes
        True
    """
    started = time.monotonic()
    limit = None if budget is None else parse_budget(budget)
    _check_settings(ntrial, bytes_per_flop, most_recomputed, workers, seed)
    if limit is not None and most_recomputed is not None:
        raise ValueError("search_plan: budget and most_recomputed limit one another: give one of them")
    own_processes = workers if ntrial else workers or 0  # a few binds are done before a process has started
    task = _Task("search_plan", sym, type_dict, input_shapes, copies, own_processes, seed, ntrial)
    with _open_search(task) as (search, opened):
        rank = _rank(search.space, limit, most_recomputed, bytes_per_flop)
        before = opened.cost_of_marks()
        best = search.first(rank, brief=ntrial == 0 or before == 0)
        if ntrial and before:  # no plan is better than a figure of zero
            best = search.best(rank, return_info)
        least = max(best.bytes, MIB // opened.binder.factor)  # the figure is told no finer
        if limit is not None and least > limit:
            raise InfeasibleBudgetError(limit, least)
        info = PlanInfo(
            before_bytes=before,
            chosen=PlanPoint.of(search.space, best),
            frontier=tuple(PlanPoint.of(search.space, point) for point in search.bound.frontier())
            if return_info
            else (),
            few_products=_few_products(search) if return_info else None,
            bound=len(search.bound.points),
            seconds=time.monotonic() - started,
        )
    _log.info("search_plan: %s", info)
    planned = search.space.symbol(best.plan)
    return (planned, info) if return_info else planned


def make_mirror_plan(
    sym: Any, threshold: int, plan_info: MutableMapping[str, Any] | None = None, **input_shapes: Any
) -> Any:
    """A copy of a Symbol marked by the original's rule: keep a cut whenever `threshold` has piled up since the last.

    Args:
        sym: the network; `mirror_stage` marks are among the cuts, but none are needed.
        threshold: megabytes of outputs between two kept cuts.
        plan_info: gets "max_size" and "save_size": bytes of the largest stretch between two cuts, and of all cuts.
        input_shapes: by the inputs' names; `type_dict` too is understood.

    Raises:
        TypeError, ValueError: as `search_plan`; a threshold below 0.
    """
    if isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or not threshold >= 0:
        raise ValueError(f"make_mirror_plan: threshold must be megabytes of at least 0, not {threshold!r}")
    type_dict = input_shapes.pop("type_dict", None)
    space = _Opened.of(_Task("make_mirror_plan", sym, type_dict, input_shapes)).space
    cuts, nodes = CutGraph.of(space), space.graph.nodes
    kept: set[int] = set()
    local = largest = saved = 0
    for gap, cut in zip(cuts.gaps, (*cuts.cuts, frozenset[int]()), strict=True):
        local += sum(nodes[index].output_bytes for index in gap | cut)
        if cut and local > threshold * MIB:
            kept |= cut
            saved += sum(nodes[index].output_bytes for index in cut)
            largest, local = max(largest, local), 0
    if plan_info is not None:
        plan_info["max_size"], plan_info["save_size"] = max(largest, local), saved
    return space.symbol(space.keeping(frozenset(kept)))


def get_cost(sym: Any, type_dict: Any = None, **input_shapes: Any) -> int:
    """Megabytes (2**20) that MXNet's planner allocates to train a Symbol, in whole ones as it tells them.

    Counted: activations, their gradients, recomputed values, at four bytes a value. Not counted: parameters, their
    gradients, inputs, auxiliary states, and what an operator allocates while it runs.

    Raises:
        TypeError, ValueError: as `search_plan`.

    Example:
        >>> from mxnet_memonger.numpy_names import mx
        >>> get_cost(mx.sym.FullyConnected(mx.sym.Variable("data"), num_hidden=1024), data=(1024, 8))
        8
    """
    bound = infer(sym, type_dict, input_shapes, "get_cost")
    return allocated_mib(Binder(sym, type_dict, bound, finer=1).debug_text(sym))


def gluon_train(block: Any, loss: Any, data_shape: Any, label_shape: Any, context: Any = None, **search: Any) -> Any:
    """A planned training step for a Gluon block, on its own parameters and gradients.

        step = memonger.gluon_train(net, loss, (32, 3, 224, 224), (32,))
        for data, label in batches:
            losses, scores = step(data, label)
            trainer.step(len(data))

    See `mxnet_memonger.gluon.GluonStep`; `search` is what `search_plan` takes.
    """
    from mxnet_memonger.gluon import GluonStep  # it imports this module

    return GluonStep(block, loss, data_shape, label_shape, context, search)


@dataclass(frozen=True)
class _Task:
    caller: str
    sym: Any
    type_dict: Any
    shapes: dict[str, Any]
    copies: bool = True
    workers: int | None = None
    seed: int = 0
    ntrial: int = 1


@dataclass(frozen=True)
class _Opened:
    """A task's network, read and bound once."""

    binder: Binder
    space: PlanSpace
    unplanned: Unplanned
    setting: dict[str, Any]

    @classmethod
    def of(cls, task: _Task) -> _Opened:
        bound = infer(task.sym, task.type_dict, task.shapes, task.caller)
        marked = SymbolGraph.of(task.sym)
        unmarked = marked.with_mirrored(())
        binder = Binder(unmarked, task.type_dict, bound)
        graph = SymbolGraph.of(unmarked, bound.given)
        text = binder.debug_text(unmarked)
        space = PlanSpace(graph, backward_reads(graph, text), task.copies)
        if not space.operators:
            raise ValueError(f"{task.caller}: the Symbol is inputs alone, without an operator: give the network")
        setting = worker_setting(unmarked, task.type_dict, bound.given)
        return cls(binder, space, Unplanned(text, marked.mirrored()), setting)

    def cost_of_marks(self) -> int:
        """Of the network as it came."""
        return self.binder.cost_bytes(self.space.graph.with_mirrored(self.unplanned.marked))


@contextmanager
def _open_search(task: _Task) -> Iterator[tuple[Search, _Opened]]:
    """Everything a search needs, ready to bind."""
    opened = _Opened.of(task)
    with open_costs(opened.space, opened.binder, opened.setting, task.workers) as costs:
        work = WORK_A_TRIAL * max(task.ntrial, 1)
        yield Search.of(opened.space, costs, opened.unplanned, work, task.seed), opened


def _few_products(search: Search) -> PlanPoint | None:
    few = filter(search.runs_few_products_again, search.bound.points.values())
    least = min(few, key=lambda point: point.bytes, default=None)
    return None if least is None else PlanPoint.of(search.space, least)


def _rank(space: PlanSpace, limit: int | None, most_recomputed: float | None, bytes_per_flop: float) -> Rank:
    if limit is None and most_recomputed is None:
        return lambda point: (point.bytes + bytes_per_flop * point.flops, point.flops)
    if limit is None:
        most = (most_recomputed or 0.0) * space.graph.recomputed_flops(space.operators)
        return within_work(most)

    def within(point: Point) -> tuple[float, ...]:
        over = max(0, point.bytes - limit)
        return (over, point.flops if not over else 0, point.bytes)

    return within


def _check_settings(
    ntrial: object, bytes_per_flop: object, most_recomputed: object, workers: object, seed: object
) -> None:
    if isinstance(ntrial, bool) or not isinstance(ntrial, int) or ntrial < 0:
        raise ValueError(f"search_plan: ntrial must be an integer of at least 0, not {ntrial!r}")
    if not _is_number(bytes_per_flop) or not bytes_per_flop >= 0:  # type: ignore[operator]
        raise ValueError(f"search_plan: bytes_per_flop must be a number of at least 0, not {bytes_per_flop!r}")
    if most_recomputed is not None and not (_is_number(most_recomputed) and 0 <= most_recomputed <= 1):  # type: ignore[operator]
        raise ValueError(f"search_plan: most_recomputed must be a share from 0 to 1, not {most_recomputed!r}")
    if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 0):
        raise ValueError(f"search_plan: workers must be None or an integer of at least 0, not {workers!r}")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise ValueError(f"search_plan: seed must be an integer, not {seed!r}")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
