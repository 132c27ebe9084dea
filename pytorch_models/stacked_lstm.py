"""torch.nn.LSTM with exact memory saving over time: same weights, same names, same numbers."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from pytorch_models.compression import NoiseSeeds, derived_seed
from pytorch_models.saving.coded_lstm import CodedResults, Codes, Coding, coded_layers
from pytorch_models.saving.coded_steps import code_steps
from pytorch_models.saving.eligibility import PlainPathWarning, graph_is_being_exported
from pytorch_models.saving.lstm_chunk import LSTMChunk, lstm_plan
from pytorch_models.saving.lstm_storage import LayerSizes, coded_layers_of, codes_are_smaller, coding_of
from pytorch_models.saving.recurrence import STACKED, Recurrence, Tensors, recur
from pytorch_models.saving.sequence_codes import SequenceCodec
from pytorch_models.saving.time_dropout import draw_seed
from zoo.planner import RecurrentPlan
from zoo.policy import MemoryPolicy

State = tuple[Tensor, Tensor]


class StackedLSTM(nn.LSTM):
    """A drop-in for torch.nn.LSTM (without projections) that can be recomputed over time.

    With `efficient=True`, all layers of one direction are walked in chunks of time steps together: kept are the inputs
    and, before each chunk, the state of every layer; each chunk is run again in the backward pass. Memory grows like
    the square root of the steps. A bidirectional one is walked layer by layer and keeps each layer's whole output.
    Dropout between layers is a function of (seed, layer, time step), the same with and without `efficient`; one number
    a forward pass is drawn from the CPU's global stream for it (torch.nn.LSTM draws others).

    Args:
        input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional: torch.nn.LSTM's.
        efficient: as above.
        compressed: factors of the backward pass and hidden states are kept in few bits, lossy but unbiased, see
            `zoo.policy.MemoryPolicy`; with `efficient`, where that is less than the states between chunks.

    Raises:
        ValueError, TypeError: as torch.nn.LSTM.

    Example:
        >>> lstm = StackedLSTM(3, 5, num_layers=2, efficient=True)
        >>> outputs, (h, c) = lstm(torch.zeros(100, 4, 3))
        >>> outputs.shape, h.shape
        (torch.Size([100, 4, 5]), torch.Size([2, 4, 5]))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        efficient: bool = False,
        compressed: int | str | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional)
        self.efficient = efficient
        codec = MemoryPolicy(compressed=compressed).codec
        if compressed is not None and codec is None:
            raise ValueError(
                f"StackedLSTM: compressed={compressed!r} is a scheme for whole models: give 1, 2, 4, 8, fixed:2 to "
                f"fixed:16, half or bfloat16, or compress(model, {compressed!r})"
            )
        self.codec = None if codec is None else SequenceCodec(codec)
        self.seeds = NoiseSeeds()

    def how_kept(self) -> str:
        """In words, what the layers keep for the backward pass."""
        if not self.efficient:
            if self.codec is None:
                return "every step of every layer"
            return f"local factors and hidden states of every step, as codes ({self.codec.codec})"
        if self.bidirectional:
            codes = "" if self.codec is None else f", or codes ({self.codec.codec}) where they are less"
            return f"each layer's outputs, and states between chunks of time steps{codes}"
        return "states between chunks of time steps; each chunk is run again"

    def forward(self, input: Any, hx: State | None = None, outputs: bool = True) -> tuple[Any, State]:
        """(T, N, input_size), or as torch.nn.LSTM takes it -> outputs of the last layer, (h, c).

        With `outputs=False`, None and (h, c): efficient layers then make no whole sequence of outputs.
        """
        drops = self.training and self.dropout > 0 and self.num_layers > 1
        if isinstance(input, PackedSequence):
            return self._forward_packed(input, hx, drops)
        if (self.efficient or drops or self._codec(input, hx) is not None) and not graph_is_being_exported():
            return self._walk(input, hx, wants_outputs=outputs)
        values, state = super().forward(input, hx)
        return (values if outputs else None), state

    def _forward_packed(self, input: PackedSequence, hx: State | None, drops: bool) -> tuple[PackedSequence, State]:
        if self.efficient or self.codec is not None:
            reason = "the sequences are packed: pad them to one length to save memory"
            warnings.warn(f"LSTM runs the plain way and saves no memory: {reason}", PlainPathWarning, stacklevel=4)
        if drops:
            raise ValueError("packed sequences with dropout: its masks belong to time steps; pad to one length instead")
        return super().forward(input, hx)

    def _walk(self, input: Tensor, hx: State | None, wants_outputs: bool) -> tuple[Tensor | None, State]:
        """Sort out the layouts that torch.nn.LSTM takes, walk, and give the results the same layout."""
        if input.dim() not in (2, 3):
            raise ValueError(f"LSTM: needed is an input of 2 or 3 dimensions, not {input.dim()}")
        batched = input.dim() == 3
        values = input if batched else input.unsqueeze(1)
        values = values.transpose(0, 1) if batched and self.batch_first else values
        given = hx if hx is None or batched else (hx[0].unsqueeze(1), hx[1].unsqueeze(1))
        self._check(values, given)
        state = self.initial_state(values) if given is None else given
        seed = (draw_seed(),) if self.training and self.dropout > 0 and self.num_layers > 1 else ()
        run = self._both_directions if self.bidirectional else self._one_direction
        outputs, (hidden, cell) = run(values, state, seed, wants_outputs)
        if not batched:
            return outputs.squeeze(1) if outputs is not None else None, (hidden.squeeze(1), cell.squeeze(1))
        if outputs is not None and self.batch_first:
            outputs = outputs.transpose(0, 1)
        return outputs, (hidden, cell)

    def _check(self, values: Tensor, state: State | None) -> None:
        """Refuse values (T, N, I) and states (layers * directions, N, H) that do not fit, in torch.nn.LSTM's way."""
        self.check_input(values, None)
        if len(values) == 0:
            raise ValueError("LSTM: the sequence has no time steps: give at least one")
        expected = tuple(self.initial_state(values)[0].shape) if state is not None else ()
        for name, part in zip(("h", "c"), state or (), strict=False):
            if tuple(part.shape) != expected:
                raise RuntimeError(f"LSTM: needed is an initial {name} of shape {expected}, not {tuple(part.shape)}")

    def initial_state(self, values: Tensor) -> State:
        """Zeros (layers * directions, N, H) for values (T, N, ...)."""
        directions = 2 if self.bidirectional else 1
        shape = (self.num_layers * directions, values.shape[1], self.hidden_size)
        zeros = torch.zeros(shape, dtype=self.weights[0].dtype, device=values.device)
        return zeros, zeros

    def chunk(self, *, drops: bool, emits: bool) -> LSTMChunk:
        """All layers of one direction as a function of tensors: of `weights` and, if it drops, a seed."""
        rate = self.dropout if drops else 0.0
        return LSTMChunk(self.num_layers, self.bias, rate, self.training, emits=emits)

    @property
    def weights(self) -> Tensors:
        """Of all layers and directions, in torch.nn.LSTM's order."""
        return tuple(getattr(self, name) for name in self._flat_weights_names)

    def _codec(self, values: Tensor, state: State | None) -> SequenceCodec | None:
        """What codes are kept with, if a backward pass may follow."""
        wanted = torch.is_grad_enabled() and any(t.requires_grad for t in (values, *(state or ()), *self.weights))
        return self.codec if wanted else None

    def _one_direction(
        self, values: Tensor, state: State, seed: Tensors, wants_outputs: bool
    ) -> tuple[Tensor | None, State]:
        """All layers in chunks together, or over all steps at once."""
        codec, plan = self._codec(values, state), self.plan(values) if self.efficient else None
        chunk = self.chunk(drops=bool(seed), emits=wants_outputs or (codec is None and plan is None))
        parameters = (*self.weights, *seed)
        if codec is not None and (plan is None or codes_are_smaller(self._sizes(codec, plan, values))):
            coding = coding_of(codec, self.seeds.next(), values, plan)
            inputs = [_code_inputs(coding, values)] if values.requires_grad else []
            results = _coded(chunk, coding, values, state, parameters, inputs)
            return results.outputs, results.state
        if plan is None:
            outputs, ends = chunk((values,), state, parameters, 0)
        else:
            outputs, ends = _recur(Recurrence(chunk, plan, (STACKED,) * chunk.emits), (values,), state, parameters)
        return (outputs[0] if outputs else None), (ends[0], ends[1])

    def _both_directions(
        self, values: Tensor, state: State, seed: Tensors, wants_outputs: bool
    ) -> tuple[Tensor | None, State]:
        """Layer by layer: the second layer's first step reads what the first read last."""
        ends: list[State] = []
        coded, coding = self._coded_layers(values, state)
        known: list[Codes] = []  # codes of `values`
        for layer in range(self.num_layers):
            if coding is not None and coded[layer] and not known and (layer or values.requires_grad):
                known = [_code_inputs(coding.of_part(2 * self.num_layers + layer), values)]
            shows = coded[layer] and coded[layer + 1 : layer + 2] == (True,)
            emits = wants_outputs or layer + 1 < self.num_layers
            sides: list[Tensor] = []
            below: list[Codes] = []
            for turned in (False, True):
                place = 2 * layer + turned
                own = (state[0][place : place + 1], state[1][place : place + 1])
                chunk = self._layer(layer, turned, emits, seed)
                weights = self.weights[place * self._each : (place + 1) * self._each]
                parameters = (*weights, *seed) if chunk.drop_rate else weights
                if coding is not None and coded[layer]:
                    results = _coded(chunk, coding.of_part(place), values, own, parameters, known, shows)
                    side, end = results.outputs, results.state
                    below += results.codes
                else:
                    side, end = self._one_layer(chunk, values, own, parameters)
                sides += [side] if side is not None else []
                ends.append(end)
            values, known = torch.cat(sides, 2) if sides else values, below
        hidden, cell = (torch.cat(parts) for parts in zip(*ends, strict=True))
        return (values if wants_outputs else None), (hidden, cell)

    @property
    def _each(self) -> int:
        """Weights and biases of a layer."""
        return 4 if self.bias else 2

    def _coded_layers(self, values: Tensor, state: State) -> tuple[tuple[bool, ...], Coding | None]:
        """Which layers of a bidirectional one are coded, and how."""
        codec, plan = self._codec(values, state), self.plan(values, layers=1) if self.efficient else None
        if codec is None:
            return (False,) * self.num_layers, None
        coded = (True,) * self.num_layers
        if plan is not None:
            coded = coded_layers_of(self._sizes(codec, plan, values), self.num_layers)
        return coded, coding_of(codec, self.seeds.next(), values, plan) if any(coded) else None

    def _sizes(self, codec: SequenceCodec, plan: RecurrentPlan, values: Tensor) -> LayerSizes:
        return LayerSizes(codec, plan, values.shape[1] * self.hidden_size, self.weights[0].element_size())

    def _layer(self, layer: int, turned: bool, emits: bool, seed: Tensors) -> LSTMChunk:
        """One layer of one direction, with the dropout before it."""
        rate = self.dropout if seed and layer > 0 else 0.0
        return LSTMChunk(1, self.bias, rate, self.training, layer, turned, emits)

    def _one_layer(
        self, chunk: LSTMChunk, values: Tensor, state: State, parameters: Tensors
    ) -> tuple[Tensor | None, State]:
        if not self.efficient:
            outputs, ends = chunk((values,), state, parameters, 0)
        else:
            kinds = (STACKED,) * chunk.emits
            recurrence = Recurrence(chunk, self.plan(values, layers=1), kinds, backward_in_time=chunk.turned)
            outputs, ends = _recur(recurrence, (values,), state, parameters)
        return (outputs[0] if outputs else None), (ends[0], ends[1])

    def plan(self, values: Tensor, layers: int | None = None, values_beside: int = 0) -> RecurrentPlan:
        """How a sequence (T, N, ...) is cut into chunks, for so many layers (all) walked together."""
        steps, samples = values.shape[:2]
        itemsize = self.weights[0].element_size()
        return lstm_plan(steps, samples, self.hidden_size, layers or self.num_layers, itemsize, values_beside)


@torch.compiler.disable(reason="a recurrence that is recomputed over time is one autograd Function")
def _recur(recurrence: Recurrence, sequences: Tensors, state: Tensors, parameters: Tensors) -> tuple[Tensors, Tensors]:
    return recur(recurrence, sequences, state, parameters)


def _code_inputs(coding: Coding, values: Tensor) -> Codes:
    """Codes of a whole sequence (T, N, C), for the layers that read it."""
    return code_steps(values, coding.codec, coding.chunks, derived_seed(coding.noise_seed, 0))


@torch.compiler.disable(reason="layers that keep codes are one autograd Function")
def _coded(*arguments: Any) -> CodedResults:
    return coded_layers(*arguments)
