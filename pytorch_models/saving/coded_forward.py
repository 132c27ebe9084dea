"""The forward pass of LSTM layers that keep codes: the framework's fused LSTM, then factors out of what it gave."""

from __future__ import annotations

import torch
from torch import Tensor

from pytorch_models.compression import derived_seed
from pytorch_models.saving.coded_call import CodedCall, as_used, without_autocast
from pytorch_models.saving.lstm_factors import gate_sums, local_factors
from pytorch_models.saving.recurrence import Autocast, Tensors, autocast_again
from pytorch_models.saving.saved import SavedTensors
from pytorch_models.saving.sequence_codes import SequenceCodec

State = tuple[Tensor, Tensor]


class ForwardSweep:
    """Runs the layers and fills `saved`, by chunk and layer.

    Args:
        call: the facts.
        values: (T, N, I).
        parameters: of the call.
        autocast: as it is where the model is called.
    """

    def __init__(self, call: CodedCall, values: Tensor, parameters: Tensors, autocast: Autocast) -> None:
        self.call, self.values, self.parameters, self.autocast = call, values, parameters, autocast
        self.saved = SavedTensors(len(call.chunks) * call.count)
        self.outputs: Tensor | None = None
        self.dtype = values.dtype  # of hidden states, once there are some
        self.coded = 0

    def run(self, hidden: Tensor, cell: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        """Outputs if wanted, and the last h and c, from the first (layers, N, H)."""
        state: list[State] = [(hidden[i : i + 1], cell[i : i + 1]) for i in range(self.call.count)]
        chunks = range(len(self.call.chunks))
        for together in [chunks] if self.call.at_once else [range(chunk, chunk + 1) for chunk in chunks]:
            self._run(together, state)
        hidden, cell = (torch.cat(parts) for parts in zip(*state, strict=True))
        return self.outputs, hidden, cell

    def _run(self, together: range, state: list[State]) -> None:
        """Some chunks, through all layers."""
        call = self.call
        steps = slice(call.chunks[together[0]].start, call.chunks[together[-1]].stop)
        place = call.place(steps)
        values = self.values[place]
        for layer in range(call.count):
            values = call.drop(values, layer, place, self.parameters)
            values = values if layer else call.turn(values)
            outputs, hidden, cell = self._fused(values, state[layer], layer)
            self.dtype = outputs.dtype
            if call.keeps_hidden(layer):
                self._record(layer, together, values, outputs, state[layer])
            values, state[layer] = outputs, (hidden, cell)
        if call.layers.emits:
            if self.outputs is None:
                self.outputs = values.new_empty(call.shape[0], *values.shape[1:])
            self.outputs[place] = call.turn(values)

    def _fused(self, values: Tensor, state: State, layer: int) -> tuple[Tensor, ...]:
        """Outputs, h and c of one layer, to the bit those of the same flags without codes."""
        weights, call = list(self.call.weights_of(layer, self.parameters)), self.call
        if not call.graphless:
            # Last bits depend on whether a graph is recorded and, but for oneDNN's, on what wants a gradient in it.
            below = call.needs[layer - 1] if layer else self.values.requires_grad
            values = values.detach().requires_grad_(call.at_once and below)
            weights = [weight.detach().requires_grad_(call.at_once and weight.requires_grad) for weight in weights]
        runs: list[Tensor] = []
        with autocast_again(self.autocast), torch.set_grad_enabled(not call.graphless):
            for some in values.split(call.run_steps):
                outputs, *after = (result.detach() for result in call.layers.fused(some, state, weights, 1))
                runs.append(outputs)
                state = (after[0], after[1])
        return runs[0] if len(runs) == 1 else torch.cat(runs), *state

    def _record(self, layer: int, together: range, values: Tensor, outputs: Tensor, state: State) -> None:
        """Code what one layer keeps of some chunks."""
        weights = tuple(as_used(w, self.dtype) for w in self.call.weights_of(layer, self.parameters))
        before, cell = as_used(state[0], self.dtype), as_used(state[1][0], self.dtype)
        start = self.call.chunks[together[0]].start
        with autocast_again(without_autocast(self.autocast)):
            for chunk in together:
                steps = self.call.chunks[chunk]
                own = slice(steps.start - start, steps.stop - start)
                hidden = torch.cat((before, as_used(outputs[own], self.dtype)))
                index = chunk * self.call.count + layer
                self._keep(index, "hidden", hidden[None], self.call.codec)
                if self.call.needs[layer]:
                    sums = gate_sums(as_used(values[own], self.dtype), hidden[:-1], weights)
                    factors, cell = local_factors(sums, cell)
                    self._keep(index, "local", factors.local, self.call.codec)
                    self._keep(index, "forget", factors.forget[None], self.call.codec.of_forget_gates)
                before = hidden[-1:]

    def _keep(self, index: int, name: str, values: Tensor, codec: SequenceCodec) -> None:
        self.coded += 1
        seed = derived_seed(self.call.noise_seed, self.coded)
        self.saved.keep_parts(index, name, codec.encode(values, seed))

    def shown_codes(self) -> Tensors:
        """Codes of the last layer's hidden states, chunk after chunk, if they are wanted."""
        if not self.call.shows_codes:
            return ()
        last = range(self.call.count - 1, len(self.call.chunks) * self.call.count, self.call.count)
        return tuple(part for index in last for part in self.saved.parts(index, "hidden"))
