"""One LSTM layer over consecutive time steps, recorded, and its gradients written out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tf_models.recurrence import project
from tf_models.tensorflow_names import tf


@dataclass(frozen=True)
class LayerRecord:
    """What the gradients of one run are made of; all (T, N, ...) in the order of time, but for the first state.

    Args:
        values: what was read (T, N, I).
        gates: write, forget, new, read, after their activations (T, N, 4H).
        cells, outputs: c and h after each step.
        hidden, cell: before the first step.
        weights: of the layer.
    """

    values: Any
    gates: Any
    cells: Any
    outputs: Any
    hidden: Any
    cell: Any
    weights: Sequence[Any]


def run_recording(values: Any, hidden: Any, cell: Any, weights: Sequence[Any], turned: bool, zero: Any) -> LayerRecord:
    """Run a layer; `zero` is an int32 0 that says from when on."""
    gates, cells, outputs = record_steps(project(values, weights), hidden, cell, weights[1], turned, zero)
    return LayerRecord(values, gates, cells, outputs, hidden, cell, weights)


def record_steps(
    projected: Any, hidden: Any, cell: Any, recurrent: Any, turned: bool, zero: Any
) -> tuple[Any, Any, Any]:
    """Gates after their activations (T, N, 4H), cells and hidden states (T, N, H).

    Args:
        projected: what the gates get of the layer's input, (T, N, 4H).
        hidden, cell: before the first step.
        recurrent: the kernel (H, 4H).
        turned: read from the end.
        zero: see `run_recording`.
    """
    steps = int(projected.shape[0])
    reads = array_of(projected)
    arrays = [empty(steps, like, zero) for like in (projected[0], cell, hidden)]

    def step(index: Any, hidden: Any, cell: Any, *arrays: Any) -> tuple[Any, ...]:
        place = steps - 1 - index if turned else index
        write, forget, new, read = tf.split(reads.read(place) + tf.matmul(hidden, recurrent), 4, 1)
        write, forget, new, read = tf.sigmoid(write), tf.sigmoid(forget), tf.tanh(new), tf.sigmoid(read)
        cell = forget * cell + write * new
        hidden = read * tf.tanh(cell)
        made = (tf.concat([write, forget, new, read], 1), cell, hidden)
        return index + 1, hidden, cell, *(one.write(place, value) for one, value in zip(arrays, made, strict=True))

    _, _, _, *arrays = loop(steps, step, hidden, cell, *arrays)
    gates, cells, outputs = (one.stack() for one in arrays)
    return gates, cells, outputs


def layer_gradients(
    record: LayerRecord, of_outputs: Any, of_hidden: Any, of_cell: Any, turned: bool, zero: Any
) -> tuple[Any, list[Any], list[Any]]:
    """Gradients of what a layer read, of its first state, and of its weights.

    Args:
        record: of its run.
        of_outputs: gradients of its hidden states (T, N, H).
        of_hidden, of_cell: of its last state.
        turned: whether it read from the end.
        zero: see `run_recording`.
    """
    into, recurrent, *_ = record.weights
    steps = int(record.values.shape[0])
    before_h, before_c = (
        shifted(all_steps, first, turned)
        for all_steps, first in ((record.outputs, record.hidden), (record.cells, record.cell))
    )
    sources = [array_of(one) for one in (record.gates, record.cells, before_c, of_outputs)]
    made = empty(steps, record.gates[0], zero)

    def step(index: Any, of_hidden: Any, of_cell: Any, made: Any) -> tuple[Any, ...]:
        place = index if turned else steps - 1 - index
        gates, cell, previous, of_output = (one.read(place) for one in sources)
        write, forget, new, read = tf.split(gates, 4, 1)
        bent, of_hidden = tf.tanh(cell), of_hidden + of_output
        of_cell = of_cell + of_hidden * read * (1 - tf.square(bent))
        of_gates = tf.concat(
            [
                of_cell * new * write * (1 - write),
                of_cell * previous * forget * (1 - forget),
                of_cell * write * (1 - tf.square(new)),
                of_hidden * bent * read * (1 - read),
            ],
            1,
        )
        of_hidden = tf.matmul(of_gates, recurrent, transpose_b=True)
        return index + 1, of_hidden, of_cell * forget, made.write(place, of_gates)

    _, of_hidden, of_cell, made = loop(steps, step, of_hidden, of_cell, made)
    of_gates = made.stack()
    flat = tf.reshape(of_gates, (-1, of_gates.shape[-1]))
    kernels = [product(record.values, flat), product(before_h, flat)]
    of_bias = tf.reduce_sum(flat, 0)
    of_values = tf.tensordot(of_gates, into, [[2], [1]])
    return of_values, [of_hidden, of_cell], [*kernels, of_bias, of_bias]


def product(values: Any, of_gates: Any) -> Any:
    """The gradient of a kernel: (T, N, I) and (T * N, 4H) -> (I, 4H)."""
    return tf.matmul(tf.reshape(values, (-1, values.shape[-1])), of_gates, transpose_a=True)


def shifted(values: Any, first: Any, turned: bool) -> Any:
    """What stood before each step."""
    if turned:
        return tf.concat([values[1:], first[None]], 0)
    return tf.concat([first[None], values[:-1]], 0)


def array_of(values: Any) -> Any:
    """All steps (T, ...), to be read one by one."""
    return tf.TensorArray(values.dtype, int(values.shape[0]), element_shape=values.shape[1:]).unstack(values)


def empty(steps: int, like: Any, zero: Any) -> Any:
    """An array to write to. XLA would make room for it at the start of the program if it did not wait for `zero`."""
    room = tf.tile(tf.expand_dims(tf.zeros_like(like), 0), [steps, *[1] * like.shape.rank])
    return array_of(tf.ensure_shape(room + tf.cast(zero, like.dtype), (steps, *like.shape)))


def loop(steps: int, step: Any, *start: Any) -> Any:
    """`step(index, ...)` so many times, one after the other."""
    return tf.while_loop(
        lambda index, *_: index < steps,
        step,
        (tf.constant(0), *start),
        maximum_iterations=steps,
        parallel_iterations=1,
    )
