"""Codecs at work in PyTorch: the normalised input of a norm in few bits, and where their rounding noise comes from.

Kept is zhat = (z - mean) * inv_std, of unit variance whatever the channel, never z itself: rounding z and normalising
it in the backward pass would amplify the noise of channels with a small deviation (measured: the gradient's cosine
falls from 0.98 to below 0 at 2 bits).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from kernels.codecs import Codec, FixedPoint, GroupQuantizer, Half
from pytorch_models import kernel_ops
from pytorch_models.channels import row, statistics_dtype
from pytorch_models.kernel_arrays import dense_like, layout_of
from zoo.policy import MemoryPolicy

_MASK_64 = 2**64 - 1
_GOLDEN = 0x9E3779B97F4A7C15


@dataclass
class NoiseSeeds:
    """Seeds of the rounding noise of one model, a new one at every call, without touching a random stream.

    They follow from the last seed given to `torch.manual_seed` and the number of calls since, so that a run that seeds
    every step, as `pytorch_models.train` does, rounds alike when it is resumed.

    Example:
        >>> seeds = NoiseSeeds()
        >>> seeds.next() == seeds.next()
        False
    """

    _seeded: int | None = field(default=None, repr=False)
    _calls: int = field(default=0, repr=False)

    def next(self) -> int:
        """A seed in [0, 2^63)."""
        seeded = torch.initial_seed()
        if seeded != self._seeded:
            self._seeded, self._calls = seeded, 0
        self._calls += 1
        return _mixed(seeded * _GOLDEN + self._calls) >> 1

    def state_dict(self) -> dict[str, Any]:
        """Where the sequence stands, for a checkpoint."""
        return {"seeded": self._seeded, "calls": self._calls}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on as the sequence that `state_dict` was taken of would."""
        self._seeded, self._calls = state["seeded"], state["calls"]


def derived_seed(seed: int, index: int) -> int:
    """The index-th of independent seeds that follow from one."""
    return _mixed(seed + (index + 1) * _GOLDEN) >> 1


def _mixed(number: int) -> int:
    """splitmix64's finaliser (Steele et al. 2014): every bit of the result depends on every bit of the number."""
    number = (number ^ (number >> 30)) * 0xBF58476D1CE4E5B9 & _MASK_64
    number = (number ^ (number >> 27)) * 0x94D049BB133111EB & _MASK_64
    return number ^ (number >> 31)


@dataclass(frozen=True)
class NormCodec:
    """Keeps the normalised input of a norm by a codec; gives back the input, with rounding noise of mean 0.

    Args:
        codec: GroupQuantizer, FixedPoint or Half.
    """

    codec: Codec

    @classmethod
    def of(cls, policy: MemoryPolicy) -> NormCodec | None:
        """What a policy asks for; None where it compresses nothing."""
        codec = policy.codec
        return None if codec is None else cls(codec)

    def encode(self, values: Tensor, mean: Tensor, inv_std: Tensor, seed: int) -> tuple[Tensor, ...]:
        """Code zhat of (N, C, ...) values; the tensors to keep, in an order that only depends on the codec."""
        if isinstance(self.codec, GroupQuantizer):
            if layout_of(values) is None:
                values = values.contiguous()
            return kernel_ops.normalize_quantize(values, mean, inv_std, self.codec.bits, self.codec.group, seed)
        zhat = torch.mul(values - row(mean, values.dim()), row(inv_std, values.dim()))
        if isinstance(self.codec, Half):
            return (zhat.to(getattr(torch, self.codec.kept)),)
        assert isinstance(self.codec, FixedPoint), "checked by zoo.policy"
        zhat = _flat(zhat)
        top = zhat.abs().amax() if zhat.numel() else zhat.new_ones(())  # a batch may be empty
        step = (top / (2 ** (self.codec.bits - 1) - 1)).float().view(1)
        return kernel_ops.quantize_fixed(zhat, step, self.codec.bits, seed), step

    def decode_into(self, out: Tensor, parts: tuple[Tensor, ...], mean: Tensor, inv_std: Tensor) -> Tensor:
        """out = mean + zhat / inv_std; `out` has the shape and layout that the values had."""
        deviation = inv_std.reciprocal()
        if isinstance(self.codec, GroupQuantizer):
            codes, minima, steps = parts
            bits, group = self.codec.bits, self.codec.group
            kernel_ops.dequantize_affine_(codes, minima, steps, bits, group, deviation, mean, out)
            return out
        if isinstance(self.codec, Half):
            zhat = parts[0].to(statistics_dtype(out.dtype))
        else:
            assert isinstance(self.codec, FixedPoint), "checked by zoo.policy"
            flat = torch.empty(out.numel(), dtype=statistics_dtype(out.dtype), device=out.device)
            kernel_ops.dequantize_fixed_(*parts, self.codec.bits, flat)
            zhat = dense_like(out).view(flat)
        return out.copy_(torch.addcmul(row(mean, out.dim()), zhat, row(deviation, out.dim())))

    def nbytes(self, count: int) -> int:
        """Bytes that `count` values take."""
        return self.codec.nbytes(count)


def _flat(dense: Tensor) -> Tensor:
    """The elements of a dense tensor in the order of memory."""
    return dense.as_strided((dense.numel(),), (1,))
