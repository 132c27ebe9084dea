"""The facts of one call of LSTM layers that keep codes, shared by its forward and its backward pass."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pytorch_models.channels import statistics_dtype
from pytorch_models.saving.coded_steps import CodedSteps, in_time
from pytorch_models.saving.lstm_chunk import LSTMChunk
from pytorch_models.saving.recurrence import Autocast, Tensors
from pytorch_models.saving.sequence_codes import SequenceCodec
from pytorch_models.saving.time_dropout import drop_steps


@dataclass(frozen=True)
class CodedCall:
    """One call, all but the tensors.

    Args:
        layers: the fused LSTM, and where it stands in the network.
        codec, noise_seed: of what is kept.
        chunks: the steps that are coded together, in the order in which they are run.
        run_steps: the fused LSTM is run over so many steps of a chunk at once.
        at_once: all chunks go through a layer before the next layer, else each chunk through all layers.
        graphless: it is run as where no graph is recorded, which gives other last bits; `efficient` does that.
        shape, dtype: of the inputs, (T, N, I).
        input_codes: what keeps the inputs, side by side; none where the inputs are kept as they are.
        needs: for each layer, whether it or anything below wants a gradient.
        shows_codes: the codes of the last layer's hidden states are results.
    """

    layers: LSTMChunk
    codec: SequenceCodec
    noise_seed: int
    chunks: tuple[slice, ...]
    run_steps: int
    at_once: bool
    graphless: bool
    shape: torch.Size
    dtype: torch.dtype
    input_codes: tuple[CodedSteps, ...]
    needs: tuple[bool, ...]
    shows_codes: bool

    @property
    def each(self) -> int:
        """Weights and biases of a layer."""
        return 4 if self.layers.bias else 2

    @property
    def count(self) -> int:
        """Of layers."""
        return self.layers.layers

    def weights_of(self, layer: int, parameters: Tensors) -> Tensors:
        """Of one layer, out of the call's parameters."""
        return parameters[layer * self.each : (layer + 1) * self.each]

    def input_parts(self, parameters: Tensors) -> Tensors:
        """The tensors of `input_codes`, which follow the weights and the seed of dropout."""
        return parameters[self.count * self.each + (self.layers.drop_rate > 0) :]

    def place(self, steps: slice) -> slice:
        """Steps of the order in which they are run, in order of time."""
        return in_time(steps, self.shape[0], self.layers.turned)

    def turn(self, values: Tensor) -> Tensor:
        """Steps in order of time, in the order in which they are run, and back."""
        return values.flip(0) if self.layers.turned else values

    def drop(self, values: Tensor, layer: int, steps: slice, parameters: Tensors) -> Tensor:
        """Dropout before a layer, of values or of their gradients, in order of time."""
        above = self.layers.first_layer + layer
        if not self.layers.drop_rate or not above:
            return values
        seed = parameters[self.count * self.each]
        return drop_steps(values, self.layers.drop_rate, seed, above - 1, steps.start)

    def keeps_hidden(self, layer: int) -> bool:
        """Whether codes of a layer's hidden states are kept: for its own weight, or as inputs of what follows."""
        above = self.needs[layer + 1] if layer + 1 < self.count else self.shows_codes
        return self.needs[layer] or above


def as_used(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """An input or a weight as a fused LSTM in this dtype used it, in float32 or wider."""
    return tensor.detach().to(dtype).to(statistics_dtype(dtype))


def without_autocast(autocast: Autocast) -> Autocast:
    """The same device's, off."""
    return None if autocast is None else (autocast[0], False, autocast[2])
