"""Which operator is saving a tensor, and what its gradient needs of it: the rules that keep gradients unbiased.

An operator whose gradient is linear in what it saves may save it in few bits. One whose gradient bends (softmax, GELU,
powers) gets at least 8. One that decides by a saved value's sign or order keeps it, or exact bits of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

CONVOLUTIONS = frozenset(("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"))
PRODUCTS = frozenset(
    [
        "matmul",
        "mm",
        "bmm",
        "addmm",
        "baddbmm",
        "addbmm",
        "einsum",
        "mul",
        "mul_",
        "multiply",
        "bilinear",
        "tensordot",
        "inner",
        "outer",
        "__mul__",
        "__rmul__",
        "__imul__",
        "__matmul__",
        "__rmatmul__",
    ]
)
NORMS = frozenset(("layer_norm", "group_norm", "rms_norm"))
LINEAR = CONVOLUTIONS | PRODUCTS | NORMS | {"linear", "dropout", "batch_norm", "instance_norm"}
# Their gradients read the shape of what they save.
SHAPE_ONLY = frozenset(
    f"{kind}_pool{dims}d" for kind in ("max", "avg", "adaptive_max", "adaptive_avg") for dims in (1, 2, 3)
) | {"max_pool2d_with_indices"}
MASKED_BY_RANGE = frozenset(("relu6", "hardtanh"))
DROPOUTS = frozenset(("dropout", "dropout1d", "dropout2d", "dropout3d", "native_dropout", "feature_dropout"))
# Their gradients ask for signs, or for what is largest: never to be told from a rounded value.
DECIDING = frozenset(
    [
        "abs",
        "absolute",
        "__abs__",
        "clamp",
        "clamp_",
        "clip",
        "clamp_min",
        "clamp_max",
        "elu",
        "elu_",
        "selu",
        "celu",
        "prelu",
        "rrelu",
        "hardswish",
        "hardsigmoid",
        "hardshrink",
        "softshrink",
        "threshold",
        "hardtanh_",
        "leaky_relu_",
        "maximum",
        "minimum",
        "max",
        "min",
        "amax",
        "amin",
        "topk",
        "sort",
        "median",
        "fmod",
        "remainder",
        "norm",
        "l1_loss",
        "smooth_l1_loss",
        "huber_loss",
        "hinge_embedding_loss",
        "margin_ranking_loss",
        "cdist",
        "logsumexp",
    ]
)
SMOOTH_BITS = 8
NORM_BITS, LONG_ROW = 4, 512  # a norm's own bias is the rounding variance over a row's length
BENT_OUTPUTS = ("Softmax", "LogSoftmax", "SafeSoftmax", "Tanh", "Sigmoid", "Exp", "Sqrt", "Rsqrt", "Reciprocal", "Pow")


class OperatorWatch(TorchFunctionMode):
    """While it is active: the name and arguments of the operator that runs, as the model called it."""

    def __init__(self, after: Callable[[str, Sequence[Any], Mapping[str, Any], Any], None]) -> None:
        super().__init__()
        self.name: str | None = None
        self.arguments: Sequence[Any] = ()
        self.keywords: Mapping[str, Any] = {}
        self._after = after

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        outer = self.name, self.arguments, self.keywords
        self.name, self.arguments, self.keywords = getattr(func, "__name__", ""), args, kwargs or {}
        name = self.name.removeprefix("_")
        self.name = name if name in SHAPE_ONLY else self.name
        try:
            result = func(*args, **(kwargs or {}))
            self._after(self.name, args, kwargs or {}, result)
            return result
        finally:
            self.name, self.arguments, self.keywords = outer

    def argument(self, index: int, name: str, default: Any) -> Any:
        """One of the running operator's arguments."""
        if name in self.keywords:
            return self.keywords[name]
        return self.arguments[index] if len(self.arguments) > index else default


def is_own_output(tensor: Tensor) -> bool:
    """Whether the operator that made a tensor is saving it now, as its output."""
    node: Any = tensor.grad_fn
    # Not `_saved_result`: that unpacks what is saved, which would run a segment again that it belongs to.
    raw = getattr(node, "_raw_saved_result", None)
    return raw is not None and raw.data is None


def made_by(tensor: Tensor) -> str:
    """The operator that made a tensor, as autograd names it, without "Backward0"."""
    node = tensor.grad_fn
    return "" if node is None else node.name().partition("Backward")[0]


def is_parameter(tensor: Tensor) -> bool:
    """Whether a tensor is a leaf that trains, a view of one, or one cast by autocast."""
    for _ in range(3):
        if tensor.is_leaf and tensor.requires_grad:
            return True
        if tensor._base is None:
            break
        tensor = tensor._base
    node = tensor.grad_fn
    for _ in range(3):
        if node is None or len(node.next_functions) != 1:
            return False
        if not node.name().startswith(("ToCopy", "T", "Transpose", "View", "Permute", "AccumulateGrad", "Unsqueeze")):
            return False
        node = node.next_functions[0][0]
        if node is not None and node.name() == "torch::autograd::AccumulateGrad":
            return True
    return False


def least_bits(name: str | None, tensor: Tensor) -> int | None:
    """The fewest bits an operator may save a floating tensor in; None = it must keep it.

    Args:
        name: of the operator, or None where it is not known.
    """
    if is_own_output(tensor) and made_by(tensor).removeprefix("_") in BENT_OUTPUTS:
        return SMOOTH_BITS
    if name is None:
        return 1
    if name in DECIDING:
        return None
    if name in NORMS:
        return 1 if tensor.shape[-1] >= LONG_ROW or name == "group_norm" else NORM_BITS
    return 1 if name in LINEAR else SMOOTH_BITS
