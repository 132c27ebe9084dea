"""Dropout over time whose mask is a function of (seed, layer, time step): any chunk of it can be drawn again."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor


def draw_seed() -> Tensor:
    """One number from the global random stream of the CPU, int64 (1,): the seed of one forward pass."""
    return torch.empty(1, dtype=torch.int64, device="cpu").random_()


def drop_steps(values: Tensor, rate: float, seed: Tensor, layer: int, first_step: int) -> Tensor:
    """Values (T, N, H) of the time steps from `first_step` on, each kept with probability 1 - rate and scaled.

    The mask depends on the seed, the layer, the time step and the device; not on which steps are asked for together.

    Example:
        >>> values, seed = torch.ones(6, 2, 3), torch.tensor([7])
        >>> whole = drop_steps(values, 0.5, seed, layer=0, first_step=0)
        >>> torch.equal(drop_steps(values[4:], 0.5, seed, layer=0, first_step=4), whole[4:])
        True
    """
    with torch.no_grad():
        mask = torch.empty(values.shape, dtype=values.dtype, device=values.device)
        if isinstance(seed, FakeTensor):  # nothing is computed: the mask has a size and no content
            mask.bernoulli_(1 - rate)
        else:
            generator, number = torch.Generator(values.device), int(seed)
            for offset, step in enumerate(mask):
                generator.manual_seed(_step_seed(number, layer, first_step + offset))
                step.bernoulli_(1 - rate, generator=generator)
        mask /= 1 - rate
    return values * mask


def _step_seed(seed: int, layer: int, step: int) -> int:
    return int(np.random.SeedSequence([seed, layer, step]).generate_state(1, np.uint64)[0] >> np.uint64(1))
