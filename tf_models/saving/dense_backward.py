"""The backward pass of a dense block: from the last layer to the first, gradients added up in one place."""

from __future__ import annotations

from typing import Any

from tf_models.norms import Statistics, norm_gradients, rebuild
from tf_models.operators import convolution_gradients, convolve
from tf_models.saving.dense_layers import DenseCall, DenseLayer, channels
from tf_models.saving.tied import added_now, tied, zero_after
from tf_models.tensorflow_names import tf


class DenseBackward:
    """Walks the layers of one call.

    Args:
        call: its facts.
        units: parameters by layer and convolution.
    """

    def __init__(self, call: DenseCall, units: list[Any]) -> None:
        self.call, self.units = call, units

    def __call__(self, gradient: Any, *_: Any) -> list[Any]:
        """The features' gradient -> those of the input and of all parameters."""
        self.start(zero_after(gradient))
        parameters: list[list[Any]] = []
        axis, start = self.call.axis, int(gradient.shape[self.call.axis])
        for place in reversed(range(len(self.call.layers))):
            new = int(self.units[place][-1][2].shape[-1])
            start -= new
            of_new, rest = channels(gradient, start, new, axis), channels(gradient, 0, start, axis)
            of_features, of_parameters = self.layer(place, start, self.call.drop(of_new, place))
            gradient = added_now(rest, of_features)
            parameters.insert(0, of_parameters)
        return [gradient, *(one for part in parameters for one in part)]

    def start(self, zero: Any) -> None:
        """Before the first layer; `zero` is known once the gradient is."""
        raise NotImplementedError

    def layer(self, place: int, width: int, gradient: Any) -> tuple[Any, list[Any]]:
        """One layer: the gradient of its output -> of the features it read, and of its parameters."""
        raise NotImplementedError


class ExactDense(DenseBackward):
    """With the features as they were.

    Args:
        call, units: see `DenseBackward`.
        features: of all layers.
        kept: of each layer, its norms' statistics, and the bottleneck's output or None.
    """

    def __init__(self, call: DenseCall, units: list[Any], features: Any, kept: list[Any]) -> None:
        super().__init__(call, units)
        self.features, self.kept = features, kept

    def start(self, zero: Any) -> None:
        """Slices of the features could be taken for what the forward pass had concatenated, and XLA would keep that:

        they are slices of a sum that only the gradient completes.
        """
        self.features = tied(self.features, zero)

    def layer(self, place: int, width: int, gradient: Any) -> tuple[Any, list[Any]]:
        """See `DenseBackward`."""
        layer, record, zero = self.call.layers[place], self.kept[place], zero_after(gradient)
        with tf.control_dependencies([zero]):  # or a graph would make all slices at once
            features = channels(self.features, 0, width, self.call.axis)
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
