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
_CHANNELS_LAST: Mapping[int, torch.memory_format] = MappingProxyType(
    {4: torch.channels_last, 5: torch.channels_last_3d}
)


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

    def take(self, name: str, shape: Sequence[int], dtype: torch.dtype, like: Tensor | None = None) -> Tensor:
        """An uninitialised tensor, its dimensions in memory in the order of `like`'s, or (N, C, H, W) in channels_last.

        It overwrites the last one of that name.
        """
        needed = math.prod(shape)
        flat = self._flat.get(name)
        if flat is None or flat.dtype != dtype or flat.numel() < needed:
            self._flat.pop(name, None)
            flat = None  # freed before its successor is allocated
            size = max(needed, self._expected.get(name, 0))
            flat = self._flat[name] = torch.empty(size, dtype=dtype, device=self._device)
        order = (0, 2, 3, 1) if like is None else memory_order(like)
        position = [order.index(dimension) for dimension in range(len(shape))]
        return flat[:needed].view([shape[dimension] for dimension in order]).permute(position)


def memory_order(tensor: Tensor) -> tuple[int, ...]:
    """Dimensions from the slowest to the fastest in memory."""
    return tuple(sorted(range(tensor.dim()), key=tensor.stride, reverse=True))


def empty_in_order_of(like: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """An uninitialised dense tensor, its dimensions in memory in the order of `like`'s."""
    return torch.empty_permuted(tuple(shape), memory_order(like), dtype=dtype, device=like.device)


def batch_outermost(values: Tensor) -> Tensor:
    """`values`, copied unless they are dense with whole samples one after the other."""
    order = memory_order(values)
    dense = values.permute(order).is_contiguous()
    return values if dense and (order[0] == 0 or values.shape[0] <= 1) else values.contiguous()


def as_images(values: Tensor) -> Tensor:
    """(N, C, ...) viewed as (N, C, H, W), whatever the number of spatial dimensions."""
    if values.dim() == 4:
        return values
    if values.dim() < 4:
        return values[(...,) + (None,) * (4 - values.dim())]
    return values.flatten(2, values.dim() - 2)


def convolution_format(inputs: Tensor, weight: Tensor) -> torch.memory_format:
    """The memory format in which a convolution of these returns its outputs."""
    channels_last = torch.channels_last
    if any(t.is_contiguous(memory_format=channels_last) and not t.is_contiguous() for t in (inputs, weight)):
        return channels_last
    return torch.contiguous_format


def laid_out_like(values: Tensor, tensor: Tensor) -> Tensor:
    """`tensor`, copied where it is not laid out as `values` are: channels_last or contiguous."""
    if values.dim() in _CHANNELS_LAST and values.shape[1] > 1 and values.stride(1) == 1:
        return tensor.contiguous(memory_format=_CHANNELS_LAST[values.dim()])
    return tensor.contiguous()


def tiles(shape: torch.Size, dtype: torch.dtype, device: torch.device) -> list[slice]:
    """Slices of the batch such that one tile of (N, C, ...) values is about TILE_BYTES, at least one sample."""
    samples, *sizes = shape
    limit = TILE_BYTES.get(device.type, TILE_BYTES_ELSEWHERE)
    per_tile = max(1, min(samples, limit // max(1, math.prod(sizes) * dtype.itemsize)))
    return [slice(start, min(start + per_tile, samples)) for start in range(0, max(samples, 1), per_tile)]


def tile_elements(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> int:
    """Elements of the first (largest) of `tiles`."""
    return tiles(torch.Size(shape), dtype, device)[0].stop * math.prod(shape[1:])
