"""A norm and its activation kept in few bits: the normalised input as codes, the activation's mask exactly.

Statistics stay in float32. What is rebuilt is linear in what was coded, so that gradients of weights are unbiased; the
gradient that goes on down has a relative bias of the rounding's variance over the values of a channel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tf_models.norms import Norm, Statistics, is_fused, values_a_channel, wide
from tf_models.operators import channel_axis, pixel_axes
from tf_models.saving.bounds import NormPass
from tf_models.saving.coded import ActivationMask, CodedValues, Coder, activated, let_through
from tf_models.saving.tied import opaque_tensors
from tf_models.tensorflow_names import tf


@dataclass(frozen=True)
class CodedNorm:
    """What is kept of one norm and its activation.

    Args:
        coded: the normalised input.
        mask: of the activation; None = there is none.
        inverse: 1 / sqrt(variance + epsilon), (C,).
        how: see there.
        dtype: of the images.
    """

    coded: CodedValues
    mask: ActivationMask | None
    inverse: Any
    how: Norm
    dtype: Any

    @classmethod
    def of(
        cls, inputs: Any, outputs: Any, activation: str, statistics: Statistics, how: Norm, coder: Coder
    ) -> CodedNorm:
        """From a norm's input and what its activation gave."""
        mean, inverse = statistics.mean, inverse_deviation(statistics, how)
        coded = coder.code_norm(normalised(inputs, mean, inverse, how), channel_axis(how.data_format))
        return cls(coded, ActivationMask.of(outputs, activation), inverse, how, inputs.dtype)

    def tensors(self) -> list[Any]:
        """What is kept, but for the channels' vectors."""
        return [*self.coded.tensors(), *([] if self.mask is None else [self.mask.codes])]

    def opened(self, zero: Any) -> OpenNorm:
        """Decoded once `zero` is known."""
        kept = opaque_tensors(self.tensors(), zero)
        pieces = None if self.mask is None else self.mask.pieces(kept.pop())
        activation = "" if self.mask is None else self.mask.activation
        return OpenNorm(self.coded.values(kept), pieces, activation, self.inverse, self.how, self.dtype)


@dataclass(frozen=True)
class OpenNorm:
    """A norm and its activation, decoded.

    Args:
        values: the normalised input, float32.
        pieces: of the activation; None = there is none.
        activation: which.
        inverse, how, dtype: as in `CodedNorm`.
    """

    values: Any
    pieces: Any
    activation: str
    inverse: Any
    how: Norm
    dtype: Any

    def outputs(self, gamma: Any, beta: Any) -> Any:
        """What the activation gave, from decoded values."""
        kind = self.values.dtype
        made = self.values * wide(tf.cast(gamma, kind), self.how) + wide(tf.cast(beta, kind), self.how)
        return tf.cast(activated(made, self.pieces, self.activation), self.dtype)

    def gradients(self, gradient: Any, gamma: Any) -> tuple[Any, Any, Any]:
        """From the gradient of what the activation gave: that of the norm's input, of gamma and of beta."""
        how, kind = self.how, gamma.dtype
        values, axes = tf.cast(self.values, kind), pixel_axes(how.data_format)
        gradient = let_through(tf.cast(gradient, kind), self.pieces)
        of_gamma, of_beta = tf.reduce_sum(gradient * values, axes), tf.reduce_sum(gradient, axes)
        if how.trains:
            count = tf.cast(values_a_channel(values, how), kind)
            gradient = gradient - (values * wide(of_gamma / count, how) + wide(of_beta / count, how))
        scaled = gradient * wide(gamma * tf.cast(self.inverse, kind), how)
        return tf.cast(scaled, self.dtype), of_gamma, of_beta

    def went_back(
        self, of_activated: Any, of_inputs: Any, of_gamma: Any, gamma: Any, norms: int
    ) -> Callable[[], NormPass]:
        """What bits are learnt from, made only when it is asked for.

        Args:
            of_activated: the gradient that `gradients` was given.
            of_inputs, of_gamma: what it made.
            gamma: see there.
            norms: of the network.
        """

        def made() -> NormPass:
            of_outputs = let_through(of_activated, self.pieces)
            return NormPass(self.how, self.values, of_outputs, of_inputs, of_gamma, gamma, self.inverse, norms)

        return made


def inverse_deviation(statistics: Statistics, how: Norm) -> Any:
    """1 / sqrt(variance + epsilon) of every channel."""
    return tf.math.rsqrt(statistics.variance + how.epsilon)


def normalised(inputs: Any, mean: Any, inverse: Any, how: Norm) -> Any:
    """(x - mean) * inverse, in float32 at least."""
    kind = tf.float32 if is_fused(inputs.dtype) else inputs.dtype
    return (tf.cast(inputs, kind) - wide(tf.cast(mean, kind), how)) * wide(tf.cast(inverse, kind), how)
