"""Recomputation over time as one autograd Function: of a long recurrence, states between chunks are kept, nothing else.

A chunk of time steps is run by any function of (inputs, state, parameters). Forward, the sequence is walked chunk by
chunk without a graph; backward, each chunk is run again with one, from the state that was kept before it. Which states
are kept, and in which order chunks are run again, is `zoo.planner`'s schedule for equal segments (Gruslys et al. 2016,
arXiv:1606.03401). Everything kept goes through `save_for_backward`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pytorch_models.saving.eligibility import refuse_second_derivative
from pytorch_models.saving.own import mark_own
from zoo.planner import Act, Operation, RecurrentPlan

Tensors = tuple[Tensor, ...]
# (chunk of every sequence, state, parameters, first time step) -> (outputs, state)
RunChunk = Callable[[Tensors, Tensors, Tensors, int], tuple[Tensors, Tensors]]
STACKED, SUMMED = "stacked", "summed"


@dataclass(frozen=True)
class Recurrence:
    """How a sequence is walked, all but the tensors.

    Args:
        run_chunk: one chunk, a function of its tensors alone.
        plan: into how many chunks of how many steps, and which states are kept.
        outputs: for each output of a chunk, whether chunks' outputs are STACKED along time (dimension 0) or SUMMED.
        backward_in_time: the last chunk is run first; the function turns each chunk's steps round itself.
    """

    run_chunk: RunChunk
    plan: RecurrentPlan
    outputs: tuple[str, ...] = ()
    backward_in_time: bool = False

    def steps_of(self, segment: int) -> slice:
        """The time steps of a segment, counted from the one that is run first."""
        size, steps = self.plan.chunk_steps, self.plan.steps
        start, stop = segment * size, min((segment + 1) * size, steps)
        return slice(steps - stop, steps - start) if self.backward_in_time else slice(start, stop)

    def run(self, segment: int, sequences: Tensors, state: Tensors, parameters: Tensors) -> tuple[Tensors, Tensors]:
        """Outputs of one segment and the state after it."""
        steps = self.steps_of(segment)
        return self.run_chunk(tuple(sequence[steps] for sequence in sequences), state, parameters, steps.start)


def recur(
    recurrence: Recurrence, sequences: Sequence[Tensor], state: Sequence[Tensor], parameters: Sequence[Tensor]
) -> tuple[Tensors, Tensors]:
    """Walk `sequences` (each with T time steps first) from `state`; keep only the states that the plan says.

    Returns:
        The outputs, and the last state: the same values as walking all chunks with autograd.

    Raises:
        RuntimeError: in the backward pass, when gradients of gradients are asked for.
    """
    tensors = (*sequences, *state, *parameters)
    keeps = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    layout = _Layout(recurrence, len(sequences), len(state), keeps)
    results = RecurrenceFunction.apply(layout, *tensors)
    outputs = len(recurrence.outputs)
    return tuple(results[:outputs]), tuple(results[outputs:])


@dataclass(frozen=True)
class _Layout:
    """A recurrence, where its tensors stand among the Function's arguments, and whether a backward may follow."""

    recurrence: Recurrence
    sequences: int
    states: int
    keeps: bool

    def divide(self, tensors: Sequence[Any]) -> tuple[tuple[Any, ...], tuple[Any, ...], tuple[Any, ...]]:
        """Sequences, initial state, parameters."""
        ends = (self.sequences, self.sequences + self.states)
        return tuple(tensors[: ends[0]]), tuple(tensors[ends[0] : ends[1]]), tuple(tensors[ends[1] :])


class RecurrenceFunction(torch.autograd.Function):
    """See the module's docstring; arguments are the layout, then sequences, initial state and parameters."""

    @staticmethod
    def forward(ctx: Any, layout: _Layout, *tensors: Tensor) -> Tensors:
        ctx.layout = layout
        ctx.set_materialize_grads(False)
        ctx.autocast = autocast_now(tensors[0].device)
        with autocast_again(ctx.autocast):
            sweep = _FirstSweep(layout, tensors)
            outputs, last_state = sweep.run()
        results = (*outputs, *last_state)
        ctx.mark_non_differentiable(*(result for result in results if not result.is_floating_point()))
        if layout.keeps:
            kept = {segment: state for segment, state in sweep.kept.items() if segment}
            ctx.kept_segments = tuple(kept)
            states = [tensor for state in kept.values() for tensor in state]
            mark_own((*tensors, *states))
            ctx.save_for_backward(*tensors, *states)
        return results

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        refuse_second_derivative("a recurrence that is recomputed over time")
        layout: _Layout = ctx.layout
        saved = ctx.saved_tensors
        count = len(saved) - layout.states * len(ctx.kept_segments)
        states = iter(saved[count:])
        kept = {segment: tuple(next(states) for _ in range(layout.states)) for segment in ctx.kept_segments}
        with autocast_again(ctx.autocast):
            return None, *_SecondSweep(layout, saved[:count], kept, ctx.needs_input_grad[1:], gradients).run()


class _FirstSweep:
    """The forward pass: every segment once, without a graph."""

    def __init__(self, layout: _Layout, tensors: Sequence[Tensor]) -> None:
        self.layout, self.recurrence = layout, layout.recurrence
        self.sequences, state, self.parameters = layout.divide(tensors)
        self.kept: dict[int, Tensors] = {0: state}
        self.outputs: list[Tensor] = []

    def run(self) -> tuple[list[Tensor], Tensors]:
        """Outputs of the whole sequence and the last state; fills `kept`, by the segment each state comes before."""
        for operation in self.recurrence.plan.schedule():
            segment = operation.part
            drops = operation.act is Act.FORWARD_DISCARD or not self.layout.keeps
            before = self.kept.pop(segment) if drops else self.kept[segment]
            outputs, after = self.recurrence.run(segment, self.sequences, before, self.parameters)
            self._collect(segment, outputs)
            if operation.act is Act.FORWARD_KEEP_ALL:  # the last segment: what follows in the schedule goes backward
                break
            self.kept[segment + 1] = after
        return self.outputs, after

    def _collect(self, segment: int, outputs: Tensors) -> None:
        steps, whole = self.recurrence.steps_of(segment), self.recurrence.plan.steps
        for index, (output, kind) in enumerate(zip(outputs, self.recurrence.outputs, strict=True)):
            if segment == 0:
                self.outputs.append(output.new_empty(whole, *output.shape[1:]) if kind == STACKED else output)
            if kind == STACKED:
                self.outputs[index][steps] = output
            elif segment:
                self.outputs[index] = self.outputs[index] + output


class _SecondSweep:
    """The backward pass: the rest of the schedule, gradients of parameters accumulated chunk by chunk."""

    def __init__(
        self,
        layout: _Layout,
        tensors: Sequence[Tensor],
        kept: dict[int, Tensors],
        needs: Sequence[bool],
        gradients: Sequence[Tensor | None],
    ) -> None:
        self.recurrence = layout.recurrence
        self.sequences, self.state, parameters = layout.divide(tensors)
        self.kept = {0: self.state, **kept}
        self.sequences_need, self.state_needs, parameters_need = layout.divide(needs)
        pairs = zip(parameters, parameters_need, strict=True)
        self.parameters = tuple(tensor.detach().requires_grad_(need) for tensor, need in pairs)
        outputs = len(self.recurrence.outputs)
        self.output_gradients, self.state_gradients = gradients[:outputs], tuple(gradients[outputs:])
        self.sequence_gradients = [
            torch.empty_like(sequence, memory_format=torch.contiguous_format) if need else None
            for sequence, need in zip(self.sequences, self.sequences_need, strict=True)
        ]
        self.sums: dict[int, Tensor] = {}  # by a parameter's place

    def run(self) -> Iterator[Tensor | None]:
        """Gradients of the Function's tensors, in order."""
        for operation in self._rest_of_schedule():
            segment = operation.part
            if operation.act is Act.FORWARD_KEEP_ALL:
                graph = self._run_with_graph(segment)
            elif operation.act is Act.BACKWARD:
                self._run_backward(segment, *graph)
                del graph, self.kept[segment]
            else:
                keeps = operation.act is Act.FORWARD_KEEP_INPUT
                before = self.kept[segment] if keeps else self.kept.pop(segment)
                _, self.kept[segment + 1] = self.recurrence.run(segment, self.sequences, before, self.parameters)
        yield from self.sequence_gradients
        for need, gradient in zip(self.state_needs, self.state_gradients, strict=True):
            yield gradient if need else None
        for index, parameter in enumerate(self.parameters):
            total = self.sums.get(index)
            yield total.to(parameter.dtype) if total is not None else None

    def _rest_of_schedule(self) -> Iterator[Operation]:
        """From the last segment's FORWARD_KEEP_ALL on: the forward pass did what comes before."""
        last = self.recurrence.plan.chunks - 1
        operations = iter(self.recurrence.plan.schedule())
        for operation in operations:
            if operation.act is Act.FORWARD_KEEP_ALL and operation.part == last:
                yield operation
                break
        yield from operations

    def _run_with_graph(self, segment: int) -> tuple[Tensors, Tensors, Tensors]:
        """Leaves (chunks of sequences, then state), outputs and state after one segment, with its graph."""
        steps = self.recurrence.steps_of(segment)
        inputs = tuple(
            sequence[steps].detach().requires_grad_(need)
            for sequence, need in zip(self.sequences, self.sequences_need, strict=True)
        )
        needs = self.state_needs if segment == 0 else [tensor.is_floating_point() for tensor in self.kept[segment]]
        pairs = zip(self.kept[segment], needs, strict=True)
        state = tuple(tensor.detach().requires_grad_(need) for tensor, need in pairs)
        with torch.enable_grad():
            outputs, after = self.recurrence.run_chunk(inputs, state, self.parameters, steps.start)
        return (*inputs, *state), outputs, after

    def _run_backward(self, segment: int, leaves: Tensors, outputs: Tensors, after: Tensors) -> None:
        steps = self.recurrence.steps_of(segment)
        upstream = [
            gradient[steps] if kind == STACKED and gradient is not None else gradient
            for gradient, kind in zip(self.output_gradients, self.recurrence.outputs, strict=True)
        ]
        ends = [
            (result, gradient)
            for result, gradient in zip((*outputs, *after), (*upstream, *self.state_gradients), strict=True)
            if gradient is not None and result.requires_grad
        ]
        wanted = [tensor for tensor in (*leaves, *self.parameters) if tensor.requires_grad]
        found = iter(_gradients(ends, wanted))
        gradients = [next(found) if tensor.requires_grad else None for tensor in (*leaves, *self.parameters)]
        count = len(self.sequences)
        for buffer, gradient in zip(self.sequence_gradients, gradients[:count], strict=True):
            if buffer is not None:
                buffer[steps] = 0 if gradient is None else gradient
        self.state_gradients = tuple(gradients[count : len(leaves)])
        for index, gradient in enumerate(gradients[len(leaves) :]):
            if gradient is not None:
                self._add(index, gradient)

    def _add(self, index: int, gradient: Tensor) -> None:
        if index in self.sums:
            self.sums[index] += gradient
            return
        low = gradient.dtype in (torch.float16, torch.bfloat16)  # a sum of many chunks needs more digits than these
        # A copy: two biases of a fused LSTM get one and the same tensor as their gradient.
        self.sums[index] = gradient.to(torch.float32 if low else gradient.dtype, copy=True)


def _gradients(ends: list[tuple[Tensor, Tensor]], wanted: list[Tensor]) -> Sequence[Tensor | None]:
    if not ends or not wanted:
        return [None] * len(wanted)
    results, gradients = zip(*ends, strict=True)
    return torch.autograd.grad(results, wanted, gradients, allow_unused=True)


Autocast = tuple[str, bool, torch.dtype] | None


def autocast_now(device: torch.device) -> Autocast:
    """The device type, whether autocast is on, and its dtype; None where the device has none."""
    if not torch.amp.is_autocast_available(device.type):
        return None
    return device.type, torch.is_autocast_enabled(device.type), torch.get_autocast_dtype(device.type)


def autocast_again(state: Autocast) -> contextlib.AbstractContextManager[Any]:
    """That autocast again; without its cache, whose casts made without a graph would be used where one is needed."""
    if state is None:
        return contextlib.nullcontext()
    device, enabled, dtype = state
    return torch.autocast(device, dtype=dtype, enabled=enabled, cache_enabled=False)
