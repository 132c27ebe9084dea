"""Which operators of a Symbol can keep codes in the place of what they read."""

from __future__ import annotations

from mxnet_memonger.coded_kinds import AVERAGE_POOL, MAX_POOL
from mxnet_memonger.codes import sizes
from mxnet_memonger.symbol_graph import GraphNode

TRUE = ("True", "1", "true")

LINEAR = (
    *("elemwise_add", "_Plus", "_plus", "Concat", "Reshape", "Flatten", "expand_dims", "transpose"),
    *("slice", "pad", "Pad", "_copy"),
)


def pool_of(node: GraphNode) -> str | None:
    """The operator that stands in for a pool, or None for what is no pool or no such one."""
    if node.op != "Pooling" or node.attributes.get("pooling_convention", "valid") != "valid":
        return None
    is_global = node.attributes.get("global_pool") in TRUE
    if not is_global and len(sizes(node.attributes.get("kernel", ""))) != 2:
        return None
    kind = node.attributes.get("pool_type", "max")
    return AVERAGE_POOL if kind == "avg" else MAX_POOL if kind == "max" and not is_global else None


def is_codable_norm(node: GraphNode) -> bool:
    """Whether it is one over channels that takes the batch's statistics, and nobody reads these."""
    given = node.attributes
    switched = [given.get(name, "False") in TRUE for name in ("use_global_stats", "output_mean_var")]
    return not any(switched) and given.get("axis", "1") == "1"


def is_convolution(node: GraphNode) -> bool:
    """Whether it is one over images."""
    return node.op == "Convolution" and len(sizes(node.attributes.get("kernel", ""))) == 2


def activation_of(node: GraphNode) -> str:
    """ "relu", "relu6", or "" for any other operator."""
    if node.op == "Activation" and node.attributes.get("act_type") == "relu":
        return "relu"
    limits = tuple(float(node.attributes.get(name, "nan")) for name in ("a_min", "a_max"))
    return "relu6" if node.op == "clip" and limits == (0, 6) else ""
