"""Widths in fixed point that keep a rounding step below a bound: AC-GC's published rule, and the unbiased one."""

from __future__ import annotations

import torch
from torch import Tensor


def published_widths(square: Tensor, top: Tensor, signed: bool) -> Tensor:
    """f = trunc(-log2(dx^2) / 2 + log2(max|x|) - 1), clipped to 1..15; f + 1 bits a value, f + 2 with a sign.

    The published tables count f + 1 for both.

    Args:
        square: dx^2, one number or (C,).
        top: max|x| of each channel, (C,).

    Example:
        >>> published_widths(torch.tensor(2.0**-8), torch.tensor([1.0, 4.0]), signed=True).tolist()
        [5, 7]
    """
    places = torch.trunc(-torch.log2(square) / 2 + torch.log2(top.clamp_min(1e-30)) - 1)
    return places.nan_to_num(15.0, 15.0, 1.0).clamp(1, 15).int() + (2 if signed else 1)


def widths_for_step(step: Tensor, top: Tensor, signed: bool) -> Tensor:
    """The fewest bits whose step, max|x| over the largest code, is at most `step`.

    Example:
        >>> widths_for_step(torch.tensor(0.5), torch.tensor([0.4, 3.5, 4.0]), signed=False).tolist()
        [1, 3, 4]
    """
    needed = torch.ceil(torch.log2(top / step.clamp_min(1e-30) + 1) - 1e-6)
    return needed.nan_to_num(16.0, 16.0, 1.0).clamp(1, 16).int() + (1 if signed else 0)
