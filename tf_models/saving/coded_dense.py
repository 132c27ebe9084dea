"""A dense block that keeps every feature once, normalised and in few bits, and an exact mask a layer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tf_models.norms import Norm, Statistics, wide
from tf_models.operators import convolution_gradients
from tf_models.saving.bounds import ConvolutionPass, norm_needs
from tf_models.saving.coded import ActivationMask, CodedValues, Coder
from tf_models.saving.coded_norm import CodedNorm, OpenNorm, inverse_deviation, normalised
from tf_models.saving.dense_backward import DenseBackward
from tf_models.saving.dense_layers import DenseCall, channels
from tf_models.saving.tied import opaque, opaque_tensors, zero_after
from tf_models.tensorflow_names import tf


@dataclass(frozen=True)
class _LayerCodes:
    """Of one layer: its first norm's mask and statistics."""

    mask: ActivationMask
    mean: Any
    inverse: Any
    dtype: Any


@dataclass
class DenseCodes:
    """What the forward pass of one block keeps, filled layer by layer.

    Args:
        call: the block's facts.
        coder: makes the codes.

    Attributes:
        pieces: the codes of the input's features, then of each layer's but the last one's, which no layer reads.
        means, inverses: of all channels, as they were coded.
        layers, bottlenecks: by layer.
    """

    call: DenseCall
    coder: Coder
    pieces: list[CodedValues] = field(default_factory=list)
    means: list[Any] = field(default_factory=list)
    inverses: list[Any] = field(default_factory=list)
    layers: list[_LayerCodes] = field(default_factory=list)
    bottlenecks: list[CodedNorm] = field(default_factory=list)

    def keep_features(self, new: Any, outputs: Any, statistics: Statistics, place: int) -> None:
        """Code the features that came last, and a layer's mask.

        Args:
            new: those features.
            outputs: of the layer's first norm and ReLU.
            statistics: of that norm, over all features.
            place: of the layer.
        """
        how = self.call.layers[place].norms[0]
        mean, inverse = statistics.mean, inverse_deviation(statistics, how)
        count = int(new.shape[self.call.axis])
        self.means.append(mean[-count:])
        self.inverses.append(inverse[-count:])
        values = normalised(new, mean[-count:], inverse[-count:], how)
        self.pieces.append(self.coder.code_norm(values, self.call.axis))
        mask = ActivationMask.of(outputs, "relu")
        assert mask is not None, "a ReLU has a mask"
        self.layers.append(_LayerCodes(mask, mean, inverse, new.dtype))

    def keep_bottleneck(self, values: Any, outputs: Any, statistics: Statistics, place: int) -> None:
        """Code what a layer's 1x1 convolution gave.

        Args:
            values: that.
            outputs: of the norm and ReLU after it.
            statistics: of that norm.
            place: of the layer.
        """
        how = self.call.layers[place].norms[1]
        self.bottlenecks.append(CodedNorm.of(values, outputs, "relu", statistics, how, self.coder))

    def after(self, new: Any) -> Any:
        """New features, which in a graph wait for the layer's codes: else many layers' floats would wait for them."""
        made = [*self.pieces[-1].tensors(), self.layers[-1].mask.codes]
        made += self.bottlenecks[-1].tensors() if self.bottlenecks else []
        with tf.control_dependencies(made):
            return tf.identity(new)


class CodedDense(DenseBackward):
    """The backward pass of one block; its features are decoded once, for all layers.

    Args:
        codes: of its forward pass.
        units: parameters by layer and convolution.
    """

    def __init__(self, codes: DenseCodes, units: list[Any]) -> None:
        super().__init__(codes.call, units)
        self.codes = codes
        self.features: Any = None

    def start(self, zero: Any) -> None:
        """Decode the features."""
        pieces = [one.values(opaque_tensors(one.tensors(), zero)) for one in self.codes.pieces]
        self.features = tf.concat(pieces, self.call.axis)

    def layer(self, place: int, width: int, gradient: Any) -> tuple[Any, list[Any]]:
        """See `DenseBackward`."""
        zero = zero_after(gradient)
        of_second: list[Any] = []
        if self.codes.bottlenecks:
            kept = self.codes.bottlenecks[place]
            gradient, of_second = self._unit(kept.opened(zero), place, 1, gradient, [kept.coded])
        read = self.codes.pieces[: place + 1]
        gradient, of_first = self._unit(self._features(place, width, zero), place, 0, gradient, read)
        return gradient, [*of_first, *of_second]

    def _unit(
        self, norm: OpenNorm, place: int, unit: int, gradient: Any, read: list[CodedValues]
    ) -> tuple[Any, list[Any]]:
        """Backward through convolution, ReLU and norm, which read tensors that lie side by side."""
        gamma, beta, kernel = self.units[place][unit]
        how = self.call.layers[place].convolutions[unit]
        of_activated, of_kernel = convolution_gradients(norm.outputs(gamma, beta), kernel, gradient, how)
        reader = ConvolutionPass(how, gradient, of_kernel)
        gradient, *of_scale = norm.gradients(of_activated, gamma)
        learnt = self.codes.coder.learnt
        if learnt is not None:
            went = norm.went_back(of_activated, gradient, of_scale[0], gamma, learnt.norms)
            places = [(one.place, int(one.sizes.static[self.call.axis])) for one in read if one.place is not None]
            learnt.learn(places, lambda: norm_needs(learnt.scheme, went(), reader))
        return gradient, [*of_scale, of_kernel]

    def _features(self, place: int, width: int, zero: Any) -> OpenNorm:
        """What a layer read, normalised as its own norm does."""
        kept, how = self.codes.layers[place], self.call.layers[place].norms[0]
        with tf.control_dependencies([zero]):  # or a graph would make all slices at once
            values = channels(self.features, 0, width, self.call.axis)
        if not all(layer.norms[0].trains for layer in self.call.layers):
            values = self._renormalised(values, kept, how, place)
        pieces = kept.mask.pieces(opaque(kept.mask.codes, zero))
        return OpenNorm(values, pieces, "relu", kept.inverse, how, kept.dtype)

    def _renormalised(self, values: Any, kept: _LayerCodes, how: Norm, place: int) -> Any:
        """Frozen norms of the same channel have statistics of their own: from those it was coded with to those."""
        mean = tf.concat(self.codes.means[: place + 1], 0)
        scale = kept.inverse / tf.concat(self.codes.inverses[: place + 1], 0)
        shift = (mean - kept.mean) * kept.inverse
        return values * wide(tf.cast(scale, values.dtype), how) + wide(tf.cast(shift, values.dtype), how)
