"""The elementwise passes of a norm and its ReLU: statistics, affine map, and the gradient through both.

All tensors are (N, C, H, W). Forward and backward pass rebuild an activation by the same function, so that they agree
on every activation's sign.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pytorch_models.saving.norm import Affine, row, statistics_dtype
from pytorch_models.saving.tiles import tiles

_ROWS_PER_SUM = 32


def channel_sums(values: Tensor) -> Tensor:
    """Sums over (N, H, W) in float64: 32 rows at a time in the values' own precision, those sums in float64."""
    rows = values.permute(0, 2, 3, 1).flatten(0, 2)
    whole = len(rows) // _ROWS_PER_SUM * _ROWS_PER_SUM
    partial = rows[:whole].unflatten(0, (-1, _ROWS_PER_SUM)).sum(1, dtype=statistics_dtype(values.dtype))
    return partial.sum(0, dtype=torch.float64) + rows[whole:].sum(0, dtype=torch.float64)


def batch_statistics(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance over (N, H, W), (C,) each; no cancellation when |mean| is large."""
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


def activate_into(out: Tensor, values: Tensor, norm: Affine) -> Tensor:
    """out = relu(values * scale + shift)."""
    return torch.addcmul(row(norm.shift), values, row(norm.scale), out=out).relu_()


def subtract_terms(gradient: Tensor, values: Tensor, mean: Tensor, constant: Tensor, slope: Tensor) -> None:
    """gradient -= constant + (values - mean) * slope, in place."""
    offset = torch.addcmul(constant, mean, slope, value=-1)
    gradient.addcmul_(values, row(slope), value=-1).sub_(row(offset))


class NormGradient:
    """Carries gradients through ReLU and norm, tile by tile, and sums the norm's parameter gradients.

    With batch statistics dz = scale * (d - mean(d) - zhat * mean(d * zhat)): the first term needs one tile, the other
    two need sums over all tiles, and are linear in z: `corrections` gives them as A + (z - mean) * B.
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
        return self._d_weight.to(self.norm.mean.dtype)

    def add(
        self,
        gradient: Tensor,
        activation: Tensor,
        values: Tensor,
        target: Tensor | None,
        *,
        scratch: Tensor,
        accumulate: bool = False,
    ) -> None:
        """Take in one tile.

        Args:
            gradient: of the activation; it is overwritten.
            activation: relu(norm(values)), kept or rebuilt.
            values: the norm's input.
            target: scale * (gradient through the ReLU) is written or, with `accumulate`, added here; None = nowhere.
            scratch: of the activation's size; may be overwritten, may be the activation.
        """
        norm = self.norm
        masked = torch.ops.aten.threshold_backward.grad_input(gradient, activation, 0, grad_input=gradient)
        self._d_bias += channel_sums(masked)
        if scratch.dtype == norm.mean.dtype:
            centred = torch.sub(values, row(norm.mean), out=scratch)
        else:
            centred = values - row(norm.mean)
        self._d_weight += channel_sums(centred.mul_(masked)) * norm.inv_std
        if target is not None and accumulate:
            target.addcmul_(masked, row(norm.scale))
        elif target is not None:
            torch.mul(masked, row(norm.scale), out=target)

    def corrections(self, count: int) -> tuple[Tensor, Tensor]:
        """(A, B) of the class docstring, for batch statistics over `count` values per channel."""
        per_value = self.norm.scale / count
        return per_value * self.d_bias, per_value * self.d_weight * self.norm.inv_std
