"""What is kept instead of a tensor: the parts, and a frozen value that knows how to make the tensor from them.

A code is made by one of the functions below and holds no tensor itself, so that the parts can go through
`save_for_backward`. Rounding noise has mean 0; masks, integers and shapes are exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from kernels import checks
from pytorch_models import kernel_ops, packing_ops
from pytorch_models.channels import row
from pytorch_models.compressed import dense
from pytorch_models.kernel_arrays import DenseLike, dense_like, layout_of

GROUP = 256
Parts = tuple[Tensor, ...]


class Code(Protocol):
    """How to make a tensor from its parts."""

    def unpack(self, parts: Parts) -> Tensor:
        """A new tensor of the shape, dtype and layout that was packed."""


@dataclass(frozen=True)
class Kept:
    """A code and its parts.

    Args:
        energy: float32, (rows,): the variance that rounding added to each row's values together.
    """

    code: Code
    parts: Parts
    energy: Tensor | None = None

    def unpack(self) -> Tensor:
        """The tensor."""
        return self.code.unpack(self.parts)

    @property
    def nbytes(self) -> int:
        """Bytes kept."""
        return dense.nbytes(*self.parts)


@dataclass(frozen=True)
class RowCode:
    """Values by the group quantiser: one width for all, or one for every sample."""

    like: DenseLike
    widths: tuple[int, ...]

    def unpack(self, parts: Parts) -> Tensor:
        flat = torch.empty(self.like.shape.numel(), dtype=self.like.dtype, device=parts[0].device)
        codes, minima, steps = parts
        out = flat.view(len(self.widths), -1) if flat.numel() else flat.view(len(self.widths), 0)
        packing_ops.dequantize_rows_(codes, minima, steps, list(self.widths), GROUP, out)
        return self.like.view(flat)

    @property
    def average_bits(self) -> float:
        return sum(self.widths) / len(self.widths)


def pack_values(tensor: Tensor, widths: tuple[int, ...], seed: int) -> Kept:
    """A floating tensor in 1, 2, 4 or 8 bits a value.

    Args:
        widths: one for all values, or one for every sample (first dimension).
    """
    tensor = dense.dense(tensor) if len(widths) == 1 or dense.samples_lie_apart(tensor) else tensor.contiguous()
    values = dense.rows(tensor, len(widths))
    codes, minima, steps, energy = packing_ops.quantize_rows(values, list(widths), GROUP, seed)
    return Kept(RowCode(dense.like(tensor), widths), (codes, minima, steps), energy)


@dataclass(frozen=True)
class AffineCode:
    """Channel by channel, scale * zhat + shift with zhat by another code; the last two parts are scale and shift."""

    inner: RowCode
    dtype: torch.dtype

    def unpack(self, parts: Parts) -> Tensor:
        *inner, scale, shift = parts
        like = self.inner.like
        if self.is_fused(scale.dtype):
            out = like.empty()
            bits = self.inner.widths[0]
            kernel_ops.dequantize_affine_(*inner, bits, GROUP, scale, shift, out)
            return out
        zhat = self.inner.unpack(tuple(inner))
        dims = len(like.shape)
        return torch.addcmul(row(shift, dims), zhat, row(scale, dims)).to(self.dtype)

    def is_fused(self, of_vectors: torch.dtype) -> bool:
        """Whether one kernel does it all."""
        like = self.inner.like
        return len(self.inner.widths) == 1 and self.dtype == like.dtype and _in_kernels(self.dtype, of_vectors, like)


def pack_normalised(tensor: Tensor, mean: Tensor, inv_std: Tensor, widths: tuple[int, ...], seed: int) -> Kept:
    """(N, C, ...) values as zhat = (x - mean) * inv_std in few bits; gives back x.

    Rounding x itself and normalising it in the backward pass would amplify the noise of channels that vary little.

    Args:
        mean, inv_std: (C,), float32.
    """
    deviation = inv_std.reciprocal()
    fast = len(widths) == 1 and tensor.dim() > 2 and layout_of(tensor) is not None
    if fast and _in_kernels(tensor.dtype, mean.dtype, dense_like(tensor)):
        parts = kernel_ops.normalize_quantize(tensor, mean, inv_std, widths[0], GROUP, seed)
        inner = RowCode(dense_like(tensor), widths)
        return Kept(AffineCode(inner, tensor.dtype), (*parts, deviation, mean))
    dims = tensor.dim()
    zhat = torch.addcmul(row(-mean * inv_std, dims), tensor, row(inv_std, dims))
    kept = pack_values(zhat, widths, seed)
    assert isinstance(kept.code, RowCode)
    return Kept(AffineCode(kept.code, tensor.dtype), (*kept.parts, deviation, mean), kept.energy)


def _in_kernels(dtype: torch.dtype, of_vectors: torch.dtype, like: DenseLike) -> bool:
    """Whether the kernels' own pass over (N, C, ...) values can run."""
    return len(like.shape) > 2 and of_vectors == torch.float32 and dtype != torch.float64


@dataclass(frozen=True)
class AsIs:
    """The tensor itself."""

    def unpack(self, parts: Parts) -> Tensor:
        return parts[0]


@dataclass(frozen=True)
class ViewCode:
    """Another view of all values that `inner` gives, whose strides were those of `stride`."""

    inner: Code
    stride: tuple[int, ...]
    view_shape: tuple[int, ...]
    view_stride: tuple[int, ...]

    def unpack(self, parts: Parts) -> Tensor:
        values = self.inner.unpack(parts)
        if values.stride() != self.stride:
            values = torch.empty_strided(values.shape, self.stride, dtype=values.dtype, device=values.device).copy_(
                values
            )
        return values.as_strided(self.view_shape, self.view_stride)


@dataclass(frozen=True)
class NormalisedCode:
    """Channel by channel, scale * zhat + shift with zhat by any code; the last two parts are scale and shift."""

    inner: Code
    dtype: torch.dtype

    def unpack(self, parts: Parts) -> Tensor:
        *inner, scale, shift = parts
        zhat = self.inner.unpack(tuple(inner))
        dims = zhat.dim()
        return torch.addcmul(row(shift, dims), zhat, row(scale, dims)).to(self.dtype)


@dataclass(frozen=True)
class MaskCode:
    """One exact bit a value; gives `on` and `off`."""

    like: DenseLike
    on: float = 1.0
    off: float = 0.0

    def unpack(self, parts: Parts) -> Tensor:
        flags = kernel_ops.unpack_bits(parts[0], self.like.shape.numel())
        if self.like.dtype == torch.bool:
            return self.like.view(flags.view(torch.bool))
        values = flags.to(self.like.dtype)
        if (self.on, self.off) != (1.0, 0.0):
            values = values.mul_(self.on - self.off).add_(self.off)
        return self.like.view(values)


def pack_mask(tensor: Tensor, on: float = 1.0, off: float = 0.0) -> Kept:
    """Whether each value is positive (a bool: true), exactly."""
    tensor = dense.dense(tensor)
    mask = torch.empty(checks.packed_bytes(tensor.numel(), 1), dtype=torch.uint8, device=tensor.device)
    values = dense.rows(tensor).view(-1)
    if tensor.dtype == torch.bool:
        mask = packing_ops.pack_integers(values.view(torch.uint8), 1)
    else:
        kernel_ops.pack_positive_(values, mask)
    return Kept(MaskCode(dense.like(tensor), on, off), (mask,))


@dataclass(frozen=True)
class MaskedCode:
    """mask * value with the value by another code, never clamped again; the last part is the mask."""

    inner: Code
    mask: MaskCode

    def unpack(self, parts: Parts) -> Tensor:
        *inner, mask = parts
        affine = self.inner
        if isinstance(affine, AffineCode) and affine.is_fused(inner[-1].dtype):
            like = affine.inner.like
            if like.memory_order == self.mask.like.memory_order:
                out, bits = like.empty(), affine.inner.widths[0]
                codes, minima, steps, scale, shift = inner
                packing_ops.dequantize_masked_(codes, minima, steps, bits, GROUP, scale, shift, mask, out)
                return out
        return self.inner.unpack(tuple(inner)).mul_(self.mask.unpack((mask,)))


@dataclass(frozen=True)
class IntegerCode:
    """Integers below 2^bits, exactly."""

    like: DenseLike
    bits: int

    def unpack(self, parts: Parts) -> Tensor:
        values = packing_ops.unpack_integers(parts[0], self.bits, self.like.shape.numel())
        return self.like.view(values.to(self.like.dtype))


def pack_indices(tensor: Tensor, below: int) -> Kept | None:
    """Integers in [0, below) in as few bits as hold them; None where that is more than 16."""
    bits = max((below - 1).bit_length(), 1)
    if bits > checks.MAX_WIDTH:
        return None
    tensor = dense.dense(tensor)
    values = dense.rows(tensor).view(-1).to(torch.uint16)
    return Kept(IntegerCode(dense.like(tensor), bits), (packing_ops.pack_integers(values, bits),))


@dataclass(frozen=True)
class ShapeCode:
    """Nothing but the shape, for gradients that read no value of it; gives zeros."""

    like: DenseLike

    def unpack(self, parts: Parts) -> Tensor:
        return self.like.empty().zero_()


def pack_shape(tensor: Tensor) -> Kept:
    """The shape alone."""
    return Kept(ShapeCode(dense.like(dense.dense(tensor))), ())
