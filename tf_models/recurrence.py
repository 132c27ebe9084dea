"""Stacked LSTMs over a chunk of time steps, as a pure function of tensors that runs in every mode."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tf_models.tensorflow_names import tf
from zoo.planner import RecurrentPlan, plan_recurrence

# What TensorFlow keeps a time step, layer and unit: gates before and after their activations, cells, hidden states.
KEPT_VALUES = 16
WEIGHTS_A_LAYER = 4  # input and hidden kernels, and a bias of each


@dataclass(frozen=True)
class StackedSettings:
    """How stacked LSTMs of one direction run.

    Args:
        layers: how many.
        drop_rate: dropout before each layer but the network's first; 0 where nothing is trained.
        first_layer: the network's number of the first of these layers.
        turned: the sequence is read from its end.
        plan: the chunks that the sequence is cut into; masks of dropout belong to a chunk.
    """

    layers: int
    drop_rate: float
    first_layer: int
    turned: bool
    plan: RecurrentPlan

    def chunks(self) -> list[tuple[int, int]]:
        """First step and length of every chunk, in the order of time."""
        steps, length = self.plan.steps, self.plan.chunk_steps
        return [(first, min(length, steps - first)) for first in range(0, steps, length)]


def lstm_plan(steps: int, samples: int, hidden_size: int, layers: int, itemsize: int) -> RecurrentPlan:
    """Chunks of near twice the square root of the steps, each of which is run once more.

    Example:
        >>> plan = lstm_plan(784, samples=8, hidden_size=100, layers=1, itemsize=4)
        >>> plan.chunk_steps, plan.chunks
        (56, 14)
    """
    row_bytes = samples * hidden_size * layers * itemsize
    shortest = min(steps, 2 * math.isqrt(steps))
    return plan_recurrence(steps, 2 * row_bytes, KEPT_VALUES * row_bytes, shortest_chunk=shortest)


def run_chunk(
    values: Any, state: Sequence[Any], weights: Sequence[Any], seed: Any, chunk: int, how: StackedSettings
) -> tuple[Any, list[Any]]:
    """One chunk: values (T, N, I) -> the last layer's hidden states (T, N, H), and the new state.

    Args:
        values: of consecutive time steps.
        state: h and c of the first layer, of the second, ..., each (N, H).
        weights: of the first layer (I, 4H), (H, 4H), (4H,), (4H,), of the second, ...; gates i, f, g, o.
        seed: of dropout, int32 (2,), or None.
        chunk: its number, in the order of time.
        how: see there.
    """
    ends: list[Any] = []
    for layer in range(how.layers):
        if drops_before(how, layer, seed):
            values = drop_chunk(values, how.drop_rate, seed, how.first_layer + layer, chunk)
        own = weights[WEIGHTS_A_LAYER * layer : WEIGHTS_A_LAYER * (layer + 1)]
        values, *end = _run_layer(values, state[2 * layer], state[2 * layer + 1], own, how.turned)
        ends += end
    return values, ends


def drops_before(how: StackedSettings, layer: int, seed: Any) -> bool:
    """Whether dropout comes before a layer: not before the network's first."""
    return bool(how.drop_rate and seed is not None and how.first_layer + layer)


def drop_chunk(values: Any, rate: float, seed: Any, layer: int, chunk: int) -> Any:
    """Dropout whose mask is a function of (seed, layer, chunk)."""
    own = tf.random.experimental.stateless_fold_in(tf.cast(seed, tf.int32), 100_000 * layer + chunk)
    return tf.nn.experimental.stateless_dropout(values, rate, own)


def project(values: Any, weights: Sequence[Any]) -> Any:
    """What a layer's gates get of its input, biases included: (T, N, I) -> (T, N, 4H)."""
    into, _, input_bias, hidden_bias = weights
    return tf.tensordot(values, into, 1) + (input_bias + hidden_bias)


def _run_layer(values: Any, hidden: Any, cell: Any, weights: Sequence[Any], turned: bool) -> tuple[Any, Any, Any]:
    projected, recurrent = project(values, weights), weights[1]
    steps = int(values.shape[0])
    reads = tf.TensorArray(projected.dtype, steps, element_shape=projected.shape[1:]).unstack(projected)
    writes = tf.TensorArray(hidden.dtype, steps, element_shape=hidden.shape)

    def step(index: Any, hidden: Any, cell: Any, outputs: Any) -> tuple[Any, ...]:
        place = steps - 1 - index if turned else index
        gates = reads.read(place) + tf.matmul(hidden, recurrent)
        write, forget, new, read = tf.split(gates, 4, 1)
        cell = tf.sigmoid(forget) * cell + tf.sigmoid(write) * tf.tanh(new)
        hidden = tf.sigmoid(read) * tf.tanh(cell)
        return index + 1, hidden, cell, outputs.write(place, hidden)

    start = (tf.constant(0), hidden, cell, writes)
    _, hidden, cell, outputs = tf.while_loop(
        lambda index, *_: index < steps, step, start, maximum_iterations=steps, parallel_iterations=1
    )
    return tf.ensure_shape(outputs.stack(), (steps, *hidden.shape)), hidden, cell


def run_plain(values: Any, state: Sequence[Any], weights: Sequence[Any], seed: Any, how: StackedSettings) -> Any:
    """The whole sequence, layer by layer; TensorFlow keeps every step. Returns as `run_chunk`."""
    ends: list[Any] = []
    for layer in range(how.layers):
        if drops_before(how, layer, seed):
            number = how.first_layer + layer
            parts = [
                drop_chunk(values[first : first + length], how.drop_rate, seed, number, chunk)
                for chunk, (first, length) in enumerate(how.chunks())
            ]
            values = tf.concat(parts, 0)
        own = weights[WEIGHTS_A_LAYER * layer : WEIGHTS_A_LAYER * (layer + 1)]
        values, *end = _run_layer(values, state[2 * layer], state[2 * layer + 1], own, how.turned)
        ends += end
    return values, ends
