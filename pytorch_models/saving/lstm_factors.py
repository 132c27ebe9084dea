"""An LSTM layer's backward pass from its local factors: what each step's gradient is multiplied by, and nothing else.

With gates i, f, g, o and cells c, a step passes on dc = dh * A + dc' * f', and gives its gates' sums dc * (I, F, G) and
dh * O, where I = g i (1 - i), F = c_before f (1 - f), G = i (1 - g^2), O = tanh(c) o (1 - o), A = o (1 - tanh^2 c).
Each factor enters once, so that coded ones give unbiased gradients; coded gates would not. Steps (T, N, ...), weights
and the order i, f, g, o of gates are torch.nn.LSTM's; all in float32 or wider.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

GATES = 4
LOCAL = 5  # factors of a step that are stacked


class Factors(NamedTuple):
    """Of a chunk of steps.

    Args:
        local: I, F, G, O and A, stacked (5, T, N, H).
        forget: f, (T, N, H).
    """

    local: Tensor
    forget: Tensor


def gate_sums(values: Tensor, hidden_before: Tensor, weights: tuple[Tensor, ...]) -> Tensor:
    """What the gates are taken of, (T, N, 4, H): all steps at once, for hidden states (T, N, H) that are known."""
    into, back, *biases = weights
    sums = values.flatten(0, 1) @ into.t()
    sums.addmm_(hidden_before.flatten(0, 1), back.t())
    for bias in biases:
        sums += bias
    return sums.view(*hidden_before.shape[:2], GATES, hidden_before.shape[2])


def local_factors(sums: Tensor, cell: Tensor) -> tuple[Factors, Tensor]:
    """From gate sums (T, N, 4, H), which are overwritten, and the cells (N, H) before the first step; and the last."""
    sums[:, :, :2].sigmoid_()
    sums[:, :, 2].tanh_()
    sums[:, :, 3].sigmoid_()
    enter, forget, news, leave = sums.unbind(2)
    local = sums.new_empty(LOCAL, *enter.shape)
    gained, cells = local[0], sums.new_empty(len(sums) + 1, *cell.shape)
    torch.mul(enter, news, out=gained)
    cells[0] = cell
    for step in range(len(sums)):
        torch.addcmul(gained[step], forget[step], cells[step], out=cells[step + 1])
    squashed = cells[1:].tanh()
    torch.addcmul(enter, gained, news, value=-1, out=local[2])
    gained -= gained * enter
    torch.mul(cells[:-1], forget - forget * forget, out=local[1])
    torch.mul(squashed, leave - leave * leave, out=local[3])
    squashed.square_()
    torch.addcmul(leave, leave, squashed, value=-1, out=local[4])
    return Factors(local, forget.contiguous()), cells[-1].clone()


def gradients_of_steps(
    factors: Factors, recurrent: Tensor, upstream: Tensor | None, d_hidden: Tensor, d_cell: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Back through a chunk: gradients of the gate sums (T, N, 4, H), and of h and c before it.

    Args:
        recurrent: the weight (4 * H, H).
        upstream: gradients of the hidden states (T, N, H), or None for zeros.
        d_hidden, d_cell: of h and c after the chunk, (N, H).
    """
    steps, samples, hidden = factors.forget.shape
    sums = d_hidden.new_empty(steps, samples, GATES, hidden)
    of_cell, of_hidden = sums[:, :, :3].transpose(1, 2), sums[:, :, 3]
    to_gates, leave, to_cell = factors.local[:3].transpose(0, 1), factors.local[3], factors.local[4]
    d_cell = d_cell.clone()
    for step in reversed(range(steps)):
        if upstream is not None:
            d_hidden = d_hidden + upstream[step]
        d_cell.addcmul_(d_hidden, to_cell[step])
        torch.mul(d_cell, to_gates[step], out=of_cell[step])
        torch.mul(d_hidden, leave[step], out=of_hidden[step])
        d_cell.mul_(factors.forget[step])
        d_hidden = sums[step].flatten(1) @ recurrent
    return sums, d_hidden, d_cell
