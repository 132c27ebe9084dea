"""A recurrence over time whose chunks are any function: how gradients of its chunks are put together."""

from __future__ import annotations

import torch
from torch import Tensor

from pytorch_models.saving.recurrence import STACKED, Recurrence, Tensors, recur
from zoo.planner import RecurrentPlan


def step_by_step(run_chunk: object, steps: int) -> Recurrence:
    """Chunks of one step each, with every state between them kept."""
    return Recurrence(run_chunk, RecurrentPlan(steps, 1, steps, 0, 2 * steps - 1), (STACKED,))  # type: ignore[arg-type]


def scaled(inputs: Tensors, state: Tensors, parameters: Tensors, first_step: int) -> tuple[Tensors, Tensors]:
    return (inputs[0] * parameters[0],), state


def test_many_chunks_of_few_digits_are_added_up_with_more() -> None:
    values = torch.tensor([256.0] + [1.0] * 64, dtype=torch.bfloat16)  # 256 + 1 is 256 in bfloat16
    weight = torch.ones((), dtype=torch.bfloat16, requires_grad=True)
    # The last step goes first in the backward pass: the large one must come before the small ones.
    (outputs,), _ = recur(step_by_step(scaled, 65), (values.flip(0),), (torch.zeros(1),), (weight,))
    outputs.sum().backward()
    assert weight.grad is not None
    assert weight.grad.dtype == torch.bfloat16
    assert weight.grad.item() == 320


def test_parameters_with_one_tensor_as_their_gradient_are_added_up_apart() -> None:
    def biased(inputs: Tensors, state: Tensors, parameters: Tensors, _: int) -> tuple[Tensors, Tensors]:
        return (inputs[0] + (parameters[0] + parameters[1]),), state

    biases = [torch.zeros(2, requires_grad=True) for _ in range(2)]
    (outputs,), _ = recur(step_by_step(biased, 3), (torch.ones(3, 2),), (torch.zeros(1),), biases)
    outputs.sum().backward()
    assert [bias.grad.tolist() for bias in biases if bias.grad is not None] == [[3, 3], [3, 3]]


def test_a_sequence_that_a_chunk_does_not_read_has_no_gradient_there() -> None:
    def first_alone(inputs: Tensors, state: Tensors, _: Tensors, first_step: int) -> tuple[Tensors, Tensors]:
        return (inputs[0] + inputs[1] if first_step == 1 else inputs[0] * 1,), state

    def gradient() -> Tensor:
        sequences = [torch.ones(3, requires_grad=True) for _ in range(2)]
        (outputs,), _ = recur(step_by_step(first_alone, 3), sequences, (torch.zeros(1),), ())
        outputs.sum().backward()
        assert sequences[1].grad is not None
        return sequences[1].grad

    assert gradient().tolist() == [0, 1, 0]
