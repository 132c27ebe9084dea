"""Batch statistics of several processes' joint batch, on any device and backend: what `nn.SyncBatchNorm` takes.

PyTorch's own runs on GPUs alone; these reductions are a few numbers a channel and work wherever its collectives do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.modules.batchnorm import _BatchNorm


def group_of(norm: _BatchNorm) -> Any:
    """The processes whose joint batch this norm normalises with now; None for this process alone."""
    if not isinstance(norm, nn.SyncBatchNorm) or not norm.training:
        return None
    if not (dist.is_available() and dist.is_initialized()):
        return None
    group = norm.process_group or dist.group.WORLD
    return group if dist.get_world_size(group) > 1 else None


def join_statistics(mean: Tensor, variance: Tensor, count: int, group: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and biased variance of the joint batch, and its values per channel (float64, one number).

    Args:
        mean, variance: (C,) of this process's own batch.
        count: its values per channel, may be 0.
        group: every process of it must call this.
    """
    own = torch.cat([mean.double(), variance.double(), mean.new_full((1,), count, dtype=torch.float64)])
    all_of_them = [torch.empty_like(own) for _ in range(dist.get_world_size(group))]
    dist.all_gather(all_of_them, own, group=group)
    stacked = torch.stack(all_of_them)
    means, variances, counts = stacked[:, : len(mean)], stacked[:, len(mean) : -1], stacked[:, -1:]
    total = counts.sum()
    joint_mean = (counts * means).sum(0) / total
    # Each process's variance is about its own mean; the second term moves it to the joint one.
    joint_variance = (counts * (variances + (means - joint_mean).square())).sum(0) / total
    return joint_mean.to(mean.dtype), joint_variance.to(variance.dtype), total


def join_sums(sums: Sequence[Tensor], group: Any) -> Sequence[Tensor]:
    """Sums over all processes of vectors of one length; the vectors themselves for None."""
    if group is None:
        return sums
    joint = torch.stack(list(sums))
    dist.all_reduce(joint, group=group)
    return list(joint)
