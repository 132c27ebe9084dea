"""How MXNet 1.9.1 mirrors, trap by trap: what is measured here is what the search relies on."""

from __future__ import annotations

import os

import numpy as np
import pytest
from mxnet_networks import (
    IMAGES,
    assert_same_bits,
    dense_network,
    mx,
    recurrent_network,
    residual_network,
    step_results,
)

from mxnet_memonger import memonger
from mxnet_memonger.binding import Binder, allocated_mib, plan_bytes
from mxnet_memonger.mirror_plan import PlanSpace
from mxnet_memonger.numpy_names import DROPPED, restore_dropped_names
from mxnet_memonger.operators import may_run_twice
from mxnet_memonger.rewrites import flat_concat
from mxnet_memonger.saving import mirror, mirrored_names
from mxnet_memonger.shapes import infer
from mxnet_memonger.symbol_graph import SymbolGraph, backward_reads

LARGE = {"data": (32, 3, 64, 64)}


def planned(sym: object, shapes: dict[str, tuple[int, ...]], **settings: object) -> object:
    return memonger.search_plan(sym, 1, workers=0, **settings, **shapes)


@pytest.mark.quick
def test_planned_networks_give_the_same_bits() -> None:
    """Outputs, gradients and BatchNorm's moving statistics, after three steps."""
    for sym in (residual_network(), dense_network()):
        plan = planned(sym, IMAGES)
        assert len(mirrored_names(plan)) > 10
        assert_same_bits(step_results(plan, IMAGES, steps=3), step_results(sym, IMAGES, steps=3))


def test_a_planned_recurrent_network_gives_the_same_bits() -> None:
    sym, shapes = recurrent_network(steps=8)
    plan = planned(sym, shapes)
    assert plan_bytes(plan, None, shapes) < 0.7 * plan_bytes(sym, None, shapes)
    assert_same_bits(step_results(plan, shapes), step_results(sym, shapes))


def test_moving_statistics_move_once() -> None:
    """A norm that runs twice a step moves its statistics in the backward pass alone."""
    sym = residual_network(1)
    everything = mirror(sym, lambda node: True)
    assert "stem_bn" in mirrored_names(everything)
    one, other = step_results(sym, IMAGES), step_results(everything, IMAGES)
    assert not np.array_equal(
        one["state stem_bn_moving_mean"], step_results(sym, IMAGES, steps=2)["state stem_bn_moving_mean"]
    )
    assert_same_bits(other, one)


def test_dropout_keeps_its_mask() -> None:
    sym = residual_network(2, drop_rate=0.5)
    for plan in (planned(sym, IMAGES), mirror(sym, lambda node: True)):
        assert_same_bits(step_results(plan, IMAGES, seed=3), step_results(sym, IMAGES, seed=3))


def test_random_operators_are_never_mirrored() -> None:
    """One that is run again draws again: this shows that the gradient would be wrong, and that it is not."""
    data = mx.sym.Variable("data")
    values = data * mx.sym.random.uniform_like(data, name="noise")
    for layer in range(6):
        values = mx.sym.Activation(
            mx.sym.FullyConnected(values, num_hidden=8, name=f"fc{layer}"), act_type="tanh", name=f"tanh{layer}"
        )
    sym, shapes = mx.sym.LinearRegressionOutput(values, name="loss"), {"data": (4, 8)}
    forced = SymbolGraph.of(sym)
    wrong = forced.with_mirrored([node.index for node in forced.nodes if not node.is_variable])
    exact = step_results(sym, shapes, seed=1)
    assert not np.array_equal(step_results(wrong, shapes, seed=1)["gradient data"], exact["gradient data"])
    for plan in (mirror(sym, lambda node: True), planned(sym, shapes)):
        assert "noise" not in mirrored_names(plan)
        assert_same_bits(step_results(plan, shapes, seed=1), exact)


@pytest.mark.parametrize(
    ("op", "attributes", "twice"),
    [
        ("Convolution", {}, True),
        ("gamma", {}, True),
        ("_random_pdf_normal", {}, True),
        ("BilinearSampler", {}, True),
        ("LeakyReLU", {"act_type": "leaky"}, True),
        ("LeakyReLU", {"act_type": "rrelu"}, False),
        ("RNN", {"p": "0"}, True),
        ("RNN", {"p": "0.2"}, False),
        ("_random_uniform", {}, False),
        ("_sample_multinomial", {}, False),
        ("_shuffle", {}, False),
        ("_npi_bernoulli", {}, False),
        ("_npi_gamma", {}, False),
        ("_image_random_brightness", {}, False),
        ("Custom", {}, False),
        ("_contrib_SyncBatchNorm", {}, False),
        ("_foreach", {}, False),
    ],
)
def test_which_operators_may_run_twice(op: str, attributes: dict[str, str], twice: bool) -> None:
    assert may_run_twice(op, attributes) is twice


def test_mirroring_norms_and_activations_alone_saves_nothing() -> None:
    """The kept convolution holds its input, the very output that was to be dropped."""
    sym = residual_network()
    cheap = mirror(sym, lambda node: node.op in ("BatchNorm", "Activation"))
    assert plan_bytes(cheap, None, LARGE) >= plan_bytes(sym, None, LARGE)
    assert plan_bytes(planned(sym, LARGE), None, LARGE) < 0.6 * plan_bytes(sym, None, LARGE)


def test_mirroring_everything_saves_nothing() -> None:
    sym = residual_network()
    assert plan_bytes(mirror(sym, lambda node: True), None, LARGE) > 0.9 * plan_bytes(sym, None, LARGE)


def test_work_counts_every_node_that_runs_again() -> None:
    """Also one whose output nobody reads: MXNet runs it, so the figure counts it."""
    sym = residual_network(1)
    graph = SymbolGraph.of(sym, IMAGES)
    every = [node.index for node in graph.nodes if node.op == "Convolution"]
    marked = graph.with_mirrored(every)
    executor = marked.simple_bind(mx.cpu(), **IMAGES)
    runs = executor.debug_str().count("Op:Convolution")
    assert runs == 2 * len(every)
    first = graph.nodes[every[0]]
    assert graph.recomputed_flops(every[:1]) == first.flops == 2 * 4 * 16 * 24 * 24 * 3 * 9


def test_a_copy_keeps_an_output_without_the_inputs() -> None:
    """A kept product holds what it multiplied; behind an identity its output stays alone."""
    values = mx.sym.Variable("data")
    for layer in range(12):
        values = mx.sym.Activation(mx.sym.FullyConnected(values, num_hidden=256, name=f"fc{layer}"), act_type="tanh")
    sym, shapes = mx.sym.LinearRegressionOutput(values, name="loss"), {"data": (1024, 256)}
    graph = SymbolGraph.of(sym, shapes)
    binder = Binder(sym, None, infer(sym, None, shapes, "test"))
    reads = backward_reads(graph, binder.debug_text(sym))
    products = frozenset(node.index for node in graph.nodes if node.name in ("fc3", "fc6", "fc9"))
    sizes = {}
    for copies in (False, True):
        space = PlanSpace(graph, reads, copies)
        plan = space.keeping(products)
        assert bool(plan.copied) is copies
        sizes[copies] = binder.cost_bytes(space.symbol(plan))
        assert_same_bits(step_results(space.symbol(plan), shapes), step_results(sym, shapes))
    assert sizes[True] <= sizes[False] - 2 * 2**20  # of three inputs of 1 MiB at least two are held no longer


def test_the_figure_is_the_pool_of_the_executor_alone() -> None:
    """Parameters and inputs are outside, four bytes are counted a value whatever the type."""
    sym = mx.sym.FullyConnected(mx.sym.Variable("data"), num_hidden=1024, name="fc")
    shapes = {"data": (1024, 4096)}
    text = sym.simple_bind(mx.cpu(), **shapes).debug_str()
    # The output and its gradient; the weight alone has 16 MB.
    assert memonger.get_cost(sym, **shapes) == allocated_mib(text) == 8
    assert memonger.get_cost(sym, type_dict={"data": "float16"}, **shapes) == 8


def test_figures_are_finer_than_a_megabyte() -> None:
    sym, shapes = residual_network(), {"data": (5, 3, 50, 50)}
    small = plan_bytes(sym, None, shapes)
    assert memonger.get_cost(sym, **shapes) in (small >> 20, (small >> 20) + 1)
    assert small % 2**20
    assert plan_bytes(sym, None, shapes, finer=1) % 2**20 == 0


def test_binds_leave_no_memory_behind() -> None:
    """A bind with arrays of its own leaves some 28 MB; a hundred of these stay below that together."""
    sym = residual_network()
    binder = Binder(sym, None, infer(sym, None, LARGE, "test"))
    for _ in range(10):
        binder.cost_bytes(sym)
    before = resident_bytes()
    for _ in range(100):
        binder.cost_bytes(sym)
    assert resident_bytes() - before < 28 * 2**20


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_cut_vertices_beat_marks_at_the_wrong_places() -> None:
    sym = residual_network()
    mismarked = mirror(sym, lambda node: node.op == "Convolution" or "_relu" in node.name)
    assert plan_bytes(planned(sym, LARGE), None, LARGE) < 0.8 * plan_bytes(mismarked, None, LARGE)


def test_flat_concatenations_compute_the_same() -> None:
    sym = dense_network(4)
    flat = flat_concat(sym, **IMAGES)
    chain, parts = step_results(sym, IMAGES), step_results(flat, IMAGES)
    assert max(len(node.inputs) for node in SymbolGraph.of(flat).nodes if node.op == "Concat") == 5
    assert np.array_equal(parts["output 0"], chain["output 0"])
    assert all(np.allclose(parts[name], chain[name], rtol=1e-3, atol=1e-5) for name in chain)


def test_concatenations_that_mxnet_cannot_train_flat_stay_as_they_are() -> None:
    sym, shapes = dense_network(3, growth=12), {"data": (2, 3, 8, 8)}
    same = flat_concat(sym, **shapes)
    assert_same_bits(step_results(same, shapes), step_results(sym, shapes))


def test_numpys_dropped_names_are_there() -> None:
    assert [getattr(np, name) for name in DROPPED] == list(DROPPED.values())
    assert restore_dropped_names() == []
