"""What a backward pass tells of the bits that a kept tensor needs: AC-GC's bound on the step, ActNN's cost of rounding.

Everything is given channel by channel, (C,), in one number: of a bound, (max|x| / largest step)^2; of a cost, c of
the variance c / (2^b - 1)^2 that b bits add to the gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tf_models.norms import Norm
from tf_models.operators import Convolution, channel_axis
from tf_models.tensorflow_names import tf
from zoo.schemes import Scheme

FINEST, COARSEST = 2.0**-16, 4.0  # squares of a normalised value's steps, as published
NO_SIGN = 4.0  # codes without a sign have one bit more for their places


@dataclass(frozen=True)
class ConvolutionPass:
    """How a convolution that reads a kept tensor went backward.

    Args:
        how: see there.
        of_outputs, of_kernel: gradients.
    """

    how: Convolution
    of_outputs: Any
    of_kernel: Any


@dataclass(frozen=True)
class NormPass:
    """How a norm whose input is kept went backward.

    Args:
        how: see there.
        values: its input, normalised.
        of_outputs, of_inputs, of_gamma: gradients.
        gamma, inverse: its scale, and 1 / sqrt(variance + epsilon).
        sources: norms of the network, among which the error is shared out.
    """

    how: Norm
    values: Any
    of_outputs: Any
    of_inputs: Any
    of_gamma: Any
    gamma: Any
    inverse: Any
    sources: int


def norm_needs(scheme: Scheme, norm: NormPass, reader: ConvolutionPass | None) -> Any:
    """Of a norm's input, which its own gradients and the convolution behind it read."""
    axis = channel_axis(norm.how.data_format)
    values, gamma = _float(norm.values), _float(norm.gamma)
    if scheme.error is None:
        return _norm_cost(norm, reader, values, gamma, axis)
    top = tf.reduce_max(tf.abs(values), _others(values, axis))
    allowed = _norm_step(scheme, norm, top, axis)
    if reader is not None:
        size = tf.cast(tf.size(values), tf.float32)
        own = _convolution_step(scheme, reader, size, values.shape[axis])
        allowed = tf.minimum(allowed, own / tf.maximum(tf.square(gamma), 1e-30))
    return tf.square(top) / allowed


def input_needs(scheme: Scheme, values: Any, reader: ConvolutionPass) -> Any:
    """Of what a convolution without a norm before it read."""
    axis, values = channel_axis(reader.how.data_format), _float(values)
    others, size = _others(values, axis), tf.cast(tf.size(values), tf.float32)
    channels = int(values.shape[axis])
    if scheme.error is None:
        pixels = size / channels
        share = reader.how.size**2 / (_groups(reader.how, channels) * pixels) * _square(reader.of_outputs)
        return tf.fill([channels], _noise(values) * pixels * share)
    top = tf.reduce_max(tf.abs(values), others)
    need = tf.square(top) / _convolution_step(scheme, reader, size, channels)
    return tf.where(tf.reduce_any(values < 0), need, need / NO_SIGN)


def _norm_step(scheme: Scheme, norm: NormPass, top: Any, axis: int) -> Any:
    """Squares of the largest steps, in units of normalised values; numerics of AC-GC, section 4."""
    assert scheme.error is not None, "asked for bounds alone"
    gradient = _float(norm.of_outputs)
    others, channels = _others(gradient, axis), int(gradient.shape[axis])
    pixels = tf.cast(tf.size(gradient), tf.float32) / channels
    target = scheme.error * _square(norm.of_inputs) * pixels / channels
    gain = tf.square(_float(norm.gamma) * _float(norm.inverse))
    of_gamma = tf.square(_float(norm.of_gamma))
    if scheme.stochastic:
        below = gain * (of_gamma + tf.reduce_sum(tf.square(gradient), others))
        return tf.minimum(4 * target / norm.sources / tf.maximum(below, 1e-30), COARSEST)
    nonzero = tf.reduce_sum(tf.cast(gradient != 0, tf.float32), others)
    worst = tf.square(nonzero) * tf.reduce_max(tf.square(gradient), others) * tf.square(top / 2)
    return tf.clip_by_value(target / tf.maximum(gain * (of_gamma + worst), 1e-30), FINEST, COARSEST)


def _convolution_step(scheme: Scheme, reader: ConvolutionPass, size: Any, channels: int) -> Any:
    """The square of the largest step of what a convolution reads."""
    assert scheme.error is not None, "asked for bounds alone"
    how, taps = reader.how, reader.how.size**2
    above, below = scheme.error * _square(reader.of_kernel), taps * _square(reader.of_outputs)
    if scheme.stochastic:
        return 4 * above / tf.maximum(channels / _groups(how, channels) * below, 1e-30)
    return above / tf.maximum(2 * size * below / how.stride**2, 1e-30)


def _norm_cost(norm: NormPass, reader: ConvolutionPass | None, values: Any, gamma: Any, axis: int) -> Any:
    gradient = _float(norm.of_outputs)
    others, channels = _others(gradient, axis), int(gradient.shape[axis])
    cost = tf.reduce_sum(tf.square(gradient), others)
    if reader is not None:
        taps, groups = reader.how.size**2, _groups(reader.how, channels)
        cost += tf.square(gamma) * (taps / groups) * _square(reader.of_outputs)
    return _noise(values) * cost


def _noise(values: Any) -> Any:
    """Variance of a value's rounding, times (2^b - 1)^2."""
    return tf.square(tf.reduce_max(values) - tf.reduce_min(values)) / 6


def _groups(how: Convolution, channels: int) -> int:
    return channels if how.depthwise else how.groups


def _others(values: Any, axis: int) -> list[int]:
    return [place for place in range(values.shape.rank) if place != axis % values.shape.rank]


def _float(values: Any) -> Any:
    return tf.cast(values, tf.float32)


def _square(values: Any) -> Any:
    return tf.reduce_sum(tf.square(_float(values)))
