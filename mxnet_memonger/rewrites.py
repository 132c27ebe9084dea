"""Changes of a Symbol that make it plan better and compute the same function."""

from __future__ import annotations

import json
from typing import Any

from mxnet_memonger.numpy_names import mx
from mxnet_memonger.saving import check_symbol


def flat_concat(sym: Any) -> Any:
    """A copy of a Symbol in which a Concat of Concats reads their parts itself.

    A chain of concatenations has to be run again from its start to have any of its links again; a flat one is run
    again from its parts. Outputs are the same to the bit; gradients of the parts are added up in another order, and
    may differ in the last bits of float32.

    Raises:
        TypeError: `sym` is not a Symbol.

    Example:
        >>> a, b, c = (mx.sym.Variable(name) for name in "abc")
        >>> flat_concat(mx.sym.Concat(mx.sym.Concat(a, b), c, name="all")).get_children().list_outputs()
        ['a', 'b', 'c']
    """
    check_symbol(sym)
    content = json.loads(sym.tojson())
    nodes = content["nodes"]
    for node in nodes:
        if node["op"] == "Concat":
            parts: list[list[int]] = []
            for entry in node["inputs"]:
                source = nodes[entry[0]]
                inner = source["op"] == "Concat" and _axis(source) == _axis(node)
                parts += source["inputs"] if inner else [entry]  # earlier nodes are flat already
            node["inputs"] = parts
            node["attrs"] = {**node.get("attrs", {}), "num_args": str(len(parts))}
    return mx.sym.load_json(json.dumps(content))


def _axis(node: dict[str, Any]) -> int:
    return int(node.get("attrs", {}).get("dim", 1))
