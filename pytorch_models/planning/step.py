"""One training step of a model on tensors without data, for its bytes: what a batch is, and what its loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pytorch_models.planning.trace import tensors_in
from pytorch_models.tracker import MemoryTracker

Loss: TypeAlias = Callable[[Any], Tensor]


def as_call(model: nn.Module, batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments of the model for a batch: a tensor, a tuple of arguments, a mapping of keywords, or a shape.

    Raises:
        TypeError: something else.
        ValueError: a shape that is none.
    """
    if isinstance(batch, Tensor):
        return (batch,), {}
    if isinstance(batch, Mapping):
        return (), dict(batch)
    if not isinstance(batch, Sequence) or isinstance(batch, str) or not len(batch):
        raise TypeError(f"plan: batch must be a tensor, a shape, or the model's arguments, not {batch!r}")
    if not all(isinstance(size, int) and not isinstance(size, bool) for size in batch):
        return tuple(batch), {}
    if min(batch) < 1:
        raise ValueError(f"plan: a batch's shape needs positive sizes, the batch first, not {tuple(batch)}")
    first = next(iter((*model.parameters(), *model.buffers())), torch.empty(0))
    dtype = first.dtype if first.is_floating_point() else torch.float32
    # Expanded: a shape that fits no machine can be planned for.
    if getattr(getattr(model, "spec", None), "is_language_model", False):
        token = torch.zeros((), dtype=torch.int64, device=first.device)
        return (token.expand(*batch), token.expand(*batch)), {}
    return (torch.zeros((), dtype=dtype, device=first.device).expand(*batch),), {}


def default_loss(outputs: Any) -> Tensor:
    """Cross-entropy of (N, classes) scores; a sum that a model gives; else the mean square of all that it gives."""
    if isinstance(outputs, Tensor) and outputs.dim() == 2 and outputs.is_floating_point():
        targets = torch.arange(len(outputs), device=outputs.device) % outputs.shape[1]
        return F.cross_entropy(outputs.float(), targets)
    found = [tensor for tensor in tensors_in(outputs) if tensor.is_floating_point() and tensor.requires_grad]
    if not found:
        raise ValueError("plan: the model gives nothing that has a gradient: is anything in it trained?")
    scalars = [tensor for tensor in found if tensor.dim() == 0]
    if scalars:
        return scalars[0].float()
    return torch.stack([tensor.float().square().mean() for tensor in found]).sum()


def step_bytes(model: nn.Module, args: Any, kwargs: Any, loss: Loss) -> tuple[int, int]:
    """Peak bytes of one step, and bytes that lie there when its forward pass ends; parameters and batch not counted."""
    known = (*model.parameters(), *model.buffers(), *tensors_in((args, kwargs)))
    for parameter in model.parameters():
        parameter.grad = None
    with MemoryTracker(known) as tracker:
        end = loss(model(*args, **kwargs))
        saved = tracker.live_bytes
        end.backward()
    for parameter in model.parameters():
        parameter.grad = None
    return tracker.peak_bytes, saved
