"""LSTMs that keep their states between chunks of time steps alone, and run each chunk again in the backward pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tf_models.recurrence import StackedSettings, run_chunk
from tf_models.saving.tied import tied, with_gradient, zero_after
from tf_models.tensorflow_names import tf


def run_recomputed(
    values: Any, state: Sequence[Any], weights: Sequence[Any], seed: Any, how: StackedSettings
) -> tuple[Any, list[Any]]:
    """As `tf_models.recurrence.run_plain`: same numbers; kept are the input, and a state a chunk."""
    run = _OverTime(how, seed, len(state))
    outputs, *ends = with_gradient(run.forward, [values, *state, *weights])
    return outputs, ends


class _OverTime:
    """One call."""

    def __init__(self, how: StackedSettings, seed: Any, states: int) -> None:
        self.how, self.seed, self.states = how, seed, states
        self.order = list(enumerate(how.chunks()))
        if how.turned:
            self.order.reverse()

    def forward(self, values: Any, *rest: Any) -> tuple[list[Any], Any]:
        """The hidden states of all steps and the last state, and the backward pass."""
        state, weights = list(rest[: self.states]), rest[self.states :]
        kept, outputs = [], {}
        for chunk, (first, length) in self.order:
            kept.append(state)
            outputs[first], state = run_chunk(
                values[first : first + length], state, weights, self.seed, chunk, self.how
            )
        whole = tf.concat([outputs[first] for first in sorted(outputs)], 0)

        def backward(of_outputs: Any, *of_state: Any) -> list[Any]:
            return self._backward(values, kept, weights, of_outputs, list(of_state))

        return [whole, *state], backward

    def _backward(
        self, values: Any, kept: list[list[Any]], weights: Sequence[Any], of_outputs: Any, of_state: list[Any]
    ) -> list[Any]:
        of_values: dict[int, Any] = {}
        of_weights = [tf.zeros_like(one) for one in weights]
        for state, (chunk, (first, length)) in zip(reversed(kept), reversed(self.order), strict=True):
            zero = zero_after(*of_state[:1], *of_weights)
            with tf.control_dependencies([zero]):
                part, wanted = values[first : first + length], of_outputs[first : first + length]
            # What is read waits for the gradient, so that nothing is taken for what the forward pass computed.
            sources = [tied(part, zero), *(tied(one, zero) for one in state), *weights]
            with tf.GradientTape() as tape:
                tape.watch(sources)
                outputs, ends = run_chunk(
                    sources[0], sources[1 : self.states + 1], sources[self.states + 1 :], self.seed, chunk, self.how
                )
            made = tape.gradient([outputs, *ends], sources, output_gradients=[wanted, *of_state])
            of_values[first], of_state = made[0], made[1 : self.states + 1]
            of_weights = [a + b for a, b in zip(of_weights, made[self.states + 1 :], strict=True)]
        return [tf.concat([of_values[first] for first in sorted(of_values)], 0), *of_state, *of_weights]
