"""The backward pass of LSTM layers that keep codes: chunk by chunk from the last, all layers of a chunk in turn."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pytorch_models.saving.coded_call import CodedCall, as_used
from pytorch_models.saving.lstm_factors import LOCAL, Factors, gradients_of_steps
from pytorch_models.saving.saved import SavedTensors


class BackwardSweep:
    """Gradients of a call's values, h, c and weights.

    Args:
        call: the facts.
        saved: what the forward pass kept.
        needs: for values, h, c and each of the parameters, whether its gradient is wanted.
        dtype: of the hidden states.
    """

    def __init__(self, call: CodedCall, saved: SavedTensors, needs: Sequence[bool], dtype: torch.dtype) -> None:
        self.call, self.saved, self.needs, self.dtype = call, saved, needs, dtype
        self.parameters = tuple(p for p in saved.parameters if p is not None)
        self.weights = [
            tuple(as_used(weight, dtype) for weight in call.weights_of(layer, self.parameters)[:2])
            for layer in range(call.count)
        ]
        self.sums: dict[int, Tensor] = {}  # by a parameter's place
        self.values: Tensor | None = None

    def run(self, outputs: Tensor | None, hidden: Tensor | None, cell: Tensor | None) -> tuple[Tensor | None, ...]:
        """From gradients of the outputs and of the last h and c, in the order of the Function's arguments."""
        call, samples = self.call, self.call.shape[1]
        width = self.weights[0][1].shape[1]
        some = self.weights[0][1]
        shape = (call.count, samples, width)
        ends = [some.new_zeros(shape) if given is None else as_used(given, self.dtype) for given in (hidden, cell)]
        state = [(ends[0][layer], ends[1][layer]) for layer in range(call.count)]
        if self.needs[0]:
            self.values = torch.empty(call.shape, dtype=call.dtype, device=some.device)
        for chunk in reversed(range(len(call.chunks))):
            self._chunk(chunk, outputs, state)
        first = [torch.stack(parts) for parts in zip(*state, strict=True)]
        of_state = [g.to(self.dtype) if need else None for g, need in zip(first, self.needs[1:3], strict=True)]
        of_weights = [
            self.sums[place].to(parameter.dtype) if place in self.sums else None
            for place, parameter in enumerate(self.parameters)
        ]
        return self.values, *of_state, *of_weights

    def _chunk(self, chunk: int, outputs: Tensor | None, state: list[tuple[Tensor, Tensor]]) -> None:
        call, place = self.call, self.call.place(self.call.chunks[chunk])
        upstream = None if outputs is None else call.turn(as_used(outputs[place], self.dtype))
        for layer in reversed(range(call.count)):
            if not call.needs[layer]:
                return
            factors = self._factors(chunk, layer)
            into, back = self.weights[layer]
            sums, *before = gradients_of_steps(factors, back, upstream, *state[layer])
            del factors
            state[layer] = before[0], before[1]
            rows = sums.flatten(2).flatten(0, 1)
            self._add_weights(chunk, layer, rows)
            below = call.needs[layer - 1] if layer else self.needs[0]
            if not below:
                return
            upstream = (rows @ into).view(*sums.shape[:2], into.shape[1])
            upstream = call.drop(upstream if layer else call.turn(upstream), layer, place, self.parameters)
        if self.values is not None and upstream is not None:
            self.values[place] = upstream.to(self.values.dtype)

    def _factors(self, chunk: int, layer: int) -> Factors:
        call, index = self.call, chunk * self.call.count + layer
        steps = call.chunks[chunk].stop - call.chunks[chunk].start
        shape = (steps, call.shape[1], self.weights[layer][1].shape[1])
        local = call.codec.decode(self.saved.parts(index, "local"), torch.Size((LOCAL, *shape)), self.dtype)
        forget = call.codec.of_forget_gates
        return Factors(local, forget.decode(self.saved.parts(index, "forget"), torch.Size((1, *shape)), self.dtype)[0])

    def _hidden(self, chunk: int, layer: int) -> Tensor:
        """Hidden states before the chunk's first step and after each, (T + 1, N, H)."""
        call, index = self.call, chunk * self.call.count + layer
        steps = call.chunks[chunk].stop - call.chunks[chunk].start
        shape = torch.Size((1, steps + 1, call.shape[1], self.weights[layer][1].shape[1]))
        return call.codec.decode(self.saved.parts(index, "hidden"), shape, self.dtype)[0]

    def _inputs(self, chunk: int, layer: int) -> Tensor:
        """Inputs of a layer, (T, N, I), in the order in which steps are run."""
        call, place = self.call, self.call.place(self.call.chunks[chunk])
        if layer:
            values = self._hidden(chunk, layer - 1)[1:]
            return call.drop(values, layer, place, self.parameters)
        if self.saved.features is not None:
            values = as_used(self.saved.features[place], self.dtype)
        else:
            parts, side_by_side = list(call.input_parts(self.parameters)), []
            for coded in call.input_codes:
                side_by_side.append(coded.decode(parts[: coded.tensors], place))
                del parts[: coded.tensors]
            values = torch.cat(side_by_side, 2)
        return call.turn(call.drop(values, layer, place, self.parameters))

    def _add_weights(self, chunk: int, layer: int, rows: Tensor) -> None:
        """Add one chunk's gradients of a layer's weights, from those of its gate sums (T * N, 4 * H)."""
        first = layer * self.call.each
        needs = self.needs[3 + first : 3 + first + self.call.each]
        if needs[0]:
            self._add(first, rows.t(), self._inputs(chunk, layer).flatten(0, 1))
        if needs[1]:
            self._add(first + 1, rows.t(), self._hidden(chunk, layer)[:-1].flatten(0, 1))
        if any(needs[2:]):
            total = rows.sum(0)
            for place, need in enumerate(needs[2:], start=first + 2):
                if need:
                    self.sums[place] = self.sums[place] + total if place in self.sums else total

    def _add(self, place: int, left: Tensor, right: Tensor) -> None:
        if place in self.sums:
            self.sums[place].addmm_(left, right)
        else:
            self.sums[place] = left @ right
