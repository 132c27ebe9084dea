"""What rounding an input of a convolution or linear layer costs the weight's gradient, from the call's arguments."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from zoo.bits import convolution_noise, in_bounds_share

Noise = Callable[[float, float], float]


def linear_noise(name: str, arguments: Sequence[Any], keywords: Mapping[str, Any], result: Tensor) -> Noise | None:
    """(energy, |dY|^2), both of the whole batch -> variance of the weight's gradient; None for another operator."""
    inputs, weight = (_argument(arguments, keywords, place, key) for place, key in enumerate(("input", "weight")))
    if not isinstance(inputs, Tensor) or not isinstance(weight, Tensor) or not weight.requires_grad:
        return None
    if name == "linear":
        rows = inputs.numel() // inputs.shape[-1]
        return lambda energy, square: convolution_noise(energy, square, 1, 1, rows, 1.0)
    if name not in ("conv1d", "conv2d", "conv3d") or inputs.dim() != weight.dim():
        return None
    options = [
        _argument(arguments, keywords, place, key) for place, key in ((3, "stride"), (4, "padding"), (5, "dilation"))
    ]
    if isinstance(options[1], str):
        return None
    groups = _argument(arguments, keywords, 6, "groups") or 1
    stride, padding, dilation = (
        options_of(option, default, inputs.dim() - 2) for option, default in zip(options, (1, 0, 1), strict=True)
    )
    return noise_of_convolution(inputs.shape, weight.shape, result.shape, stride, padding, dilation, groups)


def noise_of_convolution(
    inputs: Sequence[int],
    weight: Sequence[int],
    outputs: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Noise:
    """As `linear_noise`, of one batch of these shapes (or, with a batch of one, of each sample)."""
    share = math.prod(
        in_bounds_share(size, kernel, step, pad, spread, out)
        for size, kernel, step, pad, spread, out in zip(
            inputs[2:], weight[2:], stride, padding, dilation, outputs[2:], strict=True
        )
    )
    taps, pixels = math.prod(weight[2:]), inputs[0] * math.prod(inputs[2:])
    return lambda energy, square: convolution_noise(energy, square, taps, groups, pixels, share)


def options_of(value: Any, default: int, dims: int) -> tuple[int, ...]:
    """A convolution's option for every dimension, from one number or several."""
    if value is None:
        return (default,) * dims
    if isinstance(value, int):
        return (value,) * dims
    given = tuple(int(one) for one in value)
    return given * dims if len(given) == 1 else given


def _argument(arguments: Sequence[Any], keywords: Mapping[str, Any], place: int, key: str) -> Any:
    return keywords[key] if key in keywords else arguments[place] if len(arguments) > place else None
