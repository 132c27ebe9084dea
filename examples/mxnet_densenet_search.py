"""Find a plan that trains a DenseNet in less memory: `python examples/mxnet_densenet_search.py`.

The network is a DenseNet-BC of norm, ReLU and convolution units, whose layers each concatenate what came before with
what they add: a chain of concatenations. `--flat` has every layer read its inputs itself, which plans better.
"""

from __future__ import annotations

import argparse
from typing import Any

from mxnet_memonger import memonger
from mxnet_memonger.numpy_names import mx


def unit(inputs: Any, channels: int, size: int, name: str) -> Any:
    """Norm, ReLU, convolution."""
    values = mx.sym.Activation(mx.sym.BatchNorm(inputs, fix_gamma=False, name=f"{name}_bn"), act_type="relu")
    pad = size // 2
    return mx.sym.Convolution(
        values, kernel=(size, size), pad=(pad, pad), num_filter=channels, no_bias=True, name=f"{name}_conv"
    )


def dense_layer(inputs: Any, growth: int, name: str) -> Any:
    """What came before, and `growth` channels more; marked as a place to cut."""
    added = unit(unit(inputs, 4 * growth, 1, f"{name}_1x1"), growth, 3, f"{name}_3x3")
    joined = mx.sym.Concat(inputs, added, name=f"{name}_concat")
    joined._set_attr(mirror_stage="True")
    return joined


def network(blocks: list[int], growth: int = 32, stem: int = 64) -> Any:
    """Dense blocks of so many layers each, for images of 224 x 224 pixels and 1000 classes."""
    values = mx.sym.Convolution(
        mx.sym.Variable("data"), kernel=(7, 7), stride=(2, 2), pad=(3, 3), num_filter=stem, no_bias=True, name="stem"
    )
    values = mx.sym.Activation(mx.sym.BatchNorm(values, fix_gamma=False, name="stem_bn"), act_type="relu")
    values = mx.sym.Pooling(values, pool_type="max", kernel=(3, 3), stride=(2, 2), pad=(1, 1))
    channels = stem
    for block, count in enumerate(blocks):
        for layer in range(count):
            values = dense_layer(values, growth, f"block{block}_{layer}")
        channels += growth * count
        if block < len(blocks) - 1:
            channels //= 2
            values = unit(values, channels, 1, f"transition{block}")
            values = mx.sym.Pooling(values, pool_type="avg", kernel=(2, 2), stride=(2, 2))
    values = mx.sym.Activation(mx.sym.BatchNorm(values, fix_gamma=False, name="last_bn"), act_type="relu")
    pooled = mx.sym.Pooling(values, kernel=(7, 7), pool_type="avg", global_pool=True, name="global_pool")
    scores = mx.sym.FullyConnected(mx.sym.Flatten(pooled, name="flatten"), num_hidden=1000, name="fc1")
    return mx.sym.SoftmaxOutput(scores, name="softmax")


def main() -> None:
    """Search, and print what it brings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, nargs="+", default=[6, 12, 48, 32], help="layers of each block")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--ntrial", type=int, default=6, help="how long to search, times eight seconds")
    parser.add_argument("--flat", action="store_true", help="concatenate everything in each layer anew")
    arguments = parser.parse_args()
    net, shape = network(arguments.blocks), (arguments.batch, 3, 224, 224)
    before = memonger.get_cost(net, data=shape)
    if arguments.flat:
        net = memonger.flat_concat(net, data=shape)
    planned = memonger.search_plan(net, ntrial=arguments.ntrial, data=shape)
    print(f"before: {before} MB")
    print(f"after:  {memonger.get_cost(planned, data=shape)} MB")


if __name__ == "__main__":
    main()
