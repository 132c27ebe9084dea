"""Chains of norm, activation and convolution that keep one tensor a convolution, or less, for the backward pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tf_models.norms import (
    Statistics,
    flat_statistics,
    norm_gradients,
    normalise,
    rebuild,
    unflatten_statistics,
)
from tf_models.operators import (
    Convolution,
    activate,
    activation_gradient,
    bias_gradient,
    convolution_gradients,
    convolve,
    max_pool,
    max_pool_gradient,
)
from tf_models.saving.coded import Coder
from tf_models.saving.coded_chain import CodedBackward, CodedRecord
from tf_models.saving.steps import Step, StepValues
from tf_models.saving.tied import opaque, tied, with_gradient, zero_after


def chain(
    inputs: Any,
    steps: Sequence[Step],
    values: Sequence[StepValues],
    shortcut: Any = None,
    activation: str = "",
    coder: Coder | None = None,
    keeps_input: bool = False,
) -> tuple[Any, list[Statistics]]:
    """Run steps one after the other; kept are their inputs alone, but for outputs that are computed again.

    Exact: rebuilt from a step's input and its statistics is what the forward pass had. With a coder the outputs are
    the same to the bit, and gradients are unbiased: nothing is computed again, and inputs are kept as codes.

    Args:
        inputs: images.
        steps, values: what to run.
        shortcut: is added to the last step's output; None = nothing.
        activation: after that.
        coder: codes what is kept; None = nothing is coded.
        keeps_input: the chain's own input is never coded, such as a network's.

    Returns:
        The output, and the statistics of each norm, whose running ones are to be moved once.
    """
    record = None if coder is None else CodedRecord(steps, coder, keeps_input)
    run = _Chain(steps, [one.running for one in values], activation, shortcut is not None, record)
    sources = [inputs, *(() if shortcut is None else (shortcut,))]
    parameters = [tensor for one in values for tensor in (*one.scale, *one.weights)]
    run.sizes = [(len(one.scale), len(one.weights)) for one in values]
    output, *flat = with_gradient(run.forward, sources, parameters)
    return output, unflatten_statistics(flat)


class _Chain:
    """One call of `chain`."""

    def __init__(
        self,
        steps: Sequence[Step],
        running: Sequence[tuple[Any, Any] | None],
        activation: str,
        adds: bool,
        record: CodedRecord | None,
    ) -> None:
        self.steps, self.running, self.activation, self.adds, self.record = steps, running, activation, adds, record
        self.sizes: list[tuple[int, int]] = []

    def forward(self, *given: Any) -> tuple[list[Any], Any]:
        """All tensors flat -> the output and the statistics flat, and the backward pass."""
        inputs, shortcut = given[0], given[1] if self.adds else None
        scales, weights = self._split(given[2 if self.adds else 1 :])
        values, kept, found = inputs, [inputs], []
        for place, step in enumerate(self.steps):
            read, statistics = values, None
            if step.norm is not None:
                gamma, beta = scales[place]
                values, statistics = normalise(values, gamma, beta, self.running[place], step.norm)
                values = activate(values, step.activation)
                found.append(statistics)
            if self.record is not None:
                self.record.keep(place, read, values, statistics)
            values = self._after(values, step, weights[place])
            if self.record is None:
                kept.append(None if step.recomputes else values)
        output = activate(values if shortcut is None else values + shortcut, self.activation)
        if self.record is not None:
            output = self.record.close(output, self.activation)
            return [output, *flat_statistics(found)], CodedBackward(self.record, scales, weights, self.adds)
        if self.adds:  # XLA would keep what was added up instead of the sum
            output = opaque(output, zero_after(output))
        backward = _Backward(self, scales, weights, kept, found, output)
        return [output, *flat_statistics(found)], backward

    def _after(self, values: Any, step: Step, weights: tuple[Any, ...]) -> Any:
        """What follows a step's activation."""
        if step.convolution is not None:
            return _convolve(values, weights, step.convolution)
        if not step.pools or step.norm is None:
            return values
        outputs = max_pool(values, step.norm.data_format)
        if self.record is not None:
            self.record.keep_pool(values, outputs, step.norm.data_format)
        return outputs

    def _split(self, flat: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        scales, weights, place = [], [], 0
        for scale, weight in self.sizes:
            scales.append(tuple(flat[place : place + scale]))
            weights.append(tuple(flat[place + scale : place + scale + weight]))
            place += scale + weight
        return scales, weights


class _Backward:
    """The backward pass of one call."""

    def __init__(
        self, run: _Chain, scales: list[Any], weights: list[Any], kept: list[Any], found: list[Statistics], output: Any
    ) -> None:
        self.run, self.steps, self.scales, self.weights = run, run.steps, scales, weights
        # What has no activation is not needed, and an eager tape would keep it.
        self.output = output if run.activation or run.steps[-1].pools else None
        self.inputs = kept[:-1]  # of each step
        places = [place for place, step in enumerate(run.steps) if step.norm is not None]
        self.statistics = dict(zip(places, found, strict=True))

    def __call__(self, gradient: Any, *_: Any) -> list[Any]:
        """The output's gradient -> those of all tensors, in the order they came."""
        gradient = activation_gradient(gradient, self.output, self.run.activation)
        of_shortcut = [gradient] if self.run.adds else []
        activated: dict[int, Any] = {}
        parameters: list[list[Any]] = [[] for _ in self.steps]
        for place in reversed(range(len(self.steps))):
            # A step waits for the weights' gradients of the one after it too: else what they are made of is kept.
            later = parameters[place + 1][-1:] if place + 1 < len(self.steps) else []
            gradient, parameters[place] = self._step(place, gradient, zero_after(gradient, *later), activated)
        gradient = opaque(gradient, zero_after(gradient, *(part[-1] for part in parameters[:1] if part)))
        return [gradient, *of_shortcut, *(one for part in parameters for one in part)]

    def _step(self, place: int, gradient: Any, zero: Any, activated: dict[int, Any]) -> tuple[Any, list[Any]]:
        step = self.steps[place]
        values = self._input(place, zero, activated)
        before = activated.pop(place) if place in activated else self._activate(place, values, zero)
        of_weights: list[Any] = []
        if step.convolution is not None:
            how, weights = step.convolution, self.weights[place]
            of_weights = [bias_gradient(gradient, how)] if len(weights) > 1 else []
            gradient, of_kernel = convolution_gradients(before, weights[0], gradient, how)
            of_weights.insert(0, of_kernel)
        elif step.pools:
            gradient = max_pool_gradient(before, self.output, gradient, step.norm.data_format)  # type: ignore[union-attr]
        if step.norm is None:
            return gradient, of_weights
        gradient = activation_gradient(gradient, before, step.activation)
        gradient, *of_scale = norm_gradients(gradient, values, self.scales[place][0], self.statistics[place], step.norm)
        return gradient, [*of_scale, *of_weights]

    def _input(self, place: int, zero: Any, activated: dict[int, Any]) -> Any:
        """A step's input, kept or computed again; what was rebuilt for that is left in `activated`."""
        if self.inputs[place] is not None:
            return self.inputs[place]
        before = place - 1
        step, values = self.steps[before], self._input(before, zero, activated)
        activated[before] = self._activate(before, values, zero)
        weights = self.weights[before]
        if step.norm is None:
            weights = (tied(weights[0], zero), *weights[1:])
        assert step.convolution is not None, "only a convolution's output is computed again"
        return _convolve(activated[before], weights, step.convolution)

    def _activate(self, place: int, values: Any, zero: Any) -> Any:
        """What a step's convolution reads."""
        step = self.steps[place]
        if step.norm is None:
            return opaque(values, zero)  # else XLA keeps a copy of it in another layout
        gamma, beta = self.scales[place]
        return activate(rebuild(values, tied(gamma, zero), beta, self.statistics[place], step.norm), step.activation)


def _convolve(values: Any, weights: tuple[Any, ...], how: Convolution) -> Any:
    return convolve(values, weights[0], weights[1] if len(weights) > 1 else None, how)
