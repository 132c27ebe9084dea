"""DenseNet as a Symbol: reads like tables 1 and 2 of the paper; parameter names and shapes are torchvision's."""

from __future__ import annotations

from typing import Any

from mxnet_memonger.layers import classifier, concatenated, convolution, max_pool, norm_relu
from mxnet_memonger.numpy_names import mx
from mxnet_memonger.rewrites import CHANNEL_BLOCK
from mxnet_memonger.symbol_model import SymbolModel
from zoo.densenet import DenseNetConfig


class DenseNet(SymbolModel):
    """DenseNet (Huang et al. 2017, arXiv:1608.06993) for MXNet.

    Args:
        efficient: `for_training` gives a planned Symbol: least memory, same numbers to the bit.
        keep_bottleneck: with `efficient`, at most half of a forward pass is done again: more bytes, less time.
        compressed: keep codes of 1, 2, 4 or 8 bits, or "fixed:3", "half", in the place of values; see `SymbolModel`.
        opt_memory: not of MXNet.
        fields: of `zoo.densenet.DenseNetConfig`.

    Example:
        >>> model = DenseNet(growth_rate=4, block_config=(2, 2), num_init_features=8, efficient=True)
        >>> model.symbol.infer_shape(data=(2, 3, 32, 32))[1]
        [(2, 10)]
    """

    config_type = DenseNetConfig

    @staticmethod
    def build(config: DenseNetConfig) -> Any:
        """See `densenet_symbol`."""
        return densenet_symbol(config)


def densenet_symbol(config: DenseNetConfig) -> Any:
    """The network from "data" (N, 3, H, W) to scores (N, num_classes).

    Every layer reads the concatenation of what the one before it read and of that one's own new features. So each
    value has two readers, whose gradients have one order in which to be added: a plan changes no bit of them.
    """
    as_blocks = _fills_blocks(config)
    epsilon, width = config.norm_epsilon, config.num_init_features
    values = mx.sym.Variable("data")
    if config.small_inputs:
        values = convolution(values, "features.conv0", width, 3)
    else:
        values = convolution(values, "features.conv0", width, 7, stride=2)
        values = max_pool(norm_relu(values, "features.norm0", epsilon), "features.pool0")
    for number, layers in enumerate(config.block_config, start=1):
        for layer in range(1, layers + 1):
            new = _layer(values, f"features.denseblock{number}.denselayer{layer}", config)
            values = concatenated((values, new), f"features.denseblock{number}.concat{layer}", as_blocks=as_blocks)
        if number < len(config.block_config):
            width = int(config.block_widths()[number - 1] * config.compression)
            values = _transition(values, f"features.transition{number}", width, epsilon)
    return classifier(norm_relu(values, "features.norm5", epsilon), "classifier", config.num_classes)


def _fills_blocks(config: DenseNetConfig) -> bool:
    """Whether every part of every concatenation has a multiple of 16 channels."""
    starts = [config.num_init_features, *(int(width * config.compression) for width in config.block_widths())]
    return all(channels % CHANNEL_BLOCK == 0 for channels in (config.growth_rate, *starts[: len(config.block_config)]))


def _layer(features: Any, name: str, config: DenseNetConfig) -> Any:
    """norm, ReLU, 1x1 convolution, norm, ReLU, 3x3 convolution (or norm, ReLU, 3x3 without a bottleneck)."""
    values = norm_relu(features, f"{name}.norm1", config.norm_epsilon)
    if config.bn_size:
        values = convolution(values, f"{name}.conv1", config.bn_size * config.growth_rate, 1)
        values = norm_relu(values, f"{name}.norm2", config.norm_epsilon)
        values = convolution(values, f"{name}.conv2", config.growth_rate, 3)
    else:
        values = convolution(values, f"{name}.conv1", config.growth_rate, 3)
    return mx.sym.Dropout(values, p=config.drop_rate, name=f"{name}.drop") if config.drop_rate else values


def _transition(values: Any, name: str, channels: int, epsilon: float) -> Any:
    """norm, ReLU, 1x1 convolution, 2x2 average pool."""
    values = convolution(norm_relu(values, f"{name}.norm", epsilon), f"{name}.conv", channels, 1)
    return mx.sym.Pooling(values, pool_type="avg", kernel=(2, 2), stride=(2, 2), name=f"{name}.pool")
