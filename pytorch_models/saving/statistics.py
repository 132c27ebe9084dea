"""The statistics one call of a norm uses, and its running ones moved: the step every fused Function begins with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from pytorch_models.channels import statistics_dtype
from pytorch_models.saving.norm import (
    affine,
    check_batch_has_a_variance,
    count_batch,
    move_running_statistics,
    running_statistics,
    uses_batch_statistics,
)
from pytorch_models.saving.passes import batch_statistics, normalise_into
from pytorch_models.saving.sync import join_statistics
from pytorch_models.saving.tiles import as_images

Statistics = tuple[Tensor, Tensor, Tensor | None]  # mean, variance, values per channel of a joint batch


def take_statistics(norm: _BatchNorm, of_batch: bool, group: Any, values: Tensor, *, moves: bool = True) -> Statistics:
    """Mean and biased variance, (C,), that `norm` normalises `values` with; its running statistics move once.

    Args:
        of_batch: of this batch, else the running ones (copies: they may move before the backward pass).
        group: the processes whose joint batch it is, or None.
        values: (N, C, ...).
        moves: False where the norm itself runs as well, and moves them.

    Raises:
        ValueError: a single value per channel.
    """
    if not of_batch:
        return (*running_statistics(norm, statistics_dtype(values.dtype)), None)
    if group is None:
        check_batch_has_a_variance(values.shape)
    mean, variance = batch_statistics(as_images(values))
    count, joint = values.numel() // values.shape[1], None
    if group is not None:
        mean, variance, joint = join_statistics(mean, variance, count, group)
    if moves:
        move_running_statistics(norm, mean, variance, count if joint is None else joint)
    return mean, variance, joint


def normalise_as_module(
    norm: _BatchNorm, group: Any, values: Tensor, weight: Tensor | None, bias: Tensor | None
) -> tuple[Tensor, Statistics]:
    """What `norm` itself returns, to the bit, and the statistics that it used; its running ones move once.

    Of several processes' joint batch to rounding: there PyTorch's own runs on GPUs alone.

    Args:
        group, values: as for `take_statistics`.
        weight, bias: the norm's.
    """
    of_batch = uses_batch_statistics(norm)
    if group is not None:
        statistics = take_statistics(norm, of_batch, group, values)
        used = affine(statistics[0], statistics[1], norm.eps, weight, bias)
        outputs = torch.empty_like(values)
        normalise_into(as_images(outputs), as_images(values), used)
        return outputs, statistics
    if of_batch:
        check_batch_has_a_variance(values.shape)
    moves = norm.training and norm.track_running_stats and norm.running_mean is not None
    momentum = count_batch(norm) if moves else 0.0
    running = (norm.running_mean, norm.running_var) if moves or not norm.training else (None, None)
    if not of_batch:
        statistics = take_statistics(norm, False, None, values)
    cudnn = torch.backends.cudnn.enabled
    outputs, mean, inv_std, *_ = torch._batch_norm_impl_index(
        values, weight, bias, *running, of_batch, momentum, norm.eps, cudnn
    )
    if of_batch:
        exact = mean.dtype == statistics_dtype(values.dtype)
        variance = inv_std.square().reciprocal_().sub_(norm.eps) if exact else None
        statistics = (mean, variance, None) if variance is not None else (*batch_statistics(as_images(values)), None)
    return outputs, statistics
