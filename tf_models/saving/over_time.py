"""LSTMs that keep their states between chunks of time steps alone, and run each chunk again in the backward pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tf_models.recurrence import WEIGHTS_A_LAYER, StackedSettings, drop_chunk, drops_before, run_chunk
from tf_models.saving.lstm_steps import LayerRecord, layer_gradients, run_recording
from tf_models.saving.tied import tied, with_gradient, zero_after
from tf_models.tensorflow_names import tf


def run_recomputed(
    values: Any, state: Sequence[Any], weights: Sequence[Any], seed: Any, how: StackedSettings
) -> tuple[Any, list[Any]]:
    """As `tf_models.recurrence.run_plain`: same numbers; kept are the input, and a state a chunk."""
    run = _OverTime(how, seed, len(state))
    outputs, *ends = with_gradient(run.forward, [values, *state], weights)
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
            part = values[first : first + length]
            outputs[first], state = run_chunk(part, state, weights, self.seed, chunk, self.how)
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
            # The next chunk waits for this one's weights too: else what they are made of would be kept until the end.
            zero = zero_after(*of_state[:1], *of_weights)
            with tf.control_dependencies([zero]):
                part, wanted = tied(values[first : first + length], zero), of_outputs[first : first + length]
            again = [tied(one, zero) for one in state]
            of_values[first], of_state, made = self._chunk(part, again, weights, chunk, wanted, of_state, zero)
            of_weights = [a + b for a, b in zip(of_weights, made, strict=True)]
        return [tf.concat([of_values[first] for first in sorted(of_values)], 0), *of_state, *of_weights]

    def _chunk(
        self,
        values: Any,
        state: list[Any],
        weights: Sequence[Any],
        chunk: int,
        of_values: Any,
        of_state: list[Any],
        zero: Any,
    ) -> tuple[Any, list[Any], list[Any]]:
        """Run a chunk again and walk it backward: gradients of its input, its first state and the weights."""
        records: list[LayerRecord] = []
        for layer in range(self.how.layers):
            values = self._drop(values, layer, chunk)
            own = weights[WEIGHTS_A_LAYER * layer : WEIGHTS_A_LAYER * (layer + 1)]
            records.append(run_recording(values, state[2 * layer], state[2 * layer + 1], own, self.how.turned, zero))
            values = records[-1].outputs
        starts: list[Any] = []
        of_weights: list[Any] = []
        for layer in reversed(range(self.how.layers)):
            of_hidden, of_cell = of_state[2 * layer : 2 * layer + 2]
            of_values, of_start, made = layer_gradients(
                records.pop(), of_values, of_hidden, of_cell, self.how.turned, zero
            )
            of_values = self._drop(of_values, layer, chunk)
            starts, of_weights = [*of_start, *starts], [*made, *of_weights]
        return of_values, starts, of_weights

    def _drop(self, values: Any, layer: int, chunk: int) -> Any:
        """Dropout before a layer; it is linear, and the same for values and for gradients."""
        if not drops_before(self.how, layer, self.seed):
            return values
        return drop_chunk(values, self.how.drop_rate, self.seed, self.how.first_layer + layer, chunk)
