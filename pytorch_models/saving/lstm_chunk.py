"""One chunk of time steps of stacked LSTMs as a function of its tensors, by the framework's fused LSTM.

What `pytorch_models.saving.recurrence` walks. Weights come in torch.nn.LSTM's order (w_ih, w_hh, b_ih, b_hh a layer).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pytorch_models.saving.recurrence import Tensors
from pytorch_models.saving.time_dropout import drop_steps
from zoo.planner import RecurrentPlan, plan_recurrence

# What a fused LSTM keeps a time step, layer and unit: gates, cells, hidden states and workspace (measured: oneDNN
# 16.4 in float32).
KEPT_VALUES = 16
# Each call of a fused LSTM packs its weights anew; from so many steps on that is little beside the steps.
SHORT_CHUNK = 128


@dataclass(frozen=True)
class LSTMChunk:
    """Stacked LSTMs of one direction; called with (chunk,), (h, c), weights and, with dropout, the seed at their end.

    Args:
        layers: how many.
        bias: whether weights come in fours (with biases) or in twos.
        drop_rate: dropout before each layer but the network's first; 0 in eval mode.
        training: what the fused LSTM is told; a fused one keeps nothing for a backward otherwise.
        first_layer: the network's number of the first of these layers.
        turned: read the chunk from its last step to its first.
        emits: whether the last layer's hidden states (T, N, H) are an output.
    """

    layers: int
    bias: bool = True
    drop_rate: float = 0.0
    training: bool = True
    first_layer: int = 0
    turned: bool = False
    emits: bool = True

    def __call__(
        self, inputs: Tensors, state: Tensors, parameters: Tensors, first_step: int
    ) -> tuple[Tensors, Tensors]:
        """Chunk (T, N, I), h and c (layers, N, H) -> ((T, N, H),) or (), and the new h and c."""
        values, seed = inputs[0], parameters[-1]
        weights = list(parameters[:-1]) if self.drop_rate else list(parameters)
        if self.drop_rate and self.first_layer:
            values = drop_steps(values, self.drop_rate, seed, self.first_layer - 1, first_step)
        if self.turned:
            values = values.flip(0)
        if not self.drop_rate:
            values, hidden, cell = self.fused(values, state, weights, self.layers)
        else:
            values, hidden, cell = self._layer_by_layer(values, state, weights, seed, first_step)
        if self.turned:
            values = values.flip(0)
        return ((values,) if self.emits else ()), (hidden, cell)

    def _layer_by_layer(
        self, values: Tensor, state: Tensors, weights: list[Tensor], seed: Tensor, first_step: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        each = 4 if self.bias else 2
        ends = []
        for layer in range(self.layers):
            if layer:
                values = drop_steps(values, self.drop_rate, seed, self.first_layer + layer - 1, first_step)
            own = (state[0][layer : layer + 1], state[1][layer : layer + 1])
            values, *end = self.fused(values, own, weights[layer * each : (layer + 1) * each], 1)
            ends.append(end)
        hidden, cell = (torch.cat(parts) for parts in zip(*ends, strict=True))
        return values, hidden, cell

    def fused(self, values: Tensor, state: Tensors, weights: list[Tensor], layers: int) -> tuple[Tensor, ...]:
        """The framework's own: outputs (T, N, H) of the last of so many layers, and the new h and c of all."""
        return torch._VF.lstm(values, state, weights, self.bias, layers, 0.0, self.training, False, False)


def lstm_plan(
    steps: int, samples: int, hidden_size: int, layers: int, itemsize: int, values_beside: int = 0
) -> RecurrentPlan:
    """Chunks of near twice the square root of the steps, and no shorter than is fast; each is run once more.

    `values_beside` is how many values a time step of one sample keeps beside the LSTM's, such as logits.

    Example:
        >>> plan = lstm_plan(4096, samples=8, hidden_size=512, layers=2, itemsize=4)
        >>> plan.chunk_steps, plan.chunks
        (128, 32)
    """
    samples = max(1, samples)  # an empty batch is cut like one sample
    row_bytes = samples * hidden_size * layers * itemsize
    step_bytes = KEPT_VALUES * row_bytes + values_beside * samples * itemsize
    long = min(SHORT_CHUNK, 2 * math.isqrt(steps))
    shortest = max(1, long * KEPT_VALUES * row_bytes // step_bytes)  # shorter where a chunk's inside is mostly scores
    return plan_recurrence(steps, 2 * row_bytes, step_bytes, shortest_chunk=shortest)
