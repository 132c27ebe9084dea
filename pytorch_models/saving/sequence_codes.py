"""Values of time steps in few bits, as they are: a recurrence has no norm whose statistics could scale them.

A gradient stays unbiased if every coded value enters it linearly, and those that multiply one another were rounded with
independent noise: the caller gives every tensor a seed of its own.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.codecs import Codec, FixedPoint, GroupQuantizer, Half
from pytorch_models import kernel_ops
from pytorch_models.channels import statistics_dtype

Parts = tuple[Tensor, ...]
# Forget gates multiply one another from step to step: at 2 bits their noise would grow like a power of the steps.
FEWEST_BITS_OF_FORGET_GATES = 8


@dataclass(frozen=True)
class SequenceCodec:
    """Keeps tensors (K, ..., C), K of them alike stacked, by a codec; the mean over seeds of what comes back is exact.

    Args:
        codec: GroupQuantizer or FixedPoint; Half rounds to nearest instead, the same for every seed.

    Example:
        >>> codec, values = SequenceCodec(GroupQuantizer(8)), torch.rand(2, 30, 4, 16)
        >>> parts = codec.encode(values, seed=1)
        >>> float((codec.decode(parts, values.shape, values.dtype) - values).abs().max()) < 1 / 255 * 1.01
        True
    """

    codec: Codec

    @property
    def of_forget_gates(self) -> SequenceCodec:
        """The same with at least 8 bits a value."""
        if isinstance(self.codec, GroupQuantizer | FixedPoint):
            bits = max(self.codec.bits, FEWEST_BITS_OF_FORGET_GATES)
            return SequenceCodec(dataclasses.replace(self.codec, bits=bits))
        return self

    def encode(self, values: Tensor, seed: int) -> Parts:
        """The tensors to keep of contiguous values, in an order that only depends on codec and shape."""
        if isinstance(self.codec, GroupQuantizer):
            rows = values.contiguous().flatten(0, -2)
            zeros, ones = _zeros_and_ones(rows)
            return kernel_ops.normalize_quantize(rows, zeros, ones, self.codec.bits, self.codec.group, seed)
        if isinstance(self.codec, Half):
            return (values.to(getattr(torch, self.codec.kept)),)
        assert isinstance(self.codec, FixedPoint), "checked by zoo.policy"
        kept: list[Tensor] = []
        for index, one in enumerate(values):
            flat = one.reshape(-1)
            largest = flat.abs().amax() if flat.numel() else flat.sum()
            step = (largest / (2 ** (self.codec.bits - 1) - 1)).float().view(1)
            # In 64 bits, far from any other seed: one for each of the stacked tensors.
            kept += kernel_ops.quantize_fixed(flat, step, self.codec.bits, seed ^ index << 40), step
        return tuple(kept)

    def decode(self, parts: Parts, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """Values of the shape that was encoded, in float32 or wider."""
        out = torch.empty(shape, dtype=statistics_dtype(dtype), device=parts[0].device)
        if isinstance(self.codec, GroupQuantizer):
            rows = out.flatten(0, -2)
            zeros, ones = _zeros_and_ones(rows)
            kernel_ops.dequantize_affine_(*parts, self.codec.bits, self.codec.group, ones, zeros, rows)
        elif isinstance(self.codec, Half):
            out.copy_(parts[0])
        else:
            assert isinstance(self.codec, FixedPoint), "checked by zoo.policy"
            for one, codes, step in zip(out, parts[::2], parts[1::2], strict=True):
                kernel_ops.dequantize_fixed_(codes, step, self.codec.bits, one.view(-1))
        return out

    def nbytes(self, count: int) -> int:
        """Bytes that `count` values take."""
        return self.codec.nbytes(count)


def _zeros_and_ones(rows: Tensor) -> tuple[Tensor, Tensor]:
    dtype = statistics_dtype(rows.dtype)
    zeros = torch.zeros(rows.shape[1], dtype=dtype, device=rows.device)
    return zeros, zeros + 1
