"""Which operator is saving a tensor, and what its gradient needs of it: the rules that keep gradients unbiased.

An operator whose gradient is linear in what it saves may save it in few bits. One whose gradient bends gently (softmax,
GELU, squares) gets at least 8. Any other keeps what it saves, or exact bits of it: it may decide by a value's sign or
order, divide by it (logarithms, roots, quotients), or be undefined a step further on (arc cosine).
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
# Their gradients bend gently in what they save, or are linear in part of it.
SMOOTH = frozenset(
    [
        *("gelu", "silu", "silu_", "mish", "mish_", "tanh", "tanh_", "sigmoid", "sigmoid_", "special_expit", "glu"),
        *("softplus", "log_sigmoid", "sin", "cos", "exp", "exp_", "exp2", "expm1", "erf", "erfc", "atan", "asinh"),
        *("softmax", "log_softmax", "softmin", "gumbel_softmax", "square", "var", "var_mean", "lerp", "addcmul"),
        *("scaled_dot_product_attention", "multi_head_attention_forward", "linalg_multi_dot", "chain_matmul", "kron"),
        *("lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"),
        *("cross_entropy", "nll_loss", "mse_loss", "kl_div", "binary_cross_entropy_with_logits", "soft_margin_loss"),
    ]
)
POWERS = frozenset(("pow", "pow_", "__pow__", "float_power"))
LOG_PROBABILITIES = frozenset(("cross_entropy", "nll_loss"))  # which read them for their shape at most
SMOOTH_BITS = 8
NORM_BITS, LONG_ROW = 4, 512  # a norm's own bias is the rounding variance over a row's length
BENT_OUTPUTS = ("Softmax", "LogSoftmax", "SafeSoftmax", "Tanh", "Sigmoid", "Exp")


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


def holds_log_probabilities(watch: OperatorWatch | None, tensor: Tensor) -> bool:
    """Whether a tensor is a log-softmax, saved by that itself or by a loss that reads it.

    The gradient asks for its exponential, which vanishes long before the values that masked scores have (-1e9, -inf).
    """
    if made_by(tensor).removeprefix("_") != "LogSoftmax":
        return False
    return is_own_output(tensor) or (watch is not None and watch.name in LOG_PROBABILITIES)


def least_bits(watch: OperatorWatch | None, tensor: Tensor) -> int | None:
    """The fewest bits an operator may save a floating tensor in; None = it must keep it.

    Args:
        watch: tells the operator, or None where it is not known.
    """
    if is_own_output(tensor) and made_by(tensor).removeprefix("_") in BENT_OUTPUTS:
        return SMOOTH_BITS
    name = None if watch is None else watch.name
    if watch is None or name is None:
        return 1
    if name in NORMS:
        return 1 if tensor.shape[-1] >= LONG_ROW or name == "group_norm" else NORM_BITS
    if name in LINEAR:
        return 1
    return (
        SMOOTH_BITS if name in SMOOTH or (name in POWERS and _is_gentle(watch.argument(1, "exponent", None))) else None
    )


def _is_gentle(exponent: object) -> bool:
    """Whether the derivative of a power is defined, and does not explode, near 0."""
    return isinstance(exponent, int | float) and (exponent == 1 or exponent >= 2)
