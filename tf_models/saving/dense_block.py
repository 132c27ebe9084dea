"""A dense block that keeps every feature once: one function with a gradient of its own, walked layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tf_models.norms import Statistics, flat_statistics, join, normalise, rebuild, statistics_of, unflatten_statistics
from tf_models.operators import channel_axis, convolve
from tf_models.saving.coded import Coder
from tf_models.saving.coded_dense import CodedDense, DenseCodes
from tf_models.saving.dense_backward import ExactDense
from tf_models.saving.dense_layers import DenseCall, DenseLayer, DenseLayerValues
from tf_models.saving.tied import with_gradient
from tf_models.tensorflow_names import tf


def dense_block(
    inputs: Any,
    layers: Sequence[DenseLayer],
    values: Sequence[DenseLayerValues],
    *,
    keeps_bottleneck: bool = False,
    coder: Coder | None = None,
    joins_statistics: bool = True,
) -> tuple[Any, list[Statistics]]:
    """Run a dense block: (..., C) -> (..., C + layers * k); kept is its output, and nothing of what is inside.

    A channel's statistics are the same for every layer that reads it: they are taken once. Gradients are added up in
    one place, from the last layer to the first, so that none waits for another.

    Args:
        inputs: images.
        layers, values: what to run.
        keeps_bottleneck: keep the 1x1 convolutions' outputs instead of computing them again.
        coder: codes every feature and every 1x1 convolution's output, normalised, once; None = nothing is coded.
        joins_statistics: False = every layer takes all its channels' statistics anew, as the plain model does, so that
            outputs are the same to the bit.

    Returns:
        The features of all layers, and the statistics of every norm that trains, in order.
    """
    call = DenseCall(layers, values, channel_axis(layers[0].norms[0].data_format))
    run = _Block(call, keeps_bottleneck, None if coder is None else DenseCodes(call, coder), joins_statistics)
    parameters = [tensor for one in values for tensor in one.parameters()]
    output, *flat = with_gradient(run.forward, [inputs], parameters)
    return output, unflatten_statistics(flat)


class _Block:
    """One call of `dense_block`."""

    def __init__(self, call: DenseCall, keeps_bottleneck: bool, codes: DenseCodes | None, joins: bool) -> None:
        self.call, self.keeps_bottleneck, self.codes, self.joins = call, keeps_bottleneck, codes, joins

    def forward(self, inputs: Any, *flat: Any) -> tuple[list[Any], Any]:
        """The features and the statistics flat, and the backward pass."""
        units, codes = self.call.units(flat), self.codes
        features, new, of_channels, kept, moved = inputs, inputs, [self._statistics(inputs)], [], []
        for place, layer in enumerate(self.call.layers):
            wide, first = self._first_norm(features, of_channels, units[place][0], place)
            values = tf.nn.relu(wide)
            if codes is not None:
                codes.keep_features(new, values, first, place)
            values = convolve(values, units[place][0][2], None, layer.convolutions[0])
            record: list[Any] = [first]
            if len(layer.norms) > 1:
                gamma, beta, kernel = units[place][1]
                wide, second = normalise(values, gamma, beta, self.call.values[place].running[1], layer.norms[1])
                record += [second, values if self.keeps_bottleneck else None]
                wide = tf.nn.relu(wide)
                if codes is not None:
                    codes.keep_bottleneck(values, wide, second, place)
                values = convolve(wide, kernel, None, layer.convolutions[1])
            new = self.call.drop(values, place)
            if codes is not None:
                new = codes.after(new)
            moved += [one for one in record[:2] if one is not None]
            kept.append(record)
            features = tf.concat([features, new], self.call.axis)
            of_channels.append(self._statistics(new))
        made = [features, *flat_statistics(moved)]
        return made, ExactDense(self.call, units, features, kept) if codes is None else CodedDense(codes, units)

    def _statistics(self, values: Any) -> Statistics | None:
        """Of new channels, if any layer normalises with the batch's."""
        training = [layer.norms[0] for layer in self.call.layers if layer.norms[0].trains]
        return statistics_of(values, training[0]) if self.joins and training else None

    def _first_norm(self, features: Any, of_channels: list[Any], unit: Any, place: int) -> tuple[Any, Statistics]:
        """What a layer's first norm gives, and with which statistics."""
        (gamma, beta, _), how = unit, self.call.layers[place].norms[0]
        running = self.call.values[place].running[0]
        if not self.joins:
            return normalise(features, gamma, beta, running, how)
        statistics = join(of_channels) if running is None else Statistics(*running, running[1])
        return rebuild(features, gamma, beta, statistics, how), statistics
