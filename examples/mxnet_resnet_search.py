"""Find a plan that trains a residual network in less memory: `python examples/mxnet_resnet_search.py`.

The network is a bottleneck ResNet of convolution, norm and LeakyReLU units. It is marked where it may be cut, but the
search finds cuts by itself as well.
"""

from __future__ import annotations

import argparse
from typing import Any

from mxnet_memonger import memonger
from mxnet_memonger.numpy_names import mx


def unit(inputs: Any, channels: int, size: int, stride: int = 1) -> Any:
    """Convolution, norm, LeakyReLU."""
    pad = size // 2
    values = mx.sym.Convolution(
        inputs, kernel=(size, size), stride=(stride, stride), pad=(pad, pad), num_filter=channels
    )
    return mx.sym.LeakyReLU(mx.sym.BatchNorm(values, fix_gamma=True), act_type="leaky")


def residual_block(inputs: Any, channels: int, stride: int, first: bool) -> Any:
    """1x1, 3x3 and 1x1 units beside a shortcut, which is marked as a place to cut."""
    values = unit(unit(unit(inputs, channels, 1), channels, 3, stride), 4 * channels, 1)
    shortcut = unit(inputs, 4 * channels, 1, stride) if first else inputs
    output = shortcut + values
    shortcut._set_attr(mirror_stage="True")
    return output


def network(blocks: list[int]) -> Any:
    """Four stages of so many blocks each, for images of 224 x 224 pixels and 1000 classes."""
    values = unit(mx.sym.Variable("data"), 64, 7, 2)
    values = mx.sym.Pooling(values, pool_type="max", kernel=(3, 3), stride=(2, 2))
    for stage, count in enumerate(blocks):
        for index in range(count):
            stride = 2 if stage > 0 and index == 0 else 1
            values = residual_block(values, 64 << stage, stride, first=index == 0)
    pooled = mx.sym.Pooling(values, kernel=(7, 7), stride=(1, 1), pool_type="avg", name="global_pool")
    scores = mx.sym.FullyConnected(mx.sym.Flatten(pooled, name="flatten"), num_hidden=1000, name="fc1")
    return mx.sym.SoftmaxOutput(scores, name="softmax")


def main() -> None:
    """Search, and print what it brings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, nargs=4, default=[3, 24, 36, 3], help="blocks of each stage")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--ntrial", type=int, default=6, help="how long to search, times eight seconds")
    arguments = parser.parse_args()
    net, shape = network(arguments.blocks), (arguments.batch, 3, 224, 224)
    planned = memonger.search_plan(net, ntrial=arguments.ntrial, data=shape)
    print(f"before: {memonger.get_cost(net, data=shape)} MB")
    print(f"after:  {memonger.get_cost(planned, data=shape)} MB")


if __name__ == "__main__":
    main()
