"""Batch normalisation as pure functions of tensors: forward, rebuilt from kept statistics, and backward.

For float16, bfloat16 and float32 these are TensorFlow's fused operators; float64, which those do not know, is composed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tf_models.operators import SHORT_FORMAT, channel_axis, pixel_axes
from tf_models.tensorflow_names import tf


@dataclass(frozen=True)
class Norm:
    """How a norm runs.

    Args:
        epsilon: added to the variance.
        trains: True = statistics of the batch; False = the running ones.
        data_format: "channels_last" or "channels_first".
    """

    epsilon: float
    trains: bool
    data_format: str = "channels_last"


@dataclass(frozen=True)
class Statistics:
    """What a norm normalised with, all of shape (C,).

    Args:
        mean: of the batch, or running.
        variance: the biased one, by which values were divided.
        unbiased: of the batch, what running variances move to.
        reserve: what the fused backward wants; its meaning depends on the device.
    """

    mean: Any
    variance: Any
    unbiased: Any
    reserve: tuple[Any, ...] = ()


def is_fused(dtype: Any) -> bool:
    """Whether TensorFlow's fused operators know a dtype."""
    return dtype in (tf.float16, tf.bfloat16, tf.float32)


def normalise(inputs: Any, gamma: Any, beta: Any, running: tuple[Any, Any] | None, how: Norm) -> tuple[Any, Statistics]:
    """gamma * (x - mean) / sqrt(variance + epsilon) + beta, and the statistics.

    Args:
        inputs: four axes.
        gamma, beta: (C,), float32 where the inputs have 16 bits.
        running: mean and variance, where `how.trains` is False.
        how: see there.
    """
    if not how.trains:
        assert running is not None, "a norm that does not train needs its running statistics"
        statistics = Statistics(*running, running[1], running)
        return rebuild(inputs, gamma, beta, statistics, how), statistics
    if not is_fused(inputs.dtype):
        mean, variance = _moments(inputs, how)
        statistics = Statistics(mean, variance, variance * _bessel(inputs, how))
        return rebuild(inputs, gamma, beta, statistics, how), statistics
    made = tf.raw_ops.FusedBatchNormV3(
        x=inputs,
        scale=gamma,
        offset=beta,
        mean=tf.zeros([0], gamma.dtype),
        variance=tf.zeros([0], gamma.dtype),
        epsilon=how.epsilon,
        is_training=True,
        data_format=SHORT_FORMAT(how.data_format),
    )
    biased = made.batch_variance / tf.cast(_bessel(inputs, how), gamma.dtype)
    reserve = (made.reserve_space_1, made.reserve_space_2, made.reserve_space_3)
    return made.y, Statistics(made.batch_mean, biased, made.batch_variance, reserve)


def statistics_of(inputs: Any, how: Norm) -> Statistics:
    """The batch's statistics alone."""
    kind = tf.float32 if is_fused(inputs.dtype) else inputs.dtype
    channels = inputs.shape[channel_axis(how.data_format)]
    return normalise(inputs, tf.ones([channels], kind), tf.zeros([channels], kind), None, how)[1]


def join(parts: list[Statistics]) -> Statistics:
    """The statistics of channels that are put beside one another."""
    if len(parts) == 1:
        return parts[0]
    mean, variance, unbiased = (
        tf.concat([getattr(part, name) for part in parts], 0) for name in ("mean", "variance", "unbiased")
    )
    # The third reserve belongs to cuDNN's fused activation, which is not used: it is empty.
    reserves = [tf.concat([part.reserve[place] for part in parts], 0) for place in range(min(2, len(parts[0].reserve)))]
    return Statistics(mean, variance, unbiased, (*reserves, *parts[0].reserve[2:]))


def flat_statistics(found: list[Statistics]) -> list[Any]:
    """What running statistics move to, as a list of tensors."""
    return [part for one in found for part in (one.mean, one.variance, one.unbiased)]


def unflatten_statistics(flat: list[Any]) -> list[Statistics]:
    """The inverse."""
    return [Statistics(*flat[place : place + 3]) for place in range(0, len(flat), 3)]


def rebuild(inputs: Any, gamma: Any, beta: Any, statistics: Statistics, how: Norm) -> Any:
    """What `normalise` gave, from its input and its statistics."""
    if is_fused(inputs.dtype):
        return tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=gamma,
            offset=beta,
            mean=statistics.mean,
            variance=statistics.variance,
            epsilon=how.epsilon,
            is_training=False,
            data_format=SHORT_FORMAT(how.data_format),
        ).y
    scale = gamma * tf.math.rsqrt(statistics.variance + how.epsilon)
    return (inputs - wide(statistics.mean, how)) * wide(scale, how) + wide(beta, how)


def norm_gradients(gradient: Any, inputs: Any, gamma: Any, statistics: Statistics, how: Norm) -> tuple[Any, Any, Any]:
    """Gradients of a norm's input, gamma and beta."""
    if is_fused(inputs.dtype):
        reserve = statistics.reserve if how.trains else (statistics.mean, statistics.variance)
        third = reserve[2] if len(reserve) > 2 else tf.zeros([0], gamma.dtype)
        made = tf.raw_ops.FusedBatchNormGradV3(
            y_backprop=gradient,
            x=inputs,
            scale=gamma,
            reserve_space_1=reserve[0],
            reserve_space_2=reserve[1],
            reserve_space_3=third,
            epsilon=how.epsilon,
            is_training=how.trains,
            data_format=SHORT_FORMAT(how.data_format),
        )
        return made.x_backprop, made.scale_backprop, made.offset_backprop
    axes, inverse = pixel_axes(how.data_format), tf.math.rsqrt(statistics.variance + how.epsilon)
    normalised = (inputs - wide(statistics.mean, how)) * wide(inverse, how)
    of_gamma, of_beta = tf.reduce_sum(gradient * normalised, axes), tf.reduce_sum(gradient, axes)
    if how.trains:
        count = tf.cast(values_a_channel(inputs, how), inputs.dtype)
        gradient = gradient - wide(of_beta / count, how) - normalised * wide(of_gamma / count, how)
    return gradient * wide(gamma * inverse, how), of_gamma, of_beta


def _moments(inputs: Any, how: Norm) -> tuple[Any, Any]:
    axes = pixel_axes(how.data_format)
    mean = tf.reduce_mean(inputs, axes)
    return mean, tf.reduce_mean(tf.square(inputs - wide(mean, how)), axes)


def wide(values: Any, how: Norm) -> Any:
    """(C,) -> a shape that fits beside images."""
    return values if how.data_format == "channels_last" else values[:, None, None]


def values_a_channel(inputs: Any, how: Norm) -> Any:
    """Values a channel."""
    return tf.size(inputs) // inputs.shape[channel_axis(how.data_format)]


def _bessel(inputs: Any, how: Norm) -> Any:
    """M / (M - 1) for M values a channel; 1 for one value."""
    count = tf.cast(values_a_channel(inputs, how), tf.float64)
    ratio = count / tf.maximum(count - 1, 1)
    return tf.cast(ratio, tf.float32 if is_fused(inputs.dtype) else inputs.dtype)
