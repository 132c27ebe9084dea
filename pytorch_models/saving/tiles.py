"""How the fused blocks lay tensors out and cut a batch: channels_last, in tiles that stay in a cache."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# One tile of rebuilt activations should stay in a core's cache on a CPU; on a GPU launches cost more than bytes.
TILE_BYTES = {"cpu": 4 * 2**20}
TILE_BYTES_ELSEWHERE = 64 * 2**20


def empty_channels_last(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """An uninitialised (N, C, H, W) tensor in channels_last."""
    return torch.empty(tuple(shape), dtype=dtype, device=device, memory_format=torch.channels_last)


def convolution_format(inputs: Tensor, weight: Tensor) -> torch.memory_format:
    """The memory format in which a convolution of these returns its outputs."""
    channels_last = torch.channels_last
    if any(t.is_contiguous(memory_format=channels_last) and not t.is_contiguous() for t in (inputs, weight)):
        return channels_last
    return torch.contiguous_format


def tiles(shape: torch.Size, dtype: torch.dtype, device: torch.device) -> list[slice]:
    """Slices of the batch such that one tile of (N, C, H, W) values is about TILE_BYTES, at least one sample."""
    samples, channels, height, width = shape
    limit = TILE_BYTES.get(device.type, TILE_BYTES_ELSEWHERE)
    per_tile = max(1, min(samples, limit // max(1, channels * height * width * dtype.itemsize)))
    return [slice(start, min(start + per_tile, samples)) for start in range(0, max(samples, 1), per_tile)]
