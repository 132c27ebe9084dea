"""The layers that the zoo's networks are made of, as Symbols whose parameters have the zoo's canonical names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mxnet_memonger.numpy_names import mx

NORM_MOMENTUM = 0.9  # share of a running statistic that stays


def parameter(name: str, init: Any) -> Any:
    """A parameter that says itself how it is initialised, whatever initialiser a Module is given."""
    return mx.sym.Variable(name, init=init)


def convolution(
    inputs: Any,
    name: str,
    channels: int,
    size: int,
    *,
    stride: int = 1,
    groups: int = 1,
    bias: bool = False,
    padding: int | None = None,
) -> Any:
    """A convolution that keeps the image's size, divided by the stride, unless another padding is given.

    (N, C, H, W) -> (N, channels, H / stride, W / stride); the weight is (channels, C / groups, size, size).
    """
    weight = parameter(f"{name}.weight", mx.init.MSRAPrelu(factor_type="out", slope=0))
    pad = size // 2 if padding is None else padding
    given = {"bias": parameter(f"{name}.bias", mx.init.Zero())} if bias else {}
    return mx.sym.Convolution(
        inputs,
        weight=weight,
        **given,
        num_filter=channels,
        kernel=(size, size),
        stride=(stride, stride),
        pad=(pad, pad),
        num_group=groups,
        no_bias=not bias,
        name=name,
    )


def norm(inputs: Any, name: str, epsilon: float, momentum: float = NORM_MOMENTUM) -> Any:
    """BatchNorm over (N, H, W); its running statistics are auxiliary states."""
    return mx.sym.BatchNorm(
        inputs,
        gamma=parameter(f"{name}.weight", mx.init.One()),
        beta=parameter(f"{name}.bias", mx.init.Zero()),
        moving_mean=parameter(f"{name}.running_mean", mx.init.Zero()),
        moving_var=parameter(f"{name}.running_var", mx.init.One()),
        fix_gamma=False,
        eps=epsilon,
        momentum=momentum,
        name=name,
    )


def relu(inputs: Any, name: str) -> Any:
    """max(x, 0)."""
    return mx.sym.Activation(inputs, act_type="relu", name=name)


def norm_relu(inputs: Any, name: str, epsilon: float) -> Any:
    """BatchNorm, then ReLU."""
    return relu(norm(inputs, name, epsilon), f"{name}.relu")


def max_pool(inputs: Any, name: str) -> Any:
    """3x3, stride 2, one pixel of padding."""
    return mx.sym.Pooling(inputs, pool_type="max", kernel=(3, 3), stride=(2, 2), pad=(1, 1), name=name)


def concatenated(parts: Sequence[Any], name: str, *, as_blocks: bool) -> Any:
    """(N, C_i, H, W)... -> (N, sum of C_i, H, W).

    MKL-DNN's backward of a Concat fails ("could not construct a sub-memory"), or ends the process, where channels do
    not fill the blocks of 16 that its convolutions compute in. It takes no arrays of five dimensions, for which MXNet
    has an operator of its own.

    Args:
        parts: at least two.
        name: of the Concat.
        as_blocks: whether every part has a multiple of 16 channels, so that MKL-DNN may have it.
    """
    if as_blocks:
        return mx.sym.Concat(*parts, dim=1, name=name)
    lifted = [mx.sym.expand_dims(part, axis=0, name=f"{name}.lift{i}") for i, part in enumerate(parts)]
    return mx.sym.Reshape(mx.sym.Concat(*lifted, dim=2, name=name), shape=(-3, -2), name=f"{name}.drop")


def classifier(inputs: Any, name: str, classes: int) -> Any:
    """Mean over all pixels, then a linear layer: (N, C, H, W) -> (N, classes)."""
    pooled = mx.sym.Pooling(inputs, pool_type="avg", global_pool=True, kernel=(1, 1), name=f"{name}.pool")
    return linear(mx.sym.Flatten(pooled, name=f"{name}.flatten"), name, classes)


def linear(inputs: Any, name: str, outputs: int) -> Any:
    """(N, C) -> (N, outputs), with a bias."""
    return linear_of(inputs, linear_parameters(name), outputs, name)


def linear_parameters(name: str) -> tuple[Any, Any]:
    """Weight and bias of a linear layer, which several places may share."""
    weight = parameter(f"{name}.weight", mx.init.Xavier(factor_type="in", magnitude=1))
    return weight, parameter(f"{name}.bias", mx.init.Zero())


def linear_of(inputs: Any, weights: tuple[Any, Any], outputs: int, name: str) -> Any:
    """(N, C) -> (N, outputs) by a given weight and bias."""
    weight, bias = weights
    return mx.sym.FullyConnected(inputs, weight=weight, bias=bias, num_hidden=outputs, name=name)
