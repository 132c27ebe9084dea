"""Chains of norm, activation and convolution that keep codes of what each step read, and exact masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tf_models.norms import Statistics
from tf_models.operators import bias_gradient, channel_axis, convolution_gradients
from tf_models.saving.bounds import ConvolutionPass, input_needs, norm_needs
from tf_models.saving.coded import ActivationMask, CodedValues, Coder, let_through
from tf_models.saving.coded_norm import CodedNorm
from tf_models.saving.pool_codes import PoolPositions
from tf_models.saving.steps import Step
from tf_models.saving.tied import opaque, opaque_tensors, zero_after
from tf_models.tensorflow_names import tf

Kept = CodedNorm | CodedValues | Any  # what a step read


@dataclass
class CodedRecord:
    """What the forward pass of one chain keeps, filled step by step.

    Args:
        steps: of the chain.
        coder: makes the codes.
        keeps_input: what the first step reads is kept as it is, such as images, which are not to be trained.
    """

    steps: Sequence[Step]
    coder: Coder
    keeps_input: bool

    def __post_init__(self) -> None:
        self.kept: list[Kept] = []
        self.pool: PoolPositions | None = None
        self.end: ActivationMask | None = None

    def keep(self, place: int, read: Any, outputs: Any, statistics: Statistics | None) -> None:
        """Keep what a step read, before its convolution or pool runs.

        Args:
            place: of the step.
            read: its input.
            outputs: of its norm and activation.
            statistics: of its norm.
        """
        step = self.steps[place]
        if step.norm is not None and statistics is not None:
            kept = CodedNorm.of(read, outputs, step.activation, statistics, step.norm, self.coder)
            self.kept.append(kept)
        elif place == 0 and self.keeps_input:
            self.kept.append(read)
        else:
            assert step.convolution is not None, "a step without a norm has a convolution"
            self.kept.append(self.coder.code_input(read, channel_axis(step.convolution.data_format)))

    def keep_pool(self, read: Any, outputs: Any, data_format: str) -> None:
        """Keep where a max pool found its maxima."""
        self.pool = PoolPositions.of(read, outputs, data_format)

    def close(self, output: Any, activation: str) -> Any:
        """Keep the mask of the last activation; the output, which waits for all codes in a graph."""
        self.end = ActivationMask.of(output, activation)
        made = [one for kept in self.kept if isinstance(kept, CodedNorm | CodedValues) for one in kept.tensors()]
        made += [one.codes for one in (self.pool, self.end) if one is not None]
        with tf.control_dependencies(made):
            return tf.identity(output)


class CodedBackward:
    """The backward pass of one chain.

    Args:
        record: of its forward pass.
        scales, weights: tensors of each step.
        adds: whether a shortcut was added.
    """

    def __init__(self, record: CodedRecord, scales: list[Any], weights: list[Any], adds: bool) -> None:
        self.record, self.steps, self.scales, self.weights, self.adds = record, record.steps, scales, weights, adds

    def __call__(self, gradient: Any, *_: Any) -> list[Any]:
        """The output's gradient -> those of all tensors, in the order they came."""
        end = self.record.end
        if end is not None:
            pieces = end.pieces(opaque(end.codes, zero_after(gradient)))
            gradient = let_through(gradient, pieces)
        of_shortcut = [gradient] if self.adds else []
        parameters: list[list[Any]] = [[] for _ in self.steps]
        for place in reversed(range(len(self.steps))):
            later = parameters[place + 1][-1:] if place + 1 < len(self.steps) else []
            gradient, parameters[place] = self._step(place, gradient, zero_after(gradient, *later))
        gradient = opaque(gradient, zero_after(gradient, *(part[-1] for part in parameters[:1] if part)))
        return [gradient, *of_shortcut, *(one for part in parameters for one in part)]

    def _step(self, place: int, gradient: Any, zero: Any) -> tuple[Any, list[Any]]:
        step, kept = self.steps[place], self.record.kept[place]
        if not isinstance(kept, CodedNorm):
            return self._without_norm(place, kept, gradient, zero)
        norm, (gamma, beta) = kept.opened(zero), self.scales[place]
        of_weights: list[Any] = []
        reader = None
        if step.convolution is not None:
            of_outputs = gradient
            gradient, of_weights = self._convolution(place, norm.outputs(gamma, beta), gradient)
            reader = ConvolutionPass(step.convolution, of_outputs, of_weights[0])
        elif self.record.pool is not None and step.pools:
            gradient = self.record.pool.gradient(gradient, zero)
        of_activated = gradient
        gradient, *of_scale = norm.gradients(gradient, gamma)
        own, learnt = kept.coded.place, self.record.coder.learnt
        if own is not None and learnt is not None:
            went = norm.went_back(of_activated, gradient, of_scale[0], gamma, learnt.norms)
            places = [(own, int(gamma.shape[0]))]
            learnt.learn(places, lambda: norm_needs(learnt.scheme, went(), reader))
        return gradient, [*of_scale, *of_weights]

    def _without_norm(self, place: int, kept: Kept, gradient: Any, zero: Any) -> tuple[Any, list[Any]]:
        """A convolution without a norm before it."""
        read = self._read(kept, gradient.dtype, zero)
        of_read, of_weights = self._convolution(place, read, gradient)
        learnt, how = self.record.coder.learnt, self.steps[place].convolution
        if learnt is not None and how is not None and isinstance(kept, CodedValues) and kept.place is not None:
            reader = ConvolutionPass(how, gradient, of_weights[0])
            places = [(kept.place, int(read.shape[channel_axis(how.data_format)]))]
            learnt.learn(places, lambda: input_needs(learnt.scheme, read, reader))
        return of_read, of_weights

    @staticmethod
    def _read(kept: Kept, dtype: Any, zero: Any) -> Any:
        """What a convolution without a norm before it read."""
        if isinstance(kept, CodedValues):
            return tf.cast(kept.values(opaque_tensors(kept.tensors(), zero)), dtype)
        return opaque(kept, zero)

    def _convolution(self, place: int, read: Any, gradient: Any) -> tuple[Any, list[Any]]:
        """Gradients of what a step's convolution read, and of its weights."""
        how, weights = self.steps[place].convolution, self.weights[place]
        assert how is not None, "a step without a norm has a convolution"
        of_bias = [bias_gradient(gradient, how)] if len(weights) > 1 else []
        gradient, of_kernel = convolution_gradients(read, weights[0], gradient, how)
        return gradient, [of_kernel, *of_bias]
