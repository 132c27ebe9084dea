"""The statistics one call of a norm uses, and its running ones moved: the step every fused Function begins with."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from pytorch_models.channels import statistics_dtype
from pytorch_models.saving.norm import (
    check_batch_has_a_variance,
    move_running_statistics,
    running_statistics,
)
from pytorch_models.saving.passes import batch_statistics
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
