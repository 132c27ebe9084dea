"""How the fused blocks lay tensors out and cut a batch: channels_last, in tiles that stay in a cache."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor

# One tile of rebuilt activations should stay in a core's cache on a CPU; on a GPU launches cost more than bytes.
TILE_BYTES: Mapping[str, int] = MappingProxyType({"cpu": 4 * 2**20})
TILE_BYTES_ELSEWHERE = 64 * 2**20


def empty_channels_last(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """An uninitialised (N, C, H, W) tensor in channels_last."""
    return torch.empty(tuple(shape), dtype=dtype, device=device, memory_format=torch.channels_last)


class Workspace:
    """Scratch tensors of one pass over a block, by name, reused from layer to layer and freed with the pass.

    Args:
        device: of the scratch.
        expected: elements a name will need at most, where known: allocated once, instead of growing.
    """

    def __init__(self, device: torch.device, expected: Mapping[str, int] = MappingProxyType({})) -> None:
        self._device = device
        self._expected = expected
        self._flat: dict[str, Tensor] = {}

    def take(self, name: str, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """An uninitialised (N, C, H, W) tensor in channels_last; it overwrites the last one of that name."""
        needed = math.prod(shape)
        flat = self._flat.get(name)
        if flat is None or flat.dtype != dtype or flat.numel() < needed:
            self._flat.pop(name, None)
            flat = None  # freed before its successor is allocated
            size = max(needed, self._expected.get(name, 0))
            flat = self._flat[name] = torch.empty(size, dtype=dtype, device=self._device)
        samples, channels, height, width = shape
        return flat[:needed].view(samples, height, width, channels).permute(0, 3, 1, 2)


def convolution_format(inputs: Tensor, weight: Tensor) -> torch.memory_format:
    """The memory format in which a convolution of these returns its outputs."""
    channels_last = torch.channels_last
    if any(t.is_contiguous(memory_format=channels_last) and not t.is_contiguous() for t in (inputs, weight)):
        return channels_last
    return torch.contiguous_format


def laid_out_like(values: Tensor, tensor: Tensor) -> Tensor:
    """`tensor`, copied where it is not laid out as `values` are: channels_last or contiguous."""
    channels_last = values.shape[1] > 1 and values.stride(1) == 1
    return tensor.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def tiles(shape: torch.Size, dtype: torch.dtype, device: torch.device) -> list[slice]:
    """Slices of the batch such that one tile of (N, C, H, W) values is about TILE_BYTES, at least one sample."""
    samples, channels, height, width = shape
    limit = TILE_BYTES.get(device.type, TILE_BYTES_ELSEWHERE)
    per_tile = max(1, min(samples, limit // max(1, channels * height * width * dtype.itemsize)))
    return [slice(start, min(start + per_tile, samples)) for start in range(0, max(samples, 1), per_tile)]


def tile_elements(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> int:
    """Elements of the first (largest) of `tiles`."""
    return tiles(torch.Size(shape), dtype, device)[0].stop * math.prod(shape[1:])
