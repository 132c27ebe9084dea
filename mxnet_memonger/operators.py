"""What the search must know of MXNet's operators: which may run twice, and how much work each is."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

# Run a second time they draw again: forward and backward would see different numbers. Dropout is not among them:
# MXNet itself keeps its mask and never runs it twice.
_RANDOM = re.compile(
    r"_?(random|sample)_(?!pdf_).*|_?shuffle|uniform|normal|_npx?_{1,2}(image_)?random_.*|_image_random_.*|_npx_dropout"
    r"|_npi_(bernoulli|choice|exponential|gamma|gumbel|logistic|multinomial|normal|normal_n|pareto|powerd|rayleigh"
    r"|shuffle|uniform|uniform_n|weibull|random_randint)|_contrib_dgl_.*_sample"
)
# Run a second time they would move a state of their own a second time, or call somebody's Python again.
_STATEFUL = frozenset(
    {"Custom", "_Native", "_NDArray", "_contrib_SyncBatchNorm", "IdentityAttachKLSparseReg", "_CachedOp"}
)
_CONTROL_FLOW = frozenset({"_foreach", "_while_loop", "_cond"})  # they hold graphs in which anything may be


def may_run_twice(op: str, attributes: Mapping[str, str]) -> bool:
    """Whether running an operator a second time gives the same values and changes nothing else.

    Example:
        >>> may_run_twice("Convolution", {}), may_run_twice("_random_normal", {}), may_run_twice("Dropout", {})
        (True, False, True)
    """
    if op in _STATEFUL or op in _CONTROL_FLOW:
        return False
    if op == "LeakyReLU":
        return attributes.get("act_type", "leaky") != "rrelu"  # its slope is drawn
    if op == "RNN":
        return float(attributes.get("p", 0) or 0) == 0  # dropout between its layers is drawn anew
    return _RANDOM.fullmatch(op) is None


def forward_flops(
    op: str, attributes: Mapping[str, str], inputs: Sequence[tuple[int, ...]], outputs: Sequence[tuple[int, ...]]
) -> int:
    """Floating-point operations of one forward run: twice the multiply-adds, or a few a value where there are none.

    Args:
        op, attributes: the operator.
        inputs, outputs: shapes.

    Example:
        >>> forward_flops("FullyConnected", {}, [(8, 100), (10, 100)], [(8, 10)])
        16000
    """
    values = sum(math.prod(shape) for shape in outputs)
    if op == "Convolution":
        return 2 * values * math.prod(inputs[1][1:])
    if op == "Deconvolution":
        return 2 * math.prod(inputs[0]) * math.prod(inputs[1][1:])
    if op == "FullyConnected":
        return 2 * values * inputs[1][1]
    if op in ("dot", "batch_dot"):
        transposed = attributes.get("transpose_a", "False") in ("True", "1")
        return 2 * values * inputs[0][-2 if transposed else -1]
    if op == "RNN":
        return 2 * math.prod(inputs[1]) * math.prod(inputs[0][:2])  # all weights, at every step, for every sample
    return values * _OPERATIONS_A_VALUE.get(op, 1)


_OPERATIONS_A_VALUE: Mapping[str, int] = {  # where it is not 1
    "BatchNorm": 6,  # mean, variance, then the affine map
    "LayerNorm": 8,
    "Pooling": 4,
    "softmax": 4,
    "SoftmaxOutput": 4,
    "Flatten": 0,
    "Reshape": 0,
    "_copy": 0,
}


def is_matrix_work(op: str) -> bool:
    """Whether an operator is a convolution or a matrix product: what people count when they count recomputation."""
    return op in ("Convolution", "Deconvolution", "FullyConnected", "dot", "batch_dot", "RNN")
