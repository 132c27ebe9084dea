"""What `torch.nn.BatchNorm1d/2d/3d` do to their buffers, and which statistics and affine map one call uses.

A fused Function needs these apart: running statistics moved once, in the forward pass, and the same normalisation
again in the backward pass. Vectors are (C,) in float32, or float64 for float64 data.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm


class Affine(NamedTuple):
    """One norm as seen by one call: z -> z * scale + shift, with scale = weight * inv_std."""

    mean: Tensor
    inv_std: Tensor
    scale: Tensor
    shift: Tensor


def uses_batch_statistics(norm: _BatchNorm) -> bool:
    """Whether this norm normalises with the batch's statistics now (training, or no running ones to use)."""
    return norm.training or (norm.running_mean is None and norm.running_var is None)


def running_statistics(norm: _BatchNorm, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Copies of the running mean and variance, which may move before the backward pass reads them."""
    assert norm.running_mean is not None, "a norm without running statistics uses the batch's"
    assert norm.running_var is not None, "a norm without running statistics uses the batch's"
    return norm.running_mean.to(dtype, copy=True), norm.running_var.to(dtype, copy=True)


def move_running_statistics(norm: _BatchNorm, mean: Tensor, variance: Tensor, count: int | Tensor) -> None:
    """Do once what a norm does to its buffers in one training-mode forward pass.

    Args:
        mean, variance: (C,) of the batch, variance biased.
        count: values per channel, N * H * W; of several processes' joint batch, a tensor of one number.
    """
    if not (norm.training and norm.track_running_stats) or norm.running_mean is None or norm.running_var is None:
        return
    momentum = count_batch(norm)
    if not isinstance(count, Tensor) and count == 0:
        return  # an empty batch is counted, and moves nothing
    if isinstance(count, Tensor):
        unbiased = variance * (count / (count - 1).clamp_min(1)).to(variance.dtype)
    else:
        unbiased = variance * (count / max(count - 1, 1))
    norm.running_mean.mul_(1 - momentum).add_(mean.to(norm.running_mean.dtype), alpha=momentum)
    norm.running_var.mul_(1 - momentum).add_(unbiased.to(norm.running_var.dtype), alpha=momentum)


def count_batch(norm: _BatchNorm) -> float:
    """Count one more batch, if `norm` counts them; the share of it that moves into the running statistics."""
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    if norm.momentum is not None:
        return norm.momentum
    return 0.0 if norm.num_batches_tracked is None else 1.0 / float(norm.num_batches_tracked)


def check_batch_has_a_variance(shape: torch.Size) -> None:
    """Raise what `F.batch_norm` raises when a channel has a single value to take statistics from."""
    if math.prod(shape) == shape[1]:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {shape}")


def affine(mean: Tensor, variance: Tensor, eps: float, weight: Tensor | None, bias: Tensor | None) -> Affine:
    """Collect one norm's vectors; a norm without weight or bias has ones and zeros."""
    inv_std = torch.rsqrt(variance + eps)
    scale = inv_std if weight is None else inv_std * weight.to(inv_std.dtype)
    shift = -mean * scale if bias is None else torch.addcmul(bias.to(mean.dtype), mean, scale, value=-1)
    return Affine(mean, inv_std, scale, shift)
