"""Exact saving in MXNet: marking nodes of a Symbol to be run again in the backward pass (mirror attributes)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mxnet_memonger.symbol_graph import GraphNode, SymbolGraph
from zoo.choices import unknown


def mirror(sym: Any, predicate: Callable[[GraphNode], bool], **input_shapes: tuple[int, ...]) -> Any:
    """A copy of a Symbol in which the nodes that `predicate` picks are run again in the backward pass.

    This is all that a memory optimiser of your own needs. Outputs, gradients and BatchNorm's moving statistics are
    those of `sym`, to the bit; only what is kept between the passes changes. Nodes that must not run twice (random
    operators other than Dropout, operators with a state of their own) are never marked, whatever the predicate says.
    A kept operator keeps what its own backward reads, its inputs too: `memonger.get_cost` tells what a marking costs.

    Args:
        sym: stays as it is.
        predicate: gets a `GraphNode` (name, op, attributes, inputs; shapes and flops if `input_shapes` are given)
            and says whether it is run again.
        input_shapes: by the inputs' names; only needed by a predicate that asks for shapes.

    Returns:
        A Symbol with the same arguments, auxiliary states and outputs. Marks that `sym` had are gone.

    Raises:
        TypeError: `sym` is not a Symbol, or `predicate` no function.
        ValueError: an input that does not exist.

    Example:
        >>> from mxnet_memonger.numpy_names import mx
        >>> net = mx.sym.Activation(mx.sym.Variable("data"), act_type="relu", name="relu")
        >>> mirror(net, lambda node: node.op == "Activation").attr("force_mirroring")
        'True'
    """
    check_symbol(sym)
    if not callable(predicate):
        raise TypeError(f"mirror: predicate must be a function of a node, such as lambda node: True, not {predicate!r}")
    names = sym.list_arguments()
    for name in input_shapes:
        if name not in names:
            raise ValueError(f"mirror: {unknown('input', name, names)}")
    graph = SymbolGraph.of(sym, input_shapes or None)
    return graph.with_mirrored([node.index for node in graph.nodes if node.may_mirror and predicate(node)])


def mirrored_names(sym: Any) -> list[str]:
    """Names of the nodes that a Symbol's marks say are run again, in topological order."""
    graph = SymbolGraph.of(sym)
    return [graph.nodes[index].name for index in sorted(graph.mirrored())]


def check_symbol(sym: object) -> None:
    """Raise TypeError for what is not a Symbol; says what to give instead."""
    if type(sym).__name__ != "Symbol" or not hasattr(sym, "get_internals"):
        came = type(sym).__name__
        advice = ": for a Gluon block, call memonger.gluon_train" if hasattr(sym, "collect_params") else ""
        if hasattr(sym, "get_internals"):
            came, advice = "a symbol of mx.sym.np", ": give its as_nd_ndarray()"
        raise TypeError(f"an mx.sym.Symbol is needed, not {came}{advice}")
