"""What a dense block is given: how its layers run, and their tensors; and how features are cut into slices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tf_models.norms import Norm
from tf_models.operators import Convolution
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

    def parameters(self) -> list[Any]:
        """The tensors that have gradients: gamma, beta, kernel, for each convolution."""
        return [tensor for scale, kernel in zip(self.scales, self.kernels, strict=True) for tensor in (*scale, kernel)]


@dataclass(frozen=True)
class DenseCall:
    """The facts of one call of a dense block, all but its input and parameters.

    Args:
        layers, values: what to run.
        axis: of channels.
    """

    layers: Sequence[DenseLayer]
    values: Sequence[DenseLayerValues]
    axis: int

    def units(self, flat: Sequence[Any]) -> list[list[tuple[Any, Any, Any]]]:
        """(gamma, beta, kernel) of each convolution of each layer, from all layers' `parameters`."""
        units, place = [], 0
        for layer in self.layers:
            count = len(layer.norms)
            units.append([tuple(flat[place + 3 * unit : place + 3 * unit + 3]) for unit in range(count)])
            place += 3 * count
        return units

    def drop(self, values: Any, place: int) -> Any:
        """Dropout of a layer; it is linear, and the same for values and for gradients."""
        seed, rate = self.values[place].seed, self.layers[place].drop_rate
        if seed is None or not rate:
            return values
        return tf.nn.experimental.stateless_dropout(values, rate, seed)


def channels(values: Any, start: int, count: int, axis: int) -> Any:
    """Channels start..start+count-1, a copy."""
    if axis == 3:
        return values[..., start : start + count]
    return values[:, start : start + count]
