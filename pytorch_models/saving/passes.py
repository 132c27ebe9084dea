"""The elementwise passes of a norm and its activation: statistics, affine map, and the gradient through both.

All tensors are (N, C, H, W). Forward and backward pass rebuild an activation by the same function, so that they agree
on every activation's sign; where the values come from codes instead, exact masks say which activations were positive.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pytorch_models import kernel_ops
from pytorch_models.channels import row, statistics_dtype
from pytorch_models.kernel_arrays import TORCH, norm_path
from pytorch_models.saving.activation import RELU, Activation, negative_part
from pytorch_models.saving.norm import Affine
from pytorch_models.saving.sync import join_sums
from pytorch_models.saving.tiles import tiles

_ROWS_PER_SUM = 32


def exact_path(*tensors: Tensor) -> str:
    """As `norm_path`, for passes that PyTorch has operators for: on a CPU it runs them.

    numba's threads and PyTorch's take turns on the same cores, which costs more than fused passes gain: a step of
    DenseNet-BC-100 at batch 16 took 0.35 s with them and 0.23 s without, on 2 cores.
    """
    return TORCH if tensors[0].device.type == "cpu" else norm_path(*tensors)


def channel_sums(values: Tensor) -> Tensor:
    """Sums over (N, H, W) in float64: 32 rows at a time in the values' own precision, those sums in float64."""
    rows = values.permute(0, 2, 3, 1).flatten(0, 2)
    whole = len(rows) // _ROWS_PER_SUM * _ROWS_PER_SUM
    partial = rows[:whole].unflatten(0, (-1, _ROWS_PER_SUM)).sum(1, dtype=statistics_dtype(values.dtype))
    return partial.sum(0, dtype=torch.float64) + rows[whole:].sum(0, dtype=torch.float64)


def batch_statistics(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance over (N, H, W), (C,) each; no cancellation when |mean| is large."""
    if values.numel() and exact_path(values) != TORCH:
        mean, variance = kernel_ops.channel_statistics(values)
        return mean, variance
    dtype = statistics_dtype(values.dtype)
    count = max(values.numel() // values.shape[1], 1)
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


class TileMasks:
    """One bit for every activation of a batch, tile after tile, each from a byte of its own.

    Args:
        shape: (N, C, H, W) of the activations; their tiles are those of `tiles`.
        dtype, device: of the values that tiles are made of.
        bits: what an earlier one kept; None = not written yet.
    """

    def __init__(self, shape: torch.Size, dtype: torch.dtype, device: torch.device, bits: Tensor | None = None) -> None:
        slices = tiles(shape, dtype, device)
        self._sample = shape[1:].numel()
        self._samples, self._tile_bytes = max(slices[0].stop, 1), self._bytes(slices[0])  # a batch may be empty
        if bits is None:
            size = sum(self._bytes(tile) for tile in slices)
            bits = torch.empty(size, dtype=torch.uint8, device=device)
        self.bits = bits

    def _bytes(self, tile: slice) -> int:
        return ((tile.stop - tile.start) * self._sample + 7) // 8

    def of(self, tile: slice) -> Tensor:
        """The packed mask of one tile."""
        start = tile.start // self._samples * self._tile_bytes
        return self.bits[start : start + self._bytes(tile)]


def normalise_into(out: Tensor, values: Tensor, norm: Affine) -> Tensor:
    """out = values * scale + shift; `out` may be `values`."""
    return torch.addcmul(row(norm.shift), values, row(norm.scale), out=out)


def activate_into(
    out: Tensor,
    values: Tensor,
    norm: Affine,
    activation: Activation = RELU,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """out = activation(values * scale + shift); `out` may be `values`.

    Where `mask` is given, which outputs are positive is written there.
    """
    if activation == RELU and exact_path(values, out) != TORCH:
        kernel_ops.affine_relu_(values, norm.scale, norm.shift, out, mask)
        return out
    activation.apply_(normalise_into(out, values, norm), weight)
    if mask is not None:
        mask_positive(out, mask)
    return out


def mask_positive(dense: Tensor, mask: Tensor) -> None:
    """Write into `mask` which elements of a tensor without gaps are positive, in the order of memory."""
    kernel_ops.pack_positive_(_in_memory_order(dense), mask)


def rebuild_into(out: Tensor, values: Tensor, norm: Affine, mask: Tensor) -> Tensor:
    """out = values * scale + shift where the mask is 1, else 0: values that come from codes are never clamped again."""
    if norm_path(values, out) != TORCH:
        kernel_ops.rebuild_relu_(values, norm.scale, norm.shift, mask, out)
        return out
    return select_(normalise_into(out, values, norm), mask)


def select_(dense: Tensor, mask: Tensor) -> Tensor:
    """Set to 0 in place, in a tensor without gaps, what a mask (in the order of memory) leaves out."""
    flat = _in_memory_order(dense)
    flat.masked_fill_(kernel_ops.unpack_bits(mask, flat.numel()).view(torch.bool).logical_not_(), 0)
    return dense


def _in_memory_order(dense: Tensor) -> Tensor:
    return dense.as_strided((dense.numel(),), (1,))


def subtract_terms(gradient: Tensor, values: Tensor, mean: Tensor, constant: Tensor, slope: Tensor) -> None:
    """gradient -= constant + (values - mean) * slope, in place."""
    if exact_path(values, gradient) != TORCH:
        kernel_ops.subtract_norm_terms_(gradient, values, mean, constant, slope)
        return
    offset = torch.addcmul(constant, mean, slope, value=-1)
    gradient.addcmul_(values, row(slope), value=-1).sub_(row(offset))


def finish_into(
    out: Tensor, masked: Tensor, values: Tensor, norm: Affine, terms: tuple[Tensor, Tensor] | None
) -> Tensor:
    """out = the gradient of a norm's input, from that of its output, `masked`, and `NormGradient.corrections`.

    `terms` is None for a norm that does not use the batch's statistics.
    """
    if terms is None:
        return torch.mul(masked, row(norm.scale), out=out)
    constant, slope = terms
    offset = torch.addcmul(constant, norm.mean, slope, value=-1)
    if out.dtype == norm.scale.dtype:
        return torch.addcmul(row(-offset), masked, row(norm.scale), out=out).addcmul_(values, row(slope), value=-1)
    return out.copy_(torch.addcmul(row(-offset), masked, row(norm.scale)).addcmul_(values, row(slope), value=-1))


class NormGradient:
    """Carries gradients through activation and norm, tile by tile, and sums the parameters' gradients.

    With batch statistics dz = scale * (d - mean(d) - zhat * mean(d * zhat)): the first term needs one tile, the other
    two need sums over all tiles, and are linear in z: `corrections` gives them as A + (z - mean) * B.
    """

    def __init__(self, norm: Affine, activation: Activation = RELU, weight: Tensor | None = None) -> None:
        self.norm, self.activation, self.weight = norm, activation, weight
        self._d_bias = torch.zeros_like(norm.mean, dtype=torch.float64)
        self._d_weight = torch.zeros_like(self._d_bias)
        self._d_slopes = torch.zeros_like(self._d_bias)

    @property
    def d_bias(self) -> Tensor:
        """(C,), in the dtype of the statistics."""
        return self._d_bias.to(self.norm.mean.dtype)

    @property
    def d_weight(self) -> Tensor:
        """(C,), in the dtype of the statistics."""
        return self._d_weight.to(self.norm.mean.dtype)

    @property
    def d_activation_weight(self) -> Tensor | None:
        """Of a PReLU's weight, in its shape; None for other activations."""
        if self.weight is None:
            return None
        return self._d_slopes if self.weight.numel() > 1 else self._d_slopes.sum(0, keepdim=True)

    def mask_into(
        self,
        out: Tensor,
        gradient: Tensor,
        activation: Tensor,
        values: Tensor,
        *,
        scratch: Tensor,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Take in one tile; out = the gradient of the norm's output.

        Args:
            out: may be `gradient`.
            gradient: of the activation.
            activation: the activation's output, kept or rebuilt; its input where `Activation.by_output` is False.
            values: the norm's input.
            scratch: of the activation's size; may be overwritten, may be the activation.
            mask: where the activation was positive, if the values come from codes.
        """
        norm = self.norm
        if self.weight is not None:
            self._d_slopes += channel_sums(negative_part(gradient, activation))
        if mask is not None:
            masked = select_(out if out is gradient else out.copy_(gradient), mask)
        else:
            masked = self.activation.gradient_into(out, gradient, activation, self.weight)
        self._d_bias += channel_sums(masked)
        if scratch.dtype == norm.mean.dtype:
            centred = torch.sub(values, row(norm.mean), out=scratch)
        else:
            centred = values - row(norm.mean)
        self._d_weight += channel_sums(centred.mul_(masked)) * norm.inv_std
        return masked

    def add(
        self,
        gradient: Tensor,
        activation: Tensor,
        values: Tensor,
        target: Tensor | None,
        *,
        scratch: Tensor,
        accumulate: bool = False,
        mask: Tensor | None = None,
    ) -> None:
        """Take in one tile as `mask_into` does, overwriting `gradient`.

        scale * (gradient of the norm's output) is written or, with `accumulate`, added to `target`; None = nowhere.
        """
        into = gradient if target is None else target
        # Without a mask as `activate_into` chose, so that both agree on the signs of activations.
        path = exact_path if mask is None else norm_path
        if self.activation == RELU and path(values, gradient, into, activation) != TORCH:
            d_bias, d_weight = kernel_ops.norm_backward_(
                gradient, values, *self.norm, mask, into, accumulate and target is not None
            )
            self._d_bias += d_bias
            self._d_weight += d_weight
            return
        masked = self.mask_into(gradient, gradient, activation, values, scratch=scratch, mask=mask)
        if target is not None and accumulate:
            target.addcmul_(masked, row(self.norm.scale))
        elif target is not None:
            torch.mul(masked, row(self.norm.scale), out=target)

    def corrections(self, count: int | Tensor, group: Any = None) -> tuple[Tensor, Tensor]:
        """(A, B) of the class docstring, for batch statistics over `count` values per channel.

        With `group` the statistics are of the joint batch of its processes, each of which must call this.
        """
        d_bias, d_weight = (
            total.to(self.norm.mean.dtype) for total in join_sums((self._d_bias, self._d_weight), group)
        )
        per_value = self.norm.scale / count
        return per_value * d_bias, per_value * d_weight * self.norm.inv_std
