"""Dropout that keeps no mask: the generator's state is kept, and the same mask is drawn again in the backward pass."""

from __future__ import annotations

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional as F


def drop(values: Tensor, rate: float) -> tuple[Tensor, Tensor]:
    """Apply dropout exactly as `F.dropout` does, on the global random stream.

    Returns:
        The dropped values, and the generator's state before the draw (uint8, 16 bytes on CUDA, 5056 on a CPU).
    """
    state = _generator_state(values)
    return F.dropout(values, rate, training=True), state


def drop_gradient(gradient: Tensor, rate: float, state: Tensor) -> Tensor:
    """The gradient through the dropout whose state `drop` returned; the global stream is not touched.

    `gradient` must have the shape, dtype and memory format of the values that were dropped.
    """
    generator = torch.Generator(gradient.device)
    if not isinstance(state, FakeTensor):
        generator.set_state(state)
    if gradient.device.type == "cuda":
        return gradient * torch._fused_dropout(torch.ones_like(gradient), 1 - rate, generator)[0]
    mask = torch.empty_like(gradient).bernoulli_(1 - rate, generator=generator)
    return mask.div_(1 - rate).mul_(gradient)


def _generator_state(values: Tensor) -> Tensor:
    on_cuda = values.device.type == "cuda"
    state = torch.cuda.get_rng_state(values.device) if on_cuda else torch.get_rng_state()
    if isinstance(values, FakeTensor):  # nothing is computed: the state has a size and no content
        return torch.empty(state.shape, dtype=state.dtype)
    return state.clone()  # made by an operator, so that a memory tracker sees it
