"""Vectors of one number a channel, beside (N, C, ...) tensors: their dtype, and how they broadcast."""

from __future__ import annotations

import torch
from torch import Tensor


def statistics_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype statistics and their gradients are computed in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def row(vector: Tensor, dimensions: int = 4) -> Tensor:
    """(C,) -> (1, C, 1, 1), or as many dimensions."""
    return vector.view(1, -1, *(1,) * (dimensions - 2))
