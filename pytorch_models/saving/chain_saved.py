"""What a chain of units keeps for its backward pass, in the flat form `save_for_backward` takes."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from pytorch_models.channels import statistics_dtype
from pytorch_models.compression import NormCodec
from pytorch_models.kernel_arrays import DenseLike, dense_like, layout_of
from pytorch_models.saving.keeping import InputKeeping
from pytorch_models.saving.own import mark_own
from pytorch_models.saving.statistics import Statistics


class CodedValues(NamedTuple):
    """A unit's input in codes.

    Args:
        like: its shape and layout.
        parts: what the codec made of it; none where only its shape is needed.
        bits: the mask of the unit's activation, or None.
        block: a `compressed.block_bits.BlockCodes` that decodes the parts; None = the chain's codec does.
    """

    like: DenseLike
    parts: tuple[Tensor, ...]
    bits: Tensor | None
    block: Any = None


class SharedCodes:
    """Codes of what enters a block, made when the first of its readers asks, and kept once for all of them.

    A residual sum is read by the next block's first convolution and by its shortcut's; only gradients of their weights
    need it, in which it stands alone, so that one rounding serves both.

    Args:
        values: (N, C, ...).
        seed: of the rounding.
        bits: of the block, where they differ by block and sample.
    """

    def __init__(self, values: Tensor, codec: NormCodec, seed: int, bits: Any = None) -> None:
        self.codec, self.seed, self.bits = codec, seed, bits
        self.block: Any = None  # after `parts`: what decodes them, where `bits` are given
        self._values: Tensor | None = values
        self._like: DenseLike | None = None
        self._parts: tuple[Tensor, ...] = ()

    @classmethod
    @torch.compiler.disable(reason="what is handed from one autograd Function to another is not part of a graph")
    def of(cls, values: Tensor, keeping: InputKeeping) -> SharedCodes | None:
        """By the codec of `keeping`; None where it has none."""
        if keeping.codec is None:
            return None
        return cls(values.detach(), keeping.codec, keeping.noise_seed, keeping.block)

    @property
    def like(self) -> DenseLike:
        """Shape and layout of the values as they are coded."""
        if self._like is None:
            assert self._values is not None, "dropped when they were coded, which asks for this"
            if layout_of(self._values) is None:
                self._values = self._values.contiguous()
            self._like = dense_like(self._values)
        return self._like

    def parts(self) -> tuple[Tensor, ...]:
        """What the codec made of the values, which are then let go."""
        mean, inv_std = as_they_are(self.like)
        if self._values is not None:
            if self.bits is not None:
                self.block, self._parts = self.bits.pack(self._values, self.seed)
            else:
                self._parts = self.codec.encode(self._values, mean, inv_std, self.seed)
            self._values = None
        return self._parts


def as_they_are(like: DenseLike) -> tuple[Tensor, Tensor]:
    """(mean, inverse deviation) with which normalising changes nothing."""
    dtype = statistics_dtype(like.dtype)
    zeros = torch.zeros(like.shape[1], dtype=dtype, device=like.device)
    return zeros, torch.ones_like(zeros)


class SavedChain:
    """What a chain keeps, by unit; everything passes through `save_for_backward`.

    Hooks, version checks and memory trackers so see each tensor.
    """

    def __init__(self, units: int) -> None:
        self.values: list[Tensor | None] = [None] * units
        self.coded: list[CodedValues | None] = [None] * units
        self.statistics: list[Statistics | None] = [None] * units
        self.has_outputs = False
        self.outputs: Tensor | None = None
        self.parameters: tuple[Tensor | None, ...] = ()

    def store(self, ctx: Any, outputs: Tensor | None, parameters: tuple[Tensor | None, ...]) -> None:
        """Hand everything to autograd; which positions hold statistics, and codes' layouts, stay on `ctx`."""
        ctx.has_statistics = tuple(statistics is not None for statistics in self.statistics)
        ctx.coded = tuple(
            None if coded is None else (coded.like, len(coded.parts), coded.block) for coded in self.coded
        )
        vectors = [vector for statistics in self.statistics if statistics is not None for vector in statistics]
        codes = [part for coded in self.coded if coded is not None for part in (coded.bits, *coded.parts)]
        mark_own((outputs, *self.values, *codes))
        ctx.save_for_backward(outputs, *self.values, *codes, *vectors, *parameters)

    @classmethod
    def restore(cls, ctx: Any) -> SavedChain:
        """What `store` kept, unpacked."""
        saved = cls(len(ctx.has_statistics))
        saved.outputs, *rest = ctx.saved_tensors
        units = len(saved.values)
        saved.values, remaining = rest[:units], iter(rest[units:])
        for index, layout in enumerate(ctx.coded):
            if layout is not None:
                like, parts, block = layout
                bits = next(remaining)
                saved.coded[index] = CodedValues(like, tuple(next(remaining) for _ in range(parts)), bits, block)
        for index, has in enumerate(ctx.has_statistics):
            if has:
                saved.statistics[index] = (next(remaining), next(remaining), next(remaining))
        saved.parameters = tuple(remaining)
        return saved
