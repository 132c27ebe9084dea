"""Kept parts in host memory while they are not needed: pinned, on the current stream, so that nothing is waited for."""

from __future__ import annotations

import torch
from torch import Tensor


def to_host(parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Copies in host memory, pinned for a GPU, of what lies on a device; what lies in host memory already stays."""
    return tuple(_copied(part) if part.device.type != "cpu" else part for part in parts)


def to_device(parts: tuple[Tensor, ...], device: torch.device) -> tuple[Tensor, ...]:
    """The parts where the computation is."""
    return tuple(part if part.device == device else part.to(device, non_blocking=True) for part in parts)


def _copied(part: Tensor) -> Tensor:
    pinned = part.device.type == "cuda"
    return torch.empty(part.shape, dtype=part.dtype, pin_memory=pinned).copy_(part, non_blocking=True)
