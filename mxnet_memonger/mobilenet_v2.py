"""MobileNetV2 as a Symbol: reads like table 2 of the paper; parameter names and shapes are torchvision's."""

from __future__ import annotations

from typing import Any

from mxnet_memonger.layers import convolution, linear, norm
from mxnet_memonger.numpy_names import mx
from mxnet_memonger.symbol_model import SymbolModel
from zoo.mobilenet_v2 import InvertedShape, MobileNetV2Config


class MobileNetV2(SymbolModel):
    """MobileNetV2 (Sandler et al. 2018, arXiv:1801.04381) for MXNet.

    Args:
        efficient: `for_training` gives a planned Symbol: least memory, same numbers to the bit.
        keep_bottleneck: with `efficient`, at most half of a forward pass is done again: more bytes, less time.
        compressed: keep codes of 1, 2, 4 or 8 bits, or "fixed:3", "half", in the place of values; see `SymbolModel`.
        opt_memory: not of MXNet.
        fields: of `zoo.mobilenet_v2.MobileNetV2Config`. With flavour "keras" sizes must be multiples of 32.

    Example:
        >>> model = MobileNetV2(width_mult=0.35, num_classes=10, efficient=True)
        >>> model.symbol.infer_shape(data=(2, 3, 64, 64))[1]
        [(2, 10)]
    """

    config_type = MobileNetV2Config

    @staticmethod
    def build(config: MobileNetV2Config) -> Any:
        """See `mobilenet_v2_symbol`."""
        return mobilenet_v2_symbol(config)


def mobilenet_v2_symbol(config: MobileNetV2Config) -> Any:
    """The network from "data" (N, in_chans, H, W) to scores (N, num_classes)."""
    values = _layer(mx.sym.Variable("data"), "features.0", config.stem_channels, 3, config, stride=2)
    number = 0
    for number, shape in enumerate(config.blocks(), start=1):
        values = _inverted_residual(values, f"features.{number}", shape, config)
    values = _layer(values, f"features.{number + 1}", config.head_channels, 1, config)
    pooled = mx.sym.Pooling(values, pool_type="avg", global_pool=True, kernel=(1, 1), name="classifier.pool")
    values = mx.sym.Flatten(pooled, name="classifier.flatten")
    if config.drop_rate:
        values = mx.sym.Dropout(values, p=config.drop_rate, name="classifier.0")
    return linear(values, "classifier.1", config.num_classes)


def _layer(
    inputs: Any, name: str, channels: int, size: int, config: MobileNetV2Config, stride: int = 1, groups: int = 1
) -> Any:
    """Convolution, norm, ReLU6."""
    pads_after = config.pads_after and stride > 1
    if pads_after:
        widths = (0, 0, 0, 0, 0, 1, 0, 1)
        inputs = mx.sym.pad(inputs, mode="constant", constant_value=0, pad_width=widths, name=f"{name}.pad")
    values = convolution(
        inputs, f"{name}.0", channels, size, stride=stride, groups=groups, padding=0 if pads_after else None
    )
    values = norm(values, f"{name}.1", config.norm_epsilon, 1 - config.norm_momentum)
    return mx.sym.clip(values, a_min=0, a_max=6, name=f"{name}.2")


def _inverted_residual(inputs: Any, name: str, shape: InvertedShape, config: MobileNetV2Config) -> Any:
    """1x1 expansion, 3x3 depthwise convolution, 1x1 projection without an activation."""
    values, place, hidden = inputs, 0, shape.hidden_channels
    if shape.expansion != 1:
        values = _layer(values, f"{name}.conv.0", hidden, 1, config)
        place = 1
    values = _layer(values, f"{name}.conv.{place}", hidden, 3, config, shape.stride, groups=hidden)
    values = convolution(values, f"{name}.conv.{place + 1}", shape.out_channels, 1)
    values = norm(values, f"{name}.conv.{place + 2}", config.norm_epsilon, 1 - config.norm_momentum)
    return inputs + values if shape.adds_inputs else values
