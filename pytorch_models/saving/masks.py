"""Exact masks of activations, packed: what a gradient needs to know where a norm's input is kept in codes alone.

Of ReLU one bit: positive or not. Of ReLU6 two bits: which of its three pieces a value lies on, because an activation
that is rebuilt from codes must be 6 where it was 6.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pytorch_models import kernel_ops
from pytorch_models.saving.activation import RELU, Activation
from pytorch_models.saving.tiles import tiles

_TOP = 6.0
_BETWEEN, _ABOVE = 1, 2  # regions of `kernels.pack_regions`; 0 is below


class TileMasks:
    """The mask of every activation of a batch, tile after tile, each from a byte of its own.

    Args:
        shape: (N, C, ...) of the activations; their tiles are those of `tiles`.
        dtype, device: of the values that tiles are made of.
        bits: what an earlier one kept; None = not written yet.
        activation: whose masks; one that `is_masked`.
    """

    def __init__(
        self,
        shape: torch.Size,
        dtype: torch.dtype,
        device: torch.device,
        bits: Tensor | None = None,
        activation: Activation = RELU,
    ) -> None:
        slices = tiles(shape, dtype, device)
        self._sample = shape[1:].numel() * activation.mask_bits
        self._samples, self._tile_bytes = max(slices[0].stop, 1), self._bytes(slices[0])  # a batch may be empty
        if bits is None:
            size = sum(self._bytes(tile) for tile in slices)
            bits = torch.empty(size, dtype=torch.uint8, device=device)
        self.bits = bits

    def _bytes(self, tile: slice) -> int:
        return ((tile.stop - tile.start) * self._sample + 7) // 8

    def of(self, tile: slice) -> Tensor:
        """The packed mask of one tile."""
        start = tile.start // max(self._samples, 1) * self._tile_bytes
        return self.bits[start : start + self._bytes(tile)]


def write_mask(dense: Tensor, activation: Activation, mask: Tensor) -> None:
    """Write the mask of an activation's outputs, a tensor without gaps, in the order of memory."""
    if activation.kind is nn.ReLU6:
        kernel_ops.pack_regions_(_in_memory_order(dense), 0.0, _TOP, mask)
    else:
        kernel_ops.pack_positive_(_in_memory_order(dense), mask)


def choose_(dense: Tensor, activation: Activation, mask: Tensor) -> Tensor:
    """From the activation's input its output, in place in a tensor without gaps, as the mask says."""
    flat = _in_memory_order(dense)
    if activation.kind is nn.ReLU6:
        regions = kernel_ops.unpack_regions(mask, flat.numel())
        flat.masked_fill_(regions != _BETWEEN, 0).masked_fill_(regions == _ABOVE, _TOP)
    else:
        pass_through_(dense, activation, mask)
    return dense


def pass_through_(gradient: Tensor, activation: Activation, mask: Tensor) -> Tensor:
    """From the gradient of the activation's output that of its input, in place in a tensor without gaps."""
    flat = _in_memory_order(gradient)
    if activation.kind is nn.ReLU6:
        blocked = kernel_ops.unpack_regions(mask, flat.numel()) != _BETWEEN
    else:
        blocked = kernel_ops.unpack_bits(mask, flat.numel()).view(torch.bool).logical_not_()
    flat.masked_fill_(blocked, 0)
    return gradient


def _in_memory_order(dense: Tensor) -> Tensor:
    return dense.as_strided((dense.numel(),), (1,))
