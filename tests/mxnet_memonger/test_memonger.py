"""The functions of memonger: the original's signatures, objectives, budgets, hints, Gluon, and what is refused."""

from __future__ import annotations

import inspect
import logging
from typing import Any

import numpy as np
import pytest
from mxnet_networks import assert_same_bits, dense_network, mx, recurrent_network, residual_network, step_results

from benchmarks.original_memonger import original_search
from mxnet_memonger import memonger
from mxnet_memonger.binding import plan_bytes
from mxnet_memonger.costs import LocalCosts
from mxnet_memonger.mirror_plan import Choice
from mxnet_memonger.operators import forward_flops
from mxnet_memonger.planning import CutGraph, find_cuts
from mxnet_memonger.saving import mirrored_names
from mxnet_memonger.starts import piles, tails
from mxnet_memonger.symbol_graph import SymbolGraph
from zoo.planner import InfeasibleBudgetError
from zoo.planner.budget import parse_budget

LARGE = {"data": (16, 3, 32, 32)}


@pytest.fixture(autouse=True)
def _short_searches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memonger, "WORK_A_TRIAL", 2500)


def search(sym: Any, shapes: dict[str, Any] = LARGE, **settings: Any) -> Any:
    return memonger.search_plan(sym, **{"ntrial": 1, "workers": 0, "return_info": True, **settings}, **shapes)


@pytest.mark.quick
def test_signatures_are_the_originals() -> None:
    names = [list(inspect.signature(f).parameters) for f in (memonger.search_plan, memonger.make_mirror_plan)]
    assert names[0][:3] == ["sym", "ntrial", "type_dict"]
    assert names[1][:3] == ["sym", "threshold", "plan_info"]
    assert list(inspect.signature(memonger.get_cost).parameters)[:2] == ["sym", "type_dict"]
    assert inspect.signature(memonger.search_plan).parameters["ntrial"].default == 6


def test_a_search_is_quiet_and_tells_when_asked(capfd: Any, caplog: Any) -> None:
    with caplog.at_level(logging.INFO):
        planned, info = search(residual_network())
    assert capfd.readouterr() == ("", "")
    assert "plans bound" in caplog.text
    assert info.chosen.bytes == plan_bytes(planned, None, LARGE) < info.before_bytes
    assert 0 < info.chosen.recomputed_share <= 1
    assert info.bound > 10
    assert info.seconds > 0
    assert info.chosen.threshold_mib > 0
    assert any(name.endswith("_out") or name.startswith("_plus") for name in info.chosen.kept)


def test_the_frontier_falls_from_memory_to_work() -> None:
    _, info = search(residual_network())
    sizes, work = [p.bytes for p in info.frontier], [p.recomputed_flops for p in info.frontier]
    assert len(sizes) >= 4
    assert sizes == sorted(sizes)
    assert work == sorted(work, reverse=True)
    assert work[-1] == 0
    assert info.frontier[0].bytes == info.chosen.bytes
    middle = info.frontier[len(sizes) // 2]
    assert plan_bytes(middle.symbol(), None, LARGE) == middle.bytes
    few = info.few_products
    assert few.recomputed_products <= 0.7 < info.chosen.recomputed_products
    assert info.chosen.bytes < few.bytes <= min(p.bytes for p in info.frontier if p.recomputed_products <= 0.7)
    assert plan_bytes(few.symbol(), None, LARGE) == few.bytes


def test_a_budget_is_kept_with_less_work() -> None:
    sym = residual_network()
    _, least = search(sym)
    budget = (least.chosen.bytes + least.before_bytes) // 2
    _, found = search(sym, budget=budget)
    assert found.chosen.bytes <= budget
    assert found.chosen.recomputed_flops < least.chosen.recomputed_flops
    _, roomy = search(sym, budget="2GiB")
    assert roomy.chosen.recomputed_flops == 0
    with pytest.raises(InfeasibleBudgetError, match="the smallest that works") as refused:
        search(sym, budget="100 KB")
    assert refused.value.smallest_bytes <= 1.02 * least.chosen.bytes


def test_work_has_a_price_and_a_limit() -> None:
    sym = residual_network()
    _, free = search(sym)
    _, priced = search(sym, bytes_per_flop=free.before_bytes / free.chosen.recomputed_flops)
    assert priced.chosen.recomputed_flops < free.chosen.recomputed_flops
    _, limited = search(sym, most_recomputed=0.3)
    assert limited.chosen.recomputed_share <= 0.3
    assert free.chosen.bytes < limited.chosen.bytes < free.before_bytes


def test_without_copies_the_arguments_are_marks_alone() -> None:
    sym = dense_network()
    planned, _ = search(sym, copies=False)
    assert len(SymbolGraph.of(planned).nodes) == len(SymbolGraph.of(sym).nodes)
    assert planned.list_outputs() == sym.list_outputs()
    assert planned.list_arguments() == sym.list_arguments()


def test_a_search_finds_the_same_plans_again_however_many_are_bound_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also on a slow machine: work is counted, not time."""
    sym, found = residual_network(2), []
    for at_once in (1, 3):
        monkeypatch.setattr(LocalCosts, "batch", at_once)
        planned, info = search(sym)
        points = [(point.bytes, point.recomputed_flops, point.kept) for point in info.frontier]
        found.append((info.bound, points, planned.tojson()))
    assert found[0] == found[1]


def test_worker_processes_find_what_this_process_finds() -> None:
    sym = residual_network(2)
    found = [search(sym, workers=workers, ntrial=0)[0].tojson() for workers in (0, 1)]
    assert found[0] == found[1]


def test_a_plan_of_a_plan_is_a_plan() -> None:
    planned, info = search(residual_network())
    again, more = search(planned)
    assert more.before_bytes == info.chosen.bytes
    assert more.chosen.bytes <= info.chosen.bytes
    assert_same_bits(step_results(again, LARGE), step_results(residual_network(), LARGE))


def test_marks_are_hints() -> None:
    """One at a place that is no local minimum becomes a cut; integers make one cut of a time step's states."""
    sym = residual_network(1)
    plain = {cut.position for cut in find_cuts(SymbolGraph.of(sym, LARGE))}
    internals = sym.get_internals()
    internals["b0b_relu_output"]._set_attr(mirror_stage="True")
    marked = SymbolGraph.of(sym, LARGE)
    new = {cut.position for cut in find_cuts(marked)} - plain
    assert [marked.nodes[position].name for position in new] == ["b0b_relu"]
    rnn, shapes = recurrent_network(4)
    cuts = find_cuts(SymbolGraph.of(rnn, shapes))
    names = [{SymbolGraph.of(rnn).nodes[index].name for index in cut.nodes} for cut in cuts]
    assert any({"l0_t1_out", "l0_t1_state", "l1_t1_state"} <= cut for cut in names)


def test_no_plan_of_the_originals_is_better() -> None:
    """Not even without a search: the original's rule is among the starts."""
    sym = residual_network(8, marked=True)
    _, info = search(sym, ntrial=0)
    assert info.chosen.bytes <= original_search(sym, LARGE)


def test_thresholds_keep_fewer_cuts_as_they_rise() -> None:
    sym, info, saved = residual_network(), {}, []
    for threshold in (0, 6, 1000):
        planned = memonger.make_mirror_plan(sym, threshold, info, **LARGE)
        saved.append(info["save_size"])
        assert info["max_size"] > 0
        assert len(mirrored_names(planned)) > 10
    assert saved[0] > saved[1] > saved[2] == 0


def chain_of_megabytes(length: int) -> Any:
    """tanh after tanh, each of 1 MiB, named by their places."""
    values = mx.sym.Variable("data")
    for place in range(length):
        values = mx.sym.tanh(values, name=f"n{place}")
    return values


@pytest.mark.parametrize(
    ("threshold", "kept", "largest"), [(1, (1, 3, 5, 7), 2), (2, (2, 5), 3), (2.5, (2, 5), 3), (3, (3, 7), 4)]
)
def test_a_cut_is_kept_when_more_than_the_threshold_has_piled_up(
    threshold: float, kept: tuple[int, ...], largest: int
) -> None:
    """More than it, not as much; counted anew from each kept cut, which is the last of its own pile."""
    info: dict[str, Any] = {}
    shapes = {"data": (256, 1024)}
    planned = memonger.make_mirror_plan(chain_of_megabytes(9), threshold, info, **shapes)
    again = {int(name.removeprefix("n")) for name in mirrored_names(planned)}
    assert set(range(9)) - again - {8} == set(kept)
    assert info == {"max_size": largest * 2**20, "save_size": len(kept) * 2**20}


def test_piles_of_a_search_are_shares_of_a_network() -> None:
    task = memonger._Task("test", chain_of_megabytes(9), None, {"data": (256, 1024)}, workers=0)
    space = memonger._Opened.of(task).space
    names = [[space.graph.nodes[index].name for index in sorted(choice.outputs)] for choice in piles(space)]
    assert names[:2] == [["n2", "n5", "n8"], ["n1", "n3", "n5", "n7"]]  # parts of 9/4 and 9/6 MiB
    assert names[-1] == [f"n{place}" for place in range(9)]


def test_ends_that_are_kept() -> None:
    opened = memonger._Opened.of(memonger._Task("test", residual_network(), None, LARGE, workers=0))
    space, cuts = opened.space, CutGraph.of(opened.space)
    before = space.mirrored(space.keeping(frozenset()))
    found = [space.mirrored(space.keeping(one.outputs, one.whole)) for one in tails(space, cuts, Choice(frozenset()))]
    ends = sorted({min(cut) for cut in cuts.cuts})
    assert len(found) == 2 * len(ends) > 8
    for start, whole, products in zip(ends, found[::2], found[1::2], strict=True):
        assert all(index < start for index in whole)
        assert all(index < start for index in products if space.graph.nodes[index].op == "Convolution")
        for again in (whole, products):
            assert {index for index in before if index < start} - again <= set(range(start - 8, start))
        assert start > max(before) or len(products) > len(whole)


def test_shapes_may_be_carried_by_variables() -> None:
    data = mx.sym.Variable("data", shape=(64, 32))
    values = data
    for layer in range(9):  # a chain without marks
        values = mx.sym.Activation(mx.sym.FullyConnected(values, num_hidden=32, name=f"fc{layer}"), act_type="tanh")
    planned, info = search(values, {})
    assert info.chosen.bytes < 0.8 * info.before_bytes
    assert len(mirrored_names(planned)) > 4


def test_a_network_without_parameters_is_planned() -> None:
    values = mx.sym.Variable("data")
    for _ in range(8):
        values = mx.sym.tanh(values)
    _, info = search(values, {"data": (256, 256)})
    assert info.chosen.bytes <= info.before_bytes


def test_what_the_figure_cannot_tell_is_not_searched_nor_promised() -> None:
    """Less than a megabyte, sixteen times as large a batch: the figure is zero."""
    sym, shapes = residual_network(1), {"data": (1, 3, 4, 4)}
    _, info = search(sym, shapes)
    assert info.before_bytes == info.chosen.bytes == 0
    assert info.bound <= 12
    with pytest.raises(InfeasibleBudgetError, match="65,536 bytes"):
        search(sym, shapes, budget=1)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda net: memonger.search_plan(net), ValueError, r"give the shapes of data: search_plan\(sym, data="),
        (lambda net: memonger.get_cost(net), ValueError, "get_cost: give the shapes of data"),
        (lambda net: memonger.search_plan(net, dat=(1, 3, 8, 8)), ValueError, "unknown input 'dat': did you mean data"),
        (lambda net: memonger.search_plan(net, data=(4, 3)), ValueError, "do not fit the network"),
        (lambda net: memonger.search_plan(net, data="4"), TypeError, "data must be a shape"),
        (lambda net: memonger.search_plan(net, data=(4.0, 3)), TypeError, "shape of integers"),
        (lambda net: memonger.search_plan(net, data=(0, 3, 8, 8)), ValueError, "at least 1"),
        (lambda net: memonger.search_plan("net", data=(1,)), TypeError, "an mx.sym.Symbol is needed, not str"),
        (lambda net: memonger.search_plan(mx.gluon.nn.Dense(2)), TypeError, "call memonger.gluon_train"),
        (lambda net: memonger.search_plan(mx.sym.zeros((2,))), ValueError, "reads no input"),
        (lambda net: memonger.search_plan(mx.sym.Variable("data"), data=(2, 3)), ValueError, "inputs alone"),
        (lambda net: search(net, budget="much"), ValueError, "budget must be a number with one of"),
        (lambda net: search(net, budget=0), ValueError, "budget must be above 0"),
        (lambda net: search(net, budget=True), TypeError, "budget must be bytes"),
        (lambda net: search(net, budget=1e9, most_recomputed=0.5), ValueError, "give one of them"),
        (lambda net: search(net, most_recomputed=2), ValueError, "a share from 0 to 1"),
        (lambda net: search(net, ntrial=-1), ValueError, "ntrial must be"),
        (lambda net: search(net, workers=-1), ValueError, "workers must be"),
        (lambda net: search(net, bytes_per_flop=-1), ValueError, "bytes_per_flop must be"),
        (lambda net: search(net, seed="x"), ValueError, "seed must be an integer"),
        (lambda net: memonger.get_cost(net, {"data": "floaty"}, **LARGE), TypeError, "data must be a type such as"),
        (lambda net: memonger.get_cost(net.as_np_ndarray(), **LARGE), TypeError, "give its as_nd_ndarray"),
        (lambda net: memonger.mirror(net, 3), TypeError, "predicate must be a function"),
        (lambda net: memonger.mirror(net, bool, foo=(1,)), ValueError, "mirror: unknown input 'foo'"),
        (lambda net: memonger.make_mirror_plan(net, -1, **LARGE), ValueError, "threshold must be"),
    ],
)
def test_bad_input_is_named(call: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        call(residual_network(1))


def test_shapes_may_be_of_numpys_integers() -> None:
    net, (name, shape) = residual_network(1), next(iter(LARGE.items()))
    assert memonger.get_cost(net, **{name: tuple(np.array(shape))}) == memonger.get_cost(net, **LARGE)


def test_budgets_as_people_write_them() -> None:
    assert [parse_budget(text) for text in ("2GiB", "512 MB", "1kb", 7)] == [2**31, 512 * 10**6, 1000, 7]
    for bad in ("1.2.3 MB", "-1", "nan", float("nan"), ""):
        with pytest.raises(ValueError, match="budget"):
            parse_budget(bad)


def test_a_convolutions_work_is_counted_by_its_definition() -> None:
    """By the products of the definition: outputs times kernel times input channels of a group, twice."""
    found = forward_flops("Convolution", {}, [(2, 8, 5, 5), (6, 4, 3, 3)], [(2, 6, 5, 5)])
    assert found == 2 * (2 * 6 * 5 * 5) * (4 * 3 * 3)
    assert forward_flops("batch_dot", {}, [(3, 2, 7), (3, 7, 4)], [(3, 2, 4)]) == 2 * 3 * 2 * 4 * 7
