"""An LSTM layer that keeps the local factors of its steps and its hidden states in few bits, chunk by chunk.

A step with gates i, f, g, o and cell c passes on dc = dh A + dc' f', and gives its gates' sums dc (I, F, G) and dh O,
where I = g i (1 - i), F = c_before f (1 - f), G = i (1 - g^2), O = tanh(c) o (1 - o), A = o (1 - tanh^2 c). Each factor
enters once, so that coded ones give gradients without bias; coded gates would not. Nothing is run again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tf_models.recurrence import WEIGHTS_A_LAYER, StackedSettings, drop_chunk, drops_before, project
from tf_models.saving.coded import CodedValues, Coder
from tf_models.saving.lstm_steps import array_of, empty, loop, product, record_steps, shifted
from tf_models.saving.tied import opaque, opaque_tensors, with_gradient, zero_after
from tf_models.tensorflow_names import tf

LOCAL = 5  # factors of a step that are stacked
# Forget gates multiply one another from step to step: at 2 bits their noise would grow like a power of the steps.
FEWEST_BITS_OF_FORGET_GATES = 8


@dataclass(frozen=True)
class ChunkCodes:
    """What is kept of one chunk of time steps.

    Args:
        local: I, F, G, O and A, (5, T, N, H).
        forget: f, (T, N, H).
        hidden: h before the first step read, and after each, in the order of time or, of a turned layer, with the
            former at the end (T + 1, N, H).
    """

    local: CodedValues
    forget: CodedValues
    hidden: CodedValues

    def tensors(self) -> list[Any]:
        """All of it."""
        return [*self.local.tensors(), *self.forget.tensors(), *self.hidden.tensors()]


Reads = Callable[[int, Any], Any]  # (number of a chunk, zero) -> what a layer read there, once `zero` is known


class CodedStack:
    """Layers of one direction, as `tf_models.recurrence.run_plain`: the same outputs to the bit; kept are codes.

    What the first layer reads is kept as it is, if it is not what other layers have codes of.

    Args:
        coder: of these layers.
        below: those whose outputs, side by side, the first layer reads.
    """

    def __init__(self, coder: Coder, below: Sequence[CodedStack] = ()) -> None:
        self.coder, self.below = coder, below
        self.last: CodedLayer | None = None

    def __call__(
        self, values: Any, state: Sequence[Any], weights: Sequence[Any], seed: Any, how: StackedSettings
    ) -> tuple[Any, list[Any]]:
        """See `run_plain`."""
        ends: list[Any] = []
        reads = self._reads_below if self.below else None
        for layer in range(how.layers):
            own = weights[WEIGHTS_A_LAYER * layer : WEIGHTS_A_LAYER * (layer + 1)]
            self.last = CodedLayer(how, layer, seed, self.coder, reads)
            values, *end = with_gradient(self.last.forward, [values, *state[2 * layer : 2 * layer + 2]], own)
            reads, ends = self.last.outputs_again, [*ends, *end]
        return values, ends

    def outputs_again(self, chunk: int, zero: Any) -> Any:
        """Of the last layer, see `CodedLayer`."""
        assert self.last is not None, "asked for by layers that read what these gave"
        return self.last.outputs_again(chunk, zero)

    def _reads_below(self, chunk: int, zero: Any) -> Any:
        return tf.concat([one.outputs_again(chunk, zero) for one in self.below], 2)


class CodedLayer:
    """One call of one layer.

    Args:
        how: the layers around it.
        layer: which of them.
        seed: of dropout, or None.
        coder: makes the codes.
        reads: what the layer reads, from codes; None = its input is kept as it is.
    """

    def __init__(self, how: StackedSettings, layer: int, seed: Any, coder: Coder, reads: Reads | None) -> None:
        self.how, self.layer, self.seed, self.coder, self.reads = how, layer, seed, coder, reads
        self.kept: dict[int, ChunkCodes] = {}
        self.order = list(enumerate(how.chunks()))
        if how.turned:
            self.order.reverse()

    def forward(self, values: Any, hidden: Any, cell: Any, *weights: Any) -> tuple[list[Any], Any]:
        """Hidden states of all steps, the last h and c; and the backward pass."""
        reads = self.reads
        if reads is None:
            chunks = dict(enumerate(self.how.chunks()))

            def reads(chunk: int, zero: Any, whole: Any = values) -> Any:
                first, length = chunks[chunk]
                return opaque(whole[first : first + length], zero)

        if drops_before(self.how, self.layer, self.seed):
            parts = [values[first : first + length] for first, length in self.how.chunks()]
            values = tf.concat([self._drop(part, chunk) for chunk, part in enumerate(parts)], 0)
        projected, outputs = project(values, weights), {}
        for chunk, (first, length) in self.order:
            part = projected[first : first + length]
            zero = zero_after(hidden)
            gates, cells, outputs[first] = record_steps(part, hidden, cell, weights[1], self.how.turned, zero)
            self.kept[chunk] = self._coded(gates, cells, outputs[first], hidden, cell)
            last = 0 if self.how.turned else length - 1
            with tf.control_dependencies(self.kept[chunk].tensors()):  # or a graph would keep floats for later
                hidden, cell = tf.identity(outputs[first][last]), tf.identity(cells[last])
        whole = tf.concat([outputs[first] for first in sorted(outputs)], 0)
        kernels = weights[:2]
        with tf.control_dependencies([hidden]):
            return [tf.identity(whole), hidden, cell], lambda *given: self._backward(kernels, reads, *given)

    def outputs_again(self, chunk: int, zero: Any) -> Any:
        """Hidden states after each step of a chunk, from codes."""
        coded = self.kept[chunk].hidden
        values = coded.values(opaque_tensors(coded.tensors(), zero))
        return values[:-1] if self.how.turned else values[1:]

    def _coded(self, gates: Any, cells: Any, outputs: Any, hidden: Any, cell: Any) -> ChunkCodes:
        write, forget, new, read = tf.split(gates, 4, 2)
        bent, before = tf.tanh(cells), shifted(cells, cell, self.how.turned)
        local = [
            new * write * (1 - write),
            before * forget * (1 - forget),
            write * (1 - tf.square(new)),
            bent * read * (1 - read),
            read * (1 - tf.square(bent)),
        ]
        states = [outputs, hidden[None]] if self.how.turned else [hidden[None], outputs]
        code = self.coder.code_sequence
        return ChunkCodes(
            code(tf.stack(local), 0), code(forget, None, FEWEST_BITS_OF_FORGET_GATES), code(tf.concat(states, 0), None)
        )

    def _drop(self, values: Any, chunk: int) -> Any:
        """Dropout before the layer; it is linear, and the same for values and for gradients."""
        if not drops_before(self.how, self.layer, self.seed):
            return values
        return drop_chunk(values, self.how.drop_rate, self.seed, self.how.first_layer + self.layer, chunk)

    def _backward(
        self, kernels: Sequence[Any], reads: Reads, of_outputs: Any, of_hidden: Any, of_cell: Any
    ) -> list[Any]:
        """From gradients of what `forward` gave, those of all that it read."""
        dtype, (into, recurrent) = of_outputs.dtype, kernels
        of_weights = [tf.zeros_like(one) for one in kernels]
        of_bias, of_values = tf.zeros_like(into[0]), {}
        for chunk, (first, length) in reversed(self.order):
            zero = zero_after(of_hidden, of_bias)
            with tf.control_dependencies([zero]):
                wanted = of_outputs[first : first + length]
            of_gates, of_hidden, of_cell = self._steps(chunk, wanted, of_hidden, of_cell, recurrent, zero)
            flat = tf.reshape(of_gates, (-1, of_gates.shape[-1]))
            read = self._drop(tf.cast(reads(chunk, zero), dtype), chunk)
            made = [product(read, flat), product(self._hidden_before(chunk, zero, dtype), flat)]
            of_weights = [a + b for a, b in zip(of_weights, made, strict=True)]
            of_bias = of_bias + tf.reduce_sum(flat, 0)
            of_values[first] = self._drop(tf.tensordot(of_gates, into, [[2], [1]]), chunk)
        whole = tf.concat([of_values[first] for first in sorted(of_values)], 0)
        return [whole, of_hidden, of_cell, *of_weights, of_bias, of_bias]

    def _hidden_before(self, chunk: int, zero: Any, dtype: Any) -> Any:
        coded = self.kept[chunk].hidden
        values = tf.cast(coded.values(opaque_tensors(coded.tensors(), zero)), dtype)
        return values[1:] if self.how.turned else values[:-1]

    def _steps(
        self, chunk: int, wanted: Any, of_hidden: Any, of_cell: Any, recurrent: Any, zero: Any
    ) -> tuple[Any, Any, Any]:
        """Back through a chunk: gradients of the gates' sums (T, N, 4H), and of h and c before it."""
        dtype, kept, steps = of_hidden.dtype, self.kept[chunk], int(wanted.shape[0])
        local = tf.cast(kept.local.values(opaque_tensors(kept.local.tensors(), zero)), dtype)
        forget = tf.cast(kept.forget.values(opaque_tensors(kept.forget.tensors(), zero)), dtype)
        sources = [array_of(one) for one in (*(local[place] for place in range(LOCAL)), forget, wanted)]
        made = empty(steps, tf.tile(of_cell, [1, 4]), zero)

        def step(index: Any, of_hidden: Any, of_cell: Any, made: Any) -> tuple[Any, ...]:
            place = index if self.how.turned else steps - 1 - index
            write, before, new, read, leave, forgets, of_output = (one.read(place) for one in sources)
            of_hidden = of_hidden + of_output
            of_cell = of_cell + of_hidden * leave
            of_gates = tf.concat([of_cell * write, of_cell * before, of_cell * new, of_hidden * read], 1)
            below = tf.matmul(of_gates, recurrent, transpose_b=True)
            return index + 1, below, of_cell * forgets, made.write(place, of_gates)

        _, of_hidden, of_cell, made = loop(steps, step, of_hidden, of_cell, made)
        return made.stack(), of_hidden, of_cell
