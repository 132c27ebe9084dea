"""The layers that hold the zoo's weights: convolution, norm, linear; their calls are the plain, native way."""

from __future__ import annotations

import math
from typing import Any

from tf_models.norms import Norm, Statistics, normalise
from tf_models.operators import Convolution, convolve
from tf_models.saving.dense_layers import DenseLayerValues
from tf_models.saving.steps import StepValues
from tf_models.tensorflow_names import keras, tf


class ConvolutionLayer(keras.layers.Layer):
    """A convolution's weights.

    Args:
        into, out: channels.
        how: size, stride, groups, padding.
        deviation: of its fresh weights.
        bias: whether it has one.
    """

    def __init__(self, into: int, out: int, how: Convolution, deviation: float, *, bias: bool, **given: Any) -> None:
        super().__init__(**given)
        self.how, self.out = how, out
        shape = (how.size, how.size, into if how.depthwise else into // how.groups, 1 if how.depthwise else out)
        normal = keras.initializers.RandomNormal(stddev=deviation)
        self.kernel = self.add_weight(shape=shape, initializer=normal, name="kernel")
        self.bias = self.add_weight(shape=(out,), initializer="zeros", name="bias") if bias else None
        self.built = True

    def weights_as_tensors(self) -> tuple[Any, ...]:
        """Kernel and, if there is one, bias."""
        return tuple(tf.convert_to_tensor(one) for one in (self.kernel, self.bias) if one is not None)

    def call(self, inputs: Any, in_order: bool = False) -> Any:
        """Images -> images; `in_order` as in `convolve`."""
        kernel, *bias = self.weights_as_tensors()
        return convolve(inputs, kernel, bias[0] if bias else None, self.how, in_order)


class NormLayer(keras.layers.Layer):
    """A batch norm's weights and running statistics.

    Args:
        channels: C.
        epsilon: added to the variance.
        momentum: share of a new batch in the running statistics.
        unbiased: whether running variances are the unbiased ones (PyTorch's) or the biased ones (Keras's).
        data_format: "channels_last" or "channels_first".
    """

    def __init__(
        self, channels: int, epsilon: float, momentum: float, unbiased: bool, data_format: str, **given: Any
    ) -> None:
        super().__init__(**given)
        self.epsilon, self.momentum, self.unbiased, self.data_format = epsilon, momentum, unbiased, data_format
        kind = "float64" if self.variable_dtype == "float64" else "float32"
        own = {"shape": (channels,), "dtype": kind, "autocast": False}
        self.gamma = self.add_weight(initializer="ones", name="gamma", **own)
        self.beta = self.add_weight(initializer="zeros", name="beta", **own)
        still = {**own, "trainable": False, "aggregation": "mean"}
        self.moving_mean = self.add_weight(initializer="zeros", name="moving_mean", **still)
        self.moving_variance = self.add_weight(initializer="ones", name="moving_variance", **still)
        self.built = True

    def how(self, training: bool | None) -> Norm:
        """A frozen norm uses its running statistics while the rest trains, as Keras's does."""
        return Norm(self.epsilon, bool(training) and self.trainable, self.data_format)

    def scale(self) -> tuple[Any, Any]:
        """Gamma and beta."""
        return tf.convert_to_tensor(self.gamma), tf.convert_to_tensor(self.beta)

    def running(self, how: Norm) -> tuple[Any, Any] | None:
        """Mean and variance, where they are used."""
        if how.trains:
            return None
        return tf.convert_to_tensor(self.moving_mean), tf.convert_to_tensor(self.moving_variance)

    def move(self, statistics: Statistics) -> None:
        """Move the running statistics towards a batch's, once."""
        variance = statistics.unbiased if self.unbiased else statistics.variance
        for running, found in ((self.moving_mean, statistics.mean), (self.moving_variance, variance)):
            found = tf.stop_gradient(found)
            running.assign(running + (found - running) * self.momentum)

    def call(self, inputs: Any, training: bool | None = None, moves: bool = True) -> Any:
        """Images -> images; running statistics move if `moves`."""
        how = self.how(training)
        values, statistics = normalise(inputs, *self.scale(), self.running(how), how)
        if how.trains and moves:
            self.move(statistics)
        return values


class LinearLayer(keras.layers.Layer):
    """(N, C) -> (N, outputs), with a bias.

    Args:
        into, out: sizes.
        deviation: of normally distributed fresh weights; None = uniform, as PyTorch's.
    """

    def __init__(self, into: int, out: int, deviation: float | None = None, **given: Any) -> None:
        super().__init__(**given)
        bound = 1 / math.sqrt(into)
        fresh = keras.initializers.RandomUniform(-bound, bound)
        if deviation is not None:
            fresh = keras.initializers.RandomNormal(stddev=deviation)
        self.kernel = self.add_weight(shape=(into, out), initializer=fresh, name="kernel")
        self.bias = self.add_weight(shape=(out,), initializer="zeros", name="bias")
        self.built = True

    def call(self, inputs: Any) -> Any:
        """(..., C) -> (..., outputs)."""
        return tf.matmul(inputs, tf.convert_to_tensor(self.kernel)) + tf.convert_to_tensor(self.bias)


def step_values(norm: NormLayer | None, how: Norm | None, convolution: ConvolutionLayer | None) -> StepValues:
    """The tensors of a step of a chain, from the layers that hold them."""
    scale = () if norm is None else norm.scale()
    running = None if norm is None or how is None else norm.running(how)
    return StepValues(scale, running, () if convolution is None else convolution.weights_as_tensors())


def dense_layer_values(
    norms: list[NormLayer], hows: tuple[Norm, ...], convolutions: list[ConvolutionLayer], seed: Any
) -> DenseLayerValues:
    """The tensors of a layer of a dense block, from the layers that hold them."""
    return DenseLayerValues(
        tuple(norm.scale() for norm in norms),
        tuple(norm.running(how) for norm, how in zip(norms, hows, strict=True)),
        tuple(convolution.weights_as_tensors()[0] for convolution in convolutions),
        seed,
    )
