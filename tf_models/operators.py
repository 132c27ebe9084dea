"""Convolutions and pools as pure functions of tensors, with their gradients, in both data formats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from tf_models.tensorflow_names import tf

FORMATS = ("channels_last", "channels_first")
SHORT_FORMAT = {"channels_last": "NHWC", "channels_first": "NCHW"}.__getitem__


@dataclass(frozen=True)
class Convolution:
    """How a convolution runs.

    Args:
        size: of the kernel, in pixels.
        stride: in pixels.
        groups: channels are split into so many; "depthwise" is a group a channel.
        depthwise: every channel has a kernel of its own; the weight is (size, size, C, 1).
        pads_after: even sizes are padded at the bottom and right alone (Keras's strided networks).
        data_format: "channels_last" or "channels_first".
    """

    size: int
    stride: int = 1
    groups: int = 1
    depthwise: bool = False
    pads_after: bool = False
    data_format: str = "channels_last"

    def padding(self, shape: Any) -> list[tuple[int, int]]:
        """Pixels on each side, for inputs of a shape, in the order of the axes."""
        half = self.size // 2
        height, width = spatial_sizes(shape, self.data_format)
        pairs = [(half - (not size % 2), half) for size in (height, width)] if self.pads_after else [(half, half)] * 2
        return four_axes(pairs, self.data_format)

    def settings(self, shape: Any) -> dict[str, Any]:
        """Attributes of TensorFlow's operators for inputs of a shape."""
        pads = [side for pair in self.padding(shape) for side in pair]
        given: dict[str, Any] = {"strides": four(self.stride, self.data_format), "padding": "VALID"}
        if any(pads) and self.stride == 1 and self.size % 2:
            given["padding"] = "SAME"
        elif any(pads):
            given |= {"padding": "EXPLICIT", "explicit_paddings": pads}
        return {**given, "data_format": SHORT_FORMAT(self.data_format)}


def four(size: int, data_format: str) -> list[int]:
    """A size of height and width for all four axes."""
    return [1, size, size, 1] if data_format == "channels_last" else [1, 1, size, size]


def four_axes(pairs: list[tuple[int, int]], data_format: str) -> list[tuple[int, int]]:
    """Padding of height and width for all four axes."""
    return [(0, 0), *pairs, (0, 0)] if data_format == "channels_last" else [(0, 0), (0, 0), *pairs]


def spatial_sizes(shape: Any, data_format: str) -> tuple[int, int]:
    """Height and width of images of a shape.

    Raises:
        ValueError: they are not known when the graph is made.
    """
    height, width = shape[1:3] if data_format == "channels_last" else shape[2:4]
    if height is None or width is None:
        raise ValueError(f"images of shape {tuple(shape)}: height and width must be fixed; only the batch may be None")
    return int(height), int(width)


def channel_axis(data_format: str) -> int:
    """Of four."""
    return 3 if data_format == "channels_last" else 1


def pixel_axes(data_format: str) -> list[int]:
    """Batch, height and width."""
    return [0, 1, 2] if data_format == "channels_last" else [0, 2, 3]


def convolve(inputs: Any, kernel: Any, bias: Any, how: Convolution, in_order: bool = False) -> Any:
    """Images by a kernel (size, size, C / groups, C'), or (size, size, C, 1) if depthwise; `bias` may be None.

    With `in_order` a graph computes the gradients as `convolution_gradients` does.
    """
    without = (how.groups > 1 and not how.depthwise) or _overruns(inputs, how)  # a CPU has no gradient, or a wrong one
    run = _with_own_gradients if without or (in_order and not tf.executing_eagerly()) else _convolve
    values = run(inputs, kernel, how)
    return values if bias is None else tf.nn.bias_add(values, bias, SHORT_FORMAT(how.data_format))


def _convolve(inputs: Any, kernel: Any, how: Convolution) -> Any:
    operator = tf.raw_ops.DepthwiseConv2dNative if how.depthwise else tf.raw_ops.Conv2D
    return operator(input=inputs, filter=kernel, **how.settings(inputs.shape))


def _with_own_gradients(inputs: Any, kernel: Any, how: Convolution) -> Any:
    @tf.custom_gradient
    def run(inputs: Any, kernel: Any) -> Any:
        return _convolve(inputs, kernel, how), lambda gradient: convolution_gradients(inputs, kernel, gradient, how)

    return run(inputs, kernel)


def convolution_gradients(inputs: Any, kernel: Any, gradient: Any, how: Convolution) -> tuple[Any, Any]:
    """Gradients of a convolution's input and kernel.

    A graph computes the kernel's first. Side by side, both would have their scratch at once, which may be more than
    all that the network keeps; and a thread that is late would hold what its kernel's gradient is made of while others
    go on through the network.
    """
    if how.groups > 1 and not how.depthwise and not tf.config.list_physical_devices("GPU"):
        return _gradients_by_group(inputs, kernel, gradient, how)
    settings = how.settings(inputs.shape)
    if how.depthwise:
        to_input, to_filter = (
            tf.raw_ops.DepthwiseConv2dNativeBackpropInput,
            tf.raw_ops.DepthwiseConv2dNativeBackpropFilter,
        )
    else:
        to_input, to_filter = tf.raw_ops.Conv2DBackpropInput, tf.raw_ops.Conv2DBackpropFilter
    read, how_read = inputs, settings
    if _overruns(inputs, how):
        read, how_read = inputs[:, :: how.stride, :: how.stride], replace(how, stride=1).settings(inputs.shape)
    of_kernel = to_filter(input=read, filter_sizes=tf.shape(kernel), out_backprop=gradient, **how_read)
    sizes = tf.shape(inputs)
    with tf.control_dependencies([of_kernel]):
        of_input = to_input(input_sizes=sizes, filter=kernel, out_backprop=gradient, **settings)
    return of_input, of_kernel


def _overruns(inputs: Any, how: Convolution) -> bool:
    """Whether oneDNN would write past its scratch in the kernel's gradient (its issue 6035): memory is corrupted.

    So it is for strided 1x1 convolutions of channels_last images of fewer channels than it has lanes: 16 with AVX-512.
    Their gradient reads every stride-th pixel alone, and so is that of a convolution of those pixels.
    """
    channels = inputs.shape[channel_axis(how.data_format)]
    return how.size == 1 and how.stride > 1 and how.data_format == "channels_last" and channels < 16


def _gradients_by_group(inputs: Any, kernel: Any, gradient: Any, how: Convolution) -> tuple[Any, Any]:
    """TensorFlow's CPU kernels know no gradients of grouped convolutions: one group after the other."""
    axis, alone = channel_axis(how.data_format), replace(how, groups=1)
    parts = (
        tf.split(inputs, how.groups, axis),
        tf.split(kernel, how.groups, 3),
        tf.split(gradient, how.groups, axis),
    )
    made = [convolution_gradients(*part, alone) for part in zip(*parts, strict=True)]
    return tf.concat([one for one, _ in made], axis), tf.concat([other for _, other in made], 3)


def bias_gradient(gradient: Any, how: Convolution) -> Any:
    """Of a convolution's bias."""
    return tf.reduce_sum(gradient, pixel_axes(how.data_format))


def max_pool(inputs: Any, data_format: str) -> Any:
    """3x3, stride 2, one pixel of padding, which is never the largest."""
    padded = padded_for_pool(inputs, data_format)
    return from_channels_last(tf.raw_ops.MaxPool(input=padded, **_POOL), data_format)


def max_pool_gradient(inputs: Any, outputs: Any, gradient: Any, data_format: str) -> Any:
    """Of `max_pool`'s input."""
    padded = padded_for_pool(inputs, data_format)
    outputs, gradient = (to_channels_last(one, data_format) for one in (outputs, gradient))
    made = tf.raw_ops.MaxPoolGrad(orig_input=padded, orig_output=outputs, grad=gradient, **_POOL)
    return from_channels_last(made[:, 1:-1, 1:-1], data_format)


# XLA pads no pool itself, and a CPU pools no channels_first.
_POOL: Mapping[str, Any] = {"ksize": [1, 3, 3, 1], "strides": [1, 2, 2, 1], "padding": "VALID"}


def padded_for_pool(inputs: Any, data_format: str) -> Any:
    """As (N, H + 2, W + 2, C), with a border that is never the largest."""
    pads = [(0, 0), (1, 1), (1, 1), (0, 0)]
    return tf.pad(to_channels_last(inputs, data_format), pads, constant_values=inputs.dtype.min)


def to_channels_last(values: Any, data_format: str) -> Any:
    """Images as (N, H, W, C)."""
    return values if data_format == "channels_last" else tf.transpose(values, [0, 2, 3, 1])


def from_channels_last(values: Any, data_format: str) -> Any:
    """The inverse of `to_channels_last`."""
    return values if data_format == "channels_last" else tf.transpose(values, [0, 3, 1, 2])


def average_pool(inputs: Any, data_format: str) -> Any:
    """2x2, stride 2; an odd row or column at the end is left out. For its gradient nothing is kept."""
    height, width = spatial_sizes(inputs.shape, data_format)
    how: Mapping[str, Any] = {"ksize": [1, 2, 2, 1], "strides": [1, 2, 2, 1], "padding": "VALID"}

    @tf.custom_gradient
    def run(inputs: Any) -> Any:
        # An eager tape records what runs in here as well, and would keep its inputs.
        pooled = tf.raw_ops.AvgPool(value=to_channels_last(tf.stop_gradient(inputs), data_format), **how)

        def gradients(gradient: Any) -> Any:
            gradient = to_channels_last(gradient, data_format)
            shape = [_batch(gradient), height, width, gradient.shape[3]]
            made = tf.raw_ops.AvgPoolGrad(orig_input_shape=shape, grad=gradient, **how)
            return from_channels_last(made, data_format)

        return from_channels_last(pooled, data_format), gradients

    return run(inputs)


def mean_of_pixels(inputs: Any, data_format: str) -> Any:
    """(N, H, W, C) or (N, C, H, W) -> (N, C). For its gradient nothing is kept."""
    height, width = spatial_sizes(inputs.shape, data_format)
    axes = pixel_axes(data_format)[1:]

    @tf.custom_gradient
    def run(inputs: Any) -> Any:
        def gradients(gradient: Any) -> Any:
            share = gradient / (height * width)
            for axis in axes:
                share = tf.expand_dims(share, axis)
            sizes = [1, height, width, 1] if data_format == "channels_last" else [1, 1, height, width]
            return tf.tile(share, sizes)

        return tf.reduce_mean(tf.stop_gradient(inputs), axes), gradients

    return run(inputs)


def _batch(values: Any) -> Any:
    """Of images: as a number where it is known."""
    return tf.shape(values)[0] if values.shape[0] is None else values.shape[0]


def activate(values: Any, activation: str) -> Any:
    """max(x, 0) for "relu", clipped to 6 too for "relu6", unchanged for ""."""
    return {"relu": tf.nn.relu, "relu6": tf.nn.relu6, "": lambda same: same}[activation](values)


def activation_gradient(gradient: Any, outputs: Any, activation: str) -> Any:
    """Of an activation's input, from what the activation gave."""
    if activation == "relu":
        return tf.raw_ops.ReluGrad(gradients=gradient, features=outputs)
    if activation == "relu6":
        return tf.raw_ops.Relu6Grad(gradients=gradient, features=outputs)
    return gradient
