"""Changes of a Symbol that make it plan better and compute the same function."""

from __future__ import annotations

import json
from typing import Any

from mxnet_memonger.numpy_names import mx
from mxnet_memonger.shapes import infer
from mxnet_memonger.symbol_graph import SymbolGraph

# MKL-DNN's backward of a Concat of three or more parts fails, or ends the process, where a part's channels do not fill
# the blocks that its convolutions compute in.
CHANNEL_BLOCK = 16
# MXNet adds up the gradients of an output that eight or more read in another way, which gives wrong sums of slices.
MOST_READERS = 7


def flat_concat(sym: Any, **input_shapes: Any) -> Any:
    """A copy of a Symbol in which a Concat of Concats reads their parts itself, as far as MXNet can train that.

    A chain of concatenations has to be run again from its start to have any of its links again; a flat one is run
    again from its parts. Outputs are the same to the bit; gradients of the parts are added up in another order, and
    may differ in the last bits of float32. A Concat stays as it is where MXNet 1.9.1 would fail or give wrong
    gradients: with a part whose size is no multiple of 16, or one that more than seven would then read.

    Raises:
        TypeError, ValueError: as `memonger.search_plan`.

    Example:
        >>> a, b, c = (mx.sym.Variable(name, shape=(1, 16)) for name in "abc")
        >>> flat_concat(mx.sym.Concat(mx.sym.Concat(a, b), c, name="all")).get_children().list_outputs()
        ['a', 'b', 'c']
    """
    graph = SymbolGraph.of(sym, infer(sym, None, input_shapes, "flat_concat").given)
    content = json.loads(sym.tojson())
    nodes = content["nodes"]
    readers: dict[tuple[int, int], int] = {}
    for graph_node in graph.nodes:
        for entry in graph_node.inputs:
            readers[entry] = readers.get(entry, 0) + 1
    for node in nodes:
        if node["op"] != "Concat":
            continue
        parts: list[list[int]] = []
        for entry in node["inputs"]:
            source = nodes[entry[0]]
            inner = source["op"] == "Concat" and _axis(source) == _axis(node)
            more = all(readers[part[0], part[1]] < MOST_READERS for part in source["inputs"]) if inner else False
            parts += source["inputs"] if more else [entry]  # earlier nodes are flat already
        sizes = [graph.nodes[index].shapes[output][_axis(node)] for index, output, *_ in parts]
        if len(parts) > len(node["inputs"]) and all(size % CHANNEL_BLOCK == 0 for size in sizes):
            for index, output, *_ in parts:
                readers[index, output] += 1
            node["inputs"] = parts
            node["attrs"] = {**node.get("attrs", {}), "num_args": str(len(parts))}
    return mx.sym.load_json(json.dumps(content))


def _axis(node: dict[str, Any]) -> int:
    return int(node.get("attrs", {}).get("dim", 1))
