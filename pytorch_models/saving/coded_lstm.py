"""LSTM layers that keep their local factors and hidden states in few bits, as one autograd Function.

The forward pass is the framework's fused LSTM, layer by layer; its hidden states give all gates of a chunk of steps in
one product, and these the factors of `lstm_factors`, which are coded and kept. Nothing is run again in the backward
pass. Factors and the products' inputs meet in products, so each has noise of its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pytorch_models.compression import derived_seed
from pytorch_models.saving.coded_backward import BackwardSweep
from pytorch_models.saving.coded_call import CodedCall, without_autocast
from pytorch_models.saving.coded_forward import ForwardSweep
from pytorch_models.saving.coded_steps import CodedSteps
from pytorch_models.saving.eligibility import refuse_second_derivative
from pytorch_models.saving.lstm_chunk import LSTMChunk
from pytorch_models.saving.recurrence import Tensors, autocast_again, autocast_now
from pytorch_models.saving.saved import SavedTensors
from pytorch_models.saving.sequence_codes import SequenceCodec

Codes = tuple[CodedSteps, Tensors]


@dataclass(frozen=True)
class Coding:
    """How layers keep codes, whatever their inputs.

    Args:
        codec, noise_seed: of what is kept.
        chunks: the steps that are coded together, in the order in which they are run.
        run_steps, at_once, graphless: see `CodedCall`.
    """

    codec: SequenceCodec
    noise_seed: int
    chunks: tuple[slice, ...]
    run_steps: int
    at_once: bool
    graphless: bool

    def of_part(self, index: int) -> Coding:
        """The same with noise of its own."""
        return replace(self, noise_seed=derived_seed(self.noise_seed, index))


@dataclass(frozen=True)
class CodedResults:
    """What coded layers give.

    Args:
        outputs: (T, N, H) of the last layer, None where the layers emit none.
        state: the last h and c, (layers, N, H).
        codes: of the last layer's hidden states, if they were asked for.
    """

    outputs: Tensor | None
    state: tuple[Tensor, Tensor]
    codes: list[Codes]


def coded_layers(
    layers: LSTMChunk,
    coding: Coding,
    values: Tensor,
    state: Sequence[Tensor],
    parameters: Tensors,
    inputs: Sequence[Codes] = (),
    shows_codes: bool = False,
) -> CodedResults:
    """Run layers of one direction; something of `values`, `state` and `parameters` must want a gradient.

    Args:
        values: (T, N, I).
        state: h and c, (layers, N, H).
        parameters: weights and, if the layers drop, the seed.
        inputs: codes that keep the values, side by side; none: they are kept as they are.

    Raises:
        RuntimeError: in the backward pass, when gradients of gradients are asked for.
    """
    codes = tuple(part for _, parts in inputs for part in parts)
    each = 4 if layers.bias else 2
    around = any(tensor.requires_grad for tensor in (values, *state))
    wants = [any(p.requires_grad for p in parameters[i * each : (i + 1) * each]) for i in range(layers.layers)]
    needs = tuple(itertools.accumulate(wants, lambda below, own: below or own, initial=around))[1:]
    known = tuple(coded for coded, _ in inputs)
    how = (coding.codec, coding.noise_seed, coding.chunks, coding.run_steps, coding.at_once, coding.graphless)
    call = CodedCall(layers, *how, values.shape, values.dtype, known, needs, shows_codes)
    outputs, hidden, cell, *shown = CodedLayers.apply(call, values, *state, *parameters, *codes)
    if not shows_codes:
        return CodedResults(outputs, (hidden, cell), [])
    shape = torch.Size((*values.shape[:2], hidden.shape[2]))
    made = CodedSteps(coding.codec, coding.chunks, shape, hidden.dtype, len(shown), leads=True, turned=layers.turned)
    return CodedResults(outputs, (hidden, cell), [(made, tuple(shown))])


class CodedLayers(torch.autograd.Function):
    """Arguments: the call, values (T, N, I), h and c (layers, N, H), weights, a seed if it drops, codes of the inputs.

    Results: outputs (T, N, H) or None, h, c, and codes of the last layer's hidden states.
    """

    @staticmethod
    def forward(
        ctx: Any, call: CodedCall, values: Tensor, hidden: Tensor, cell: Tensor, *parameters: Tensor
    ) -> tuple[Tensor | None, ...]:
        ctx.call, ctx.autocast = call, autocast_now(values.device)
        ctx.set_materialize_grads(False)
        sweep = ForwardSweep(call, values, parameters, ctx.autocast)
        results = sweep.run(hidden, cell)
        ctx.dtype = sweep.dtype
        sweep.saved.store(ctx, None if call.input_codes else values, parameters)
        shown = sweep.shown_codes()
        ctx.mark_non_differentiable(*shown)
        return *results, *shown

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        refuse_second_derivative("a compressed LSTM")
        saved = SavedTensors.restore(ctx)
        with autocast_again(without_autocast(ctx.autocast)):
            sweep = BackwardSweep(ctx.call, saved, ctx.needs_input_grad[1:], ctx.dtype)
            return None, *sweep.run(*gradients[:3])
