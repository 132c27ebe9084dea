"""ResNet as a Symbol: reads like table 1 of the paper; parameter names and shapes are torchvision's."""

from __future__ import annotations

from typing import Any

from mxnet_memonger.layers import classifier, convolution, max_pool, norm, norm_relu, relu
from mxnet_memonger.numpy_names import mx
from mxnet_memonger.symbol_model import SymbolModel
from zoo.resnet import BlockShape, ResNetConfig


class ResNet(SymbolModel):
    """ResNet (He et al. 2015, arXiv:1512.03385) and its descendants for MXNet.

    Args:
        efficient: `for_training` gives a planned Symbol: least memory, same numbers to the bit.
        keep_bottleneck: with `efficient`, at most half of a forward pass is done again: more bytes, less time.
        compressed: keep codes of 1, 2, 4 or 8 bits, or "fixed:3", "half", in the place of values; see `SymbolModel`.
        opt_memory: not of MXNet.
        fields: of `zoo.resnet.ResNetConfig`.

    Example:
        >>> model = ResNet(layers=(1, 1), width=8, efficient=True)
        >>> model.symbol.infer_shape(data=(2, 3, 32, 32))[1]
        [(2, 10)]
    """

    config_type = ResNetConfig

    @staticmethod
    def build(config: ResNetConfig) -> Any:
        """See `resnet_symbol`."""
        return resnet_symbol(config)


def resnet_symbol(config: ResNetConfig) -> Any:
    """The network from "data" (N, in_chans, H, W) to scores (N, num_classes)."""
    size, stride = (3, 1) if config.small_inputs else (7, 2)
    values = convolution(mx.sym.Variable("data"), "conv1", config.width, size, stride=stride, bias=config.has_biases)
    if not config.pre_activation:
        values = norm_relu(values, "bn1", config.norm_epsilon)
    if not config.small_inputs:
        values = max_pool(values, "maxpool")
    numbers = dict.fromkeys(range(len(config.layers)), 0)
    for shape in config.blocks():
        name = f"layer{shape.stage + 1}.{numbers[shape.stage]}"
        numbers[shape.stage] += 1
        values = (_pre_activation_block if config.pre_activation else _block)(values, name, shape, config)
    if config.pre_activation:
        values = norm_relu(values, "bn_last", config.norm_epsilon)
    return classifier(values, "fc", config.num_classes)


def _convolutions(shape: BlockShape, config: ResNetConfig) -> list[dict[str, Any]]:
    """Channels, kernel size, stride and groups of a block's convolutions."""
    inner, out, stride = shape.inner_channels, shape.out_channels, shape.stride
    if config.block == "basic":
        return [{"channels": inner, "size": 3, "stride": stride}, {"channels": out, "size": 3}]
    first, second = (stride, 1) if config.strides_first_convolution else (1, stride)
    return [
        {"channels": inner, "size": 1, "stride": first},
        {"channels": inner, "size": 3, "stride": second, "groups": config.groups},
        {"channels": out, "size": 1},
    ]


def _block(inputs: Any, name: str, shape: BlockShape, config: ResNetConfig) -> Any:
    """Convolutions each with norm and ReLU; the last ReLU is behind the sum."""
    values, epsilon, bias = inputs, config.norm_epsilon, config.has_biases
    settings = _convolutions(shape, config)
    for number, setting in enumerate(settings, start=1):
        values = convolution(values, f"{name}.conv{number}", **setting, bias=bias)
        last = number == len(settings)
        values = (norm if last else norm_relu)(values, f"{name}.bn{number}", epsilon)
    return relu(values + _shortcut(inputs, name, shape, config), f"{name}.relu")


def _shortcut(inputs: Any, name: str, shape: BlockShape, config: ResNetConfig) -> Any:
    if not shape.changes_shape:
        return inputs
    if config.shortcut == "padding":
        every_other = inputs
        if shape.stride > 1:
            steps = (None, None, shape.stride, shape.stride)
            every_other = mx.sym.slice(inputs, begin=(None,) * 4, end=(None,) * 4, step=steps, name=f"{name}.slice")
        missing = shape.out_channels - shape.in_channels
        # MXNet pads pixels alone: channels are padded where they are the third axis.
        turned = mx.sym.transpose(every_other, axes=(0, 2, 1, 3), name=f"{name}.turn")
        padded = mx.sym.pad(
            turned,
            mode="constant",
            constant_value=0,
            pad_width=(0, 0, 0, 0, missing // 2, missing - missing // 2, 0, 0),
            name=f"{name}.pad",
        )
        return mx.sym.transpose(padded, axes=(0, 2, 1, 3), name=f"{name}.turn_back")
    projected = convolution(
        inputs, f"{name}.downsample.0", shape.out_channels, 1, stride=shape.stride, bias=config.has_biases
    )
    return norm(projected, f"{name}.downsample.1", config.norm_epsilon)


def _pre_activation_block(inputs: Any, name: str, shape: BlockShape, config: ResNetConfig) -> Any:
    """norm, ReLU, convolution, each; the projection reads the first activation."""
    activation = norm_relu(inputs, f"{name}.bn1", config.norm_epsilon)
    values = activation
    for number, setting in enumerate(_convolutions(shape, config), start=1):
        if number > 1:
            values = norm_relu(values, f"{name}.bn{number}", config.norm_epsilon)
        values = convolution(values, f"{name}.conv{number}", **setting, bias=config.has_biases)
    if not shape.changes_shape:
        return values + inputs
    return values + convolution(activation, f"{name}.downsample", shape.out_channels, 1, stride=shape.stride)
