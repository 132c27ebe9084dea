"""A dense block that keeps every feature once: one function with a gradient of its own, walked layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tf_models.norms import (
    Norm,
    Statistics,
    flat_statistics,
    join,
    norm_gradients,
    normalise,
    rebuild,
    statistics_of,
    unflatten_statistics,
)
from tf_models.operators import Convolution, channel_axis, convolution_gradients, convolve
from tf_models.saving.tied import added_now, tied, with_gradient, zero_after
from tf_models.tensorflow_names import tf


@dataclass(frozen=True)
class DenseLayer:
    """How one layer runs: norm, ReLU, convolution, once or (with a bottleneck) twice, then dropout.

    Args:
        norms: one or two.
        convolutions: as many.
        drop_rate: in [0, 1).
    """

    norms: tuple[Norm, ...]
    convolutions: tuple[Convolution, ...]
    drop_rate: float = 0.0


@dataclass(frozen=True)
class DenseLayerValues:
    """The tensors of one layer.

    Args:
        scales: gamma and beta of each norm.
        running: mean and variance of each norm that does not train, None for others.
        kernels: of the convolutions.
        seed: of dropout, int32 (2,); None = no dropout.
    """

    scales: tuple[tuple[Any, Any], ...]
    running: tuple[tuple[Any, Any] | None, ...]
    kernels: tuple[Any, ...]
    seed: Any = None


def dense_block(
    inputs: Any, layers: Sequence[DenseLayer], values: Sequence[DenseLayerValues], *, keeps_bottleneck: bool
) -> tuple[Any, list[Statistics]]:
    """Run a dense block: (..., C) -> (..., C + layers * k); kept is its output, and nothing of what is inside.

    A channel's statistics are the same for every layer that reads it: they are taken once. Gradients are added up in
    one place, from the last layer to the first, so that none waits for another.

    Args:
        inputs: images.
        layers, values: what to run.
        keeps_bottleneck: keep the 1x1 convolutions' outputs instead of computing them again.

    Returns:
        The features of all layers, and the statistics of every norm that trains, in order.
    """
    run = _Block(layers, values, keeps_bottleneck)
    parameters = [tensor for one in values for tensor in run.flat(one)]
    output, *flat = with_gradient(run.forward, [inputs, *parameters])
    return output, unflatten_statistics(flat)


class _Block:
    """One call of `dense_block`."""

    def __init__(
        self, layers: Sequence[DenseLayer], values: Sequence[DenseLayerValues], keeps_bottleneck: bool
    ) -> None:
        self.layers, self.given, self.keeps_bottleneck = layers, values, keeps_bottleneck
        self.axis = channel_axis(layers[0].norms[0].data_format)

    @staticmethod
    def flat(values: DenseLayerValues) -> list[Any]:
        """The tensors of a layer that have gradients: gamma, beta, kernel, for each of its convolutions."""
        return [
            tensor for scale, kernel in zip(values.scales, values.kernels, strict=True) for tensor in (*scale, kernel)
        ]

    def forward(self, inputs: Any, *flat: Any) -> tuple[list[Any], Any]:
        """The features and the statistics flat, and the backward pass."""
        units = _units(self.layers, flat)
        features, of_channels, kept, moved = inputs, [self._statistics(inputs)], [], []
        for place, layer in enumerate(self.layers):
            first = self._first_statistics(place, of_channels)
            values = convolve(
                tf.nn.relu(rebuild(features, *units[place][0][:2], first, layer.norms[0])),
                units[place][0][2],
                None,
                layer.convolutions[0],
            )
            record: list[Any] = [first]
            if len(layer.norms) > 1:
                gamma, beta, kernel = units[place][1]
                running = self.given[place].running[1]
                wide, second = normalise(values, gamma, beta, running, layer.norms[1])
                record += [second, values if self.keeps_bottleneck else None]
                values = convolve(tf.nn.relu(wide), kernel, None, layer.convolutions[1])
            new = self._drop(values, place)
            moved += [one for one in record[:2] if one is not None]
            kept.append(record)
            features = tf.concat([features, new], self.axis)
            of_channels.append(self._statistics(new))
        backward = _BlockBackward(self, units, features, kept)
        return [features, *flat_statistics(moved)], backward

    def _statistics(self, values: Any) -> Statistics | None:
        """Of new channels, if any layer normalises with the batch's."""
        training = [layer.norms[0] for layer in self.layers if layer.norms[0].trains]
        return statistics_of(values, training[0]) if training else None

    def _first_statistics(self, place: int, of_channels: list[Any]) -> Statistics:
        running = self.given[place].running[0]
        return join(of_channels) if running is None else Statistics(*running, running[1])

    def _drop(self, values: Any, place: int) -> Any:
        """Dropout is linear, and the same for values and for gradients."""
        seed, rate = self.given[place].seed, self.layers[place].drop_rate
        if seed is None or not rate:
            return values
        return tf.nn.experimental.stateless_dropout(values, rate, seed)


def _units(layers: Sequence[DenseLayer], flat: Sequence[Any]) -> list[list[tuple[Any, Any, Any]]]:
    """(gamma, beta, kernel) of each convolution of each layer."""
    units, place = [], 0
    for layer in layers:
        count = len(layer.norms)
        units.append([tuple(flat[place + 3 * unit : place + 3 * unit + 3]) for unit in range(count)])
        place += 3 * count
    return units


class _BlockBackward:
    """The backward pass of one call."""

    def __init__(self, run: _Block, units: list[Any], features: Any, kept: list[Any]) -> None:
        self.run, self.units, self.features, self.kept = run, units, features, kept

    def __call__(self, gradient: Any, *_: Any) -> list[Any]:
        """The features' gradient -> those of the input and of all parameters.

        Slices of the features could be taken for what the forward pass had concatenated, and XLA would keep that: they
        are slices of a sum that only the gradient completes.
        """
        self.features = tied(self.features, zero_after(gradient))
        parameters: list[list[Any]] = []
        for place in reversed(range(len(self.run.layers))):
            width = self.features.shape[self.run.axis]
            start = width - sum(self._new_channels(later) for later in range(place, len(self.run.layers)))
            of_new = _channels(gradient, start, self._new_channels(place), self.run.axis)
            rest = _channels(gradient, 0, start, self.run.axis)
            of_features, of_parameters = self._layer(place, start, self.run._drop(of_new, place))
            gradient = added_now(rest, of_features)
            parameters.insert(0, of_parameters)
        return [gradient, *(one for part in parameters for one in part)]

    def _new_channels(self, place: int) -> int:
        return int(self.units[place][-1][2].shape[-1])

    def _layer(self, place: int, width: int, gradient: Any) -> tuple[Any, list[Any]]:
        """One layer: the gradient of its output -> of the features it read, and of its parameters."""
        layer, record, zero = self.run.layers[place], self.kept[place], zero_after(gradient)
        with tf.control_dependencies([zero]):  # or a graph would make all slices at once
            features = _channels(self.features, 0, width, self.run.axis)
        gamma, beta, kernel = self.units[place][0]
        activated = tf.nn.relu(rebuild(features, tied(gamma, zero), beta, record[0], layer.norms[0]))
        of_second: list[Any] = []
        if len(layer.norms) > 1:
            values = record[2] if record[2] is not None else convolve(activated, kernel, None, layer.convolutions[0])
            gradient, of_second = self._unit(values, record[1], layer, place, 1, gradient, zero, None)
        gradient, of_first = self._unit(features, record[0], layer, place, 0, gradient, zero, activated)
        return gradient, [*of_first, *of_second]

    def _unit(
        self,
        values: Any,
        statistics: Statistics,
        layer: DenseLayer,
        place: int,
        unit: int,
        gradient: Any,
        zero: Any,
        activated: Any,
    ) -> tuple[Any, list[Any]]:
        """Backward through norm, ReLU and convolution."""
        gamma, beta, kernel = self.units[place][unit]
        if activated is None:
            activated = tf.nn.relu(rebuild(values, tied(gamma, zero), beta, statistics, layer.norms[unit]))
        gradient, of_kernel = convolution_gradients(activated, kernel, gradient, layer.convolutions[unit])
        gradient = tf.raw_ops.ReluGrad(gradients=gradient, features=activated)
        gradient, of_gamma, of_beta = norm_gradients(gradient, values, gamma, statistics, layer.norms[unit])
        return gradient, [of_gamma, of_beta, of_kernel]


def _channels(values: Any, start: int, count: int, axis: int) -> Any:
    """Channels start..start+count-1, a copy."""
    if axis == 3:
        return values[..., start : start + count]
    return values[:, start : start + count]
