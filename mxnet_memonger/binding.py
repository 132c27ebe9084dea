"""What MXNet's own memory planner says a Symbol needs, to less than a megabyte and without leaving memory behind."""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from mxnet_memonger.numpy_names import mx
from mxnet_memonger.shapes import BoundShapes, infer, scaled_up
from mxnet_memonger.symbol_graph import BYTES_A_VALUE, Entry, SymbolGraph, backward_reads

FINER = 16  # times the batch that is bound, where the network allows it
MIB = 2**20
VALUE = ".value"  # behind a parameter's name: the same array once more, of which no gradient is asked for
_QUIET = "MXNET_SUBGRAPH_VERBOSE"
_TOTAL = re.compile(r"^Total (\d+) MB allocated$", re.MULTILINE)


class Binder:
    """Binds Symbols that differ in their marks alone, and reads what MXNet would allocate for each.

    The figure is that of the executor's internal pool: activations, gradients of activations, recomputed values.
    Parameters, their gradients, inputs and auxiliary states are outside. MXNet counts four bytes a value whatever the
    type, and tells whole megabytes; a batch `finer` times as large is bound and the figure divided.

    All arguments are views of one array, so that a bind allocates nothing of its own that it could leave behind.

    Args:
        sym: the network, whose arguments every Symbol to come has too.
        type_dict, shapes: see `mxnet_memonger.memonger.search_plan`.
        finer: 1 = bind the batch as it is.
    """

    def __init__(self, sym: Any, type_dict: Mapping[str, Any] | None, shapes: BoundShapes, finer: int = FINER) -> None:
        self.shapes, self.factor = scaled_up(sym, type_dict, shapes, finer) if finer > 1 else (shapes, 1)
        self.carries_shapes = self.factor > 1 and "__shape__" in sym.tojson()
        store: dict[Any, Any] = {}
        wanted = [
            *zip(self.shapes.arguments, self.shapes.argument_types, strict=True),
            *zip(self.shapes.auxiliary, self.shapes.auxiliary_types, strict=True),
        ]
        for kind in {kind for _, kind in wanted}:
            store[kind] = mx.nd.empty((max(math.prod(shape) for shape, of in wanted if of is kind),), dtype=kind)
        arrays = [store[kind][: math.prod(shape)].reshape(shape) for shape, kind in wanted]
        self.arguments = arrays[: len(self.shapes.arguments)]
        self.auxiliary = arrays[len(self.shapes.arguments) :]

    def debug_text(self, sym: Any) -> str:
        """The bound executor's account of its graph and memory."""
        if self.carries_shapes:
            from mxnet_memonger.shapes import _without_shapes as without_shapes

            sym = without_shapes(sym)
        with quiet_binding():
            names = sym.list_arguments()
            twins = [name for name in names if name.endswith(VALUE)]
            without = {*twins, *self.shapes.given} if twins else ()  # nor is the data's, in training
            asked = ["null" if name in without else "write" for name in names]
            executor = sym.bind(
                mx.cpu(), args=self.arguments, args_grad=self.arguments, grad_req=asked, aux_states=self.auxiliary
            )
            text: str = executor.debug_str()
        return text

    def cost_bytes(self, sym: Any) -> int:
        """Bytes of the pool, to 1 MiB / `factor`."""
        return allocated_mib(self.debug_text(sym)) * MIB // self.factor


def allocated_mib(debug_text: str) -> int:
    """The figure in an executor's `debug_str()`.

    Raises:
        RuntimeError: there is none; this is not MXNet 1.9's text.

    Example:
        >>> allocated_mib("Op:null\\nTotal 346 MB allocated\\nTotal 11 TempSpace resource requested")
        346
    """
    found = _TOTAL.search(debug_text, max(0, len(debug_text) - 400)) or _TOTAL.search(debug_text)
    if found is None:
        raise RuntimeError(f"MXNet {mx.__version__} does not tell what it allocates: MXNet 1.9.1 does")
    return int(found.group(1))


@contextlib.contextmanager
def quiet_binding() -> Iterator[None]:
    """Inside, MXNet does not write a line to the terminal for every bind."""
    before = os.environ.get(_QUIET)
    os.environ[_QUIET] = before or "0"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_QUIET]


def bind_for_prediction(sym: Any, context: Any, arrays: Mapping[str, Any], inputs: Mapping[str, Any]) -> Any:
    """An executor for `forward(is_train=False)` that gives the right numbers.

    Bound without any gradient, MXNet fuses operators by MKL-DNN, and its fusion is wrong: outputs of pre-activation
    ResNets are off by tens of percent. So one gradient is bound, of the last parameter, which keeps no activation.
    Parameters are copied: inference leaves them in layouts of MKL-DNN's, which nothing else can write to.
    """
    # MXNet's BatchNorm moves its statistics in the backward pass without saying so: nothing waits for them by itself.
    mx.nd.waitall()
    names = [name for name in sym.list_arguments() if name not in inputs]
    arguments = {**{name: arrays[name].copy() for name in names}, **inputs}
    states = {name: arrays[name].copy() for name in sym.list_auxiliary_states()}
    gradients = {name: mx.nd.zeros_like(arrays[name]) for name in names[-1:]}
    asked = {name: "write" if name in gradients else "null" for name in arguments}
    with quiet_binding():
        return sym.bind(context, args=arguments, args_grad=gradients, grad_req=asked, aux_states=states)


def plan_bytes(sym: Any, type_dict: Mapping[str, Any] | None, shapes: Mapping[str, Any], finer: int = FINER) -> int:
    """Bytes that MXNet's planner allocates for one Symbol."""
    return Binder(sym, type_dict, infer(sym, type_dict, shapes, "plan_bytes"), finer).cost_bytes(sym)


def saved_bytes(sym: Any, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """What is held from the forward pass until the backward pass, inputs and parameters not counted.

    These are the outputs that backward operators, or operators that run again, read of those that ran forward.
    """
    graph = SymbolGraph.of(sym, shapes)
    mirrored = graph.mirrored()
    unmarked = graph.with_mirrored(())
    bound = infer(unmarked, None, shapes, "saved_bytes")
    reads = backward_reads(graph, Binder(unmarked, None, bound, finer=1).debug_text(unmarked))
    held: set[Entry] = set()
    for node in graph.nodes:
        if not node.is_variable:
            held |= set(node.inputs) | reads[node.index] if node.index in mirrored else reads[node.index]
    return sum(
        BYTES_A_VALUE * math.prod(graph.nodes[index].shapes[output])
        for index, output in held
        if index not in mirrored and not graph.nodes[index].is_variable and output < len(graph.nodes[index].shapes)
    )
