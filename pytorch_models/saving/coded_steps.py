"""A sequence kept as codes, chunk by chunk of time steps, of which any steps can be had again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pytorch_models.compression import derived_seed
from pytorch_models.saving.sequence_codes import Parts, SequenceCodec


@dataclass(frozen=True)
class CodedSteps:
    """What there is to know of a coded sequence (T, N, C), all but its tensors.

    Args:
        codec: made the codes.
        chunks: steps of each chunk, in the order in which they were run.
        shape: (T, N, C).
        dtype: of the values.
        tensors: how many there are.
        leads: every chunk begins with the step before its first.
        turned: the sequence was run from its last step to its first, and so each chunk is coded.

    Example:
        >>> from kernels.codecs import Half
        >>> values = torch.arange(5.0).view(5, 1, 1)
        >>> coded, parts = code_steps(values, SequenceCodec(Half()), chunk_slices(5, 2), seed=0)
        >>> coded.decode(parts, slice(1, 4)).flatten().tolist()
        [1.0, 2.0, 3.0]
    """

    codec: SequenceCodec
    chunks: tuple[slice, ...]
    shape: torch.Size
    dtype: torch.dtype
    tensors: int
    leads: bool = False
    turned: bool = False

    def decode(self, parts: Sequence[Tensor], steps: slice) -> Tensor:
        """The steps asked for, (number, N, C), from all chunks' tensors."""
        each = self.tensors // len(self.chunks)
        found = []
        for index, chunk in enumerate(self.chunks):
            place = in_time(chunk, self.shape[0], self.turned)
            start, stop = max(place.start, steps.start), min(place.stop, steps.stop)
            if start < stop:
                values = self._decode_chunk(tuple(parts[index * each : (index + 1) * each]), chunk.stop - chunk.start)
                found.append((start, values[start - place.start : stop - place.start]))
        ordered = [values for _, values in sorted(found, key=lambda pair: pair[0])]
        return ordered[0] if len(ordered) == 1 else torch.cat(ordered)

    def _decode_chunk(self, parts: Parts, steps: int) -> Tensor:
        shape = torch.Size((1, steps + self.leads, *self.shape[1:]))
        values = self.codec.decode(parts, shape, self.dtype)[0][int(self.leads) :]
        return values.flip(0) if self.turned else values


def code_steps(
    values: Tensor, codec: SequenceCodec, chunks: tuple[slice, ...], seed: int
) -> tuple[CodedSteps, tuple[Tensor, ...]]:
    """Code a sequence (T, N, C) in order of time; what there is to know, and the tensors of all chunks."""
    values = values.detach()
    pairs = (codec.encode(values[chunk][None], derived_seed(seed, index)) for index, chunk in enumerate(chunks))
    parts = tuple(part for parts in pairs for part in parts)
    return CodedSteps(codec, chunks, values.shape, values.dtype, len(parts)), parts


def chunk_slices(steps: int, chunk_steps: int) -> tuple[slice, ...]:
    """All steps, so many at a time and at last the rest."""
    return tuple(slice(start, min(start + chunk_steps, steps)) for start in range(0, steps, chunk_steps))


def in_time(steps: slice, whole: int, turned: bool) -> slice:
    """Steps of the order in which they are run, of so many, in order of time."""
    return slice(whole - steps.stop, whole - steps.start) if turned else steps
