"""Batch normalisation taken apart: statistics, running statistics, affine map and its gradient, tile by tile.

A fused Function needs the pieces of `torch.nn.BatchNorm2d` separately: statistics once per channel, running
statistics moved once in the forward pass, and the same normalisation again in the backward pass.
All tensors here are (N, C, H, W) in channels_last; vectors are (C,) in float32, or float64 for float64 data.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from pytorch_models.saving.tiles import tiles

_ROWS_PER_SUM = 32


class Affine(NamedTuple):
    """One norm as seen by one call: z -> (z - mean) * scale + bias, with scale = weight * inv_std."""

    mean: Tensor
    inv_std: Tensor
    scale: Tensor
    bias: Tensor


def statistics_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype statistics and their gradients are computed in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def row(vector: Tensor) -> Tensor:
    """(C,) -> (1, C, 1, 1)."""
    return vector.view(1, -1, 1, 1)


def uses_batch_statistics(norm: nn.BatchNorm2d) -> bool:
    """Whether this norm normalises with the batch's statistics now (training, or no running ones to use)."""
    return norm.training or (norm.running_mean is None and norm.running_var is None)


def channel_sums(values: Tensor) -> Tensor:
    """Sums over (N, H, W) in float64: 32 rows at a time in the values' own precision, those sums in float64."""
    rows = values.permute(0, 2, 3, 1).flatten(0, 2)
    whole = len(rows) // _ROWS_PER_SUM * _ROWS_PER_SUM
    partial = rows[:whole].unflatten(0, (-1, _ROWS_PER_SUM)).sum(1, dtype=statistics_dtype(values.dtype))
    return partial.sum(0, dtype=torch.float64) + rows[whole:].sum(0, dtype=torch.float64)


def batch_statistics(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance over (N, H, W), by two passes: no cancellation when |mean| is large."""
    dtype = statistics_dtype(values.dtype)
    count = values.numel() // values.shape[1]
    slices = tiles(values.shape, dtype, values.device)
    total = torch.zeros(values.shape[1], dtype=torch.float64, device=values.device)
    for tile in slices:
        total += channel_sums(values[tile])
    mean = (total / count).to(dtype)
    squares = torch.zeros_like(total)
    for tile in slices:
        centred = values[tile] - row(mean)
        squares += channel_sums(centred.mul_(centred))
    return mean, (squares / count).to(dtype)


def running_statistics(norm: nn.BatchNorm2d, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Copies of the running mean and variance, which may move before the backward pass reads them."""
    assert norm.running_mean is not None, "a norm without running statistics uses the batch's"
    assert norm.running_var is not None, "a norm without running statistics uses the batch's"
    return norm.running_mean.to(dtype, copy=True), norm.running_var.to(dtype, copy=True)


def move_running_statistics(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor, count: int) -> None:
    """Do once what `nn.BatchNorm2d` does to its buffers in one training-mode forward pass.

    Args:
        mean, variance: (C,) of the batch, variance biased.
        count: values per channel, N * H * W.
    """
    if not (norm.training and norm.track_running_stats) or norm.running_mean is None or norm.running_var is None:
        return
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    momentum = norm.momentum
    if momentum is None:
        momentum = 1.0 / float(norm.num_batches_tracked)  # type: ignore[arg-type]
    unbiased = variance * (count / (count - 1))
    norm.running_mean.mul_(1 - momentum).add_(mean.to(norm.running_mean.dtype), alpha=momentum)
    norm.running_var.mul_(1 - momentum).add_(unbiased.to(norm.running_var.dtype), alpha=momentum)


def check_batch_has_a_variance(shape: torch.Size) -> None:
    """Raise what `F.batch_norm` raises when a channel has a single value to take statistics from."""
    if shape[0] * shape[2] * shape[3] <= 1:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {shape}")


def affine(mean: Tensor, variance: Tensor, eps: float, weight: Tensor | None, bias: Tensor | None) -> Affine:
    """Collect one norm's vectors; a norm without weight or bias has ones and zeros."""
    inv_std = torch.rsqrt(variance + eps)
    scale = inv_std if weight is None else inv_std * weight.to(inv_std.dtype)
    return Affine(mean, inv_std, scale, torch.zeros_like(mean) if bias is None else bias.to(mean.dtype))


def normalise_into(out: Tensor, values: Tensor, norm: Affine) -> Tensor:
    """out = (values - mean) * scale + bias, as one multiply-add per element."""
    shift = torch.addcmul(norm.bias, norm.mean, norm.scale, value=-1)
    return torch.addcmul(row(shift), values, row(norm.scale), out=out)


class NormGradient:
    """Sums a norm's parameter gradients over tiles and keeps what its input's gradient still lacks.

    With batch statistics dz = scale * (dy - mean(dy) - zhat * mean(dy * zhat)): the first term needs one tile,
    the other two need sums over all tiles, and are linear in z: `corrections` gives them as A + (z - mean) * B.
    """

    def __init__(self, norm: Affine) -> None:
        self.norm = norm
        self._d_bias = torch.zeros_like(norm.mean, dtype=torch.float64)
        self._d_weight = torch.zeros_like(self._d_bias)

    @property
    def d_bias(self) -> Tensor:
        """(C,), in the dtype of the statistics."""
        return self._d_bias.to(self.norm.mean.dtype)

    @property
    def d_weight(self) -> Tensor:
        """(C,), in the dtype of the statistics."""
        return (self._d_weight * self.norm.inv_std).to(self.norm.mean.dtype)

    def add(self, gradient: Tensor, values: Tensor, scratch: Tensor) -> None:
        """Take in one tile: the gradient of the norm's output, and the norm's input; `scratch` may be overwritten."""
        self._d_bias += channel_sums(gradient)
        if scratch.dtype == self.norm.mean.dtype:
            centred = torch.sub(values, row(self.norm.mean), out=scratch)
        else:
            centred = values - row(self.norm.mean)
        self._d_weight += channel_sums(centred.mul_(gradient))

    def corrections(self, count: int) -> tuple[Tensor, Tensor]:
        """(A, B) of the class docstring, for batch statistics over `count` values per channel."""
        per_value = self.norm.scale / count
        return per_value * self.d_bias, per_value * self.d_weight * self.norm.inv_std


def subtract_corrections(gradient: Tensor, values: Tensor, mean: Tensor, constant: Tensor, slope: Tensor) -> None:
    """gradient -= constant + (values - mean) * slope, in place."""
    offset = torch.addcmul(constant, mean, slope, value=-1)
    gradient.addcmul_(values, row(slope), value=-1).sub_(row(offset))
