"""One training step of a model on tensors without data, for its bytes: what a batch is, and what its loss."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pytorch_models.devices import amp_dtype
from pytorch_models.planning.trace import device_type_of, tensors_in
from pytorch_models.tracker import MemoryTracker
from zoo.planner.plan import Plan

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
    if isinstance(outputs, Tensor) and outputs.dim() == 2 and outputs.is_floating_point() and outputs.requires_grad:
        targets = torch.arange(len(outputs), device=outputs.device) % outputs.shape[1]
        return F.cross_entropy(outputs.float(), targets)
    found = [tensor for tensor in tensors_in(outputs) if tensor.is_floating_point() and tensor.requires_grad]
    if not found:
        raise ValueError("the model gives nothing that has a gradient: is anything in it trained?")
    scalars = [tensor for tensor in found if tensor.dim() == 0]
    if scalars:
        return scalars[0].float()
    return torch.stack([tensor.float().square().mean() for tensor in found]).sum()


@contextlib.contextmanager
def autocasting(model: nn.Module, amp: bool) -> Iterator[None]:
    """Inside, forward passes run in mixed precision, if so asked, as `train` runs them."""
    first = next(iter((*model.parameters(), *model.buffers())), torch.empty(0))
    if not amp and not torch.amp.is_autocast_available(first.device.type):
        yield
        return
    with torch.autocast(first.device.type, amp_dtype(first.device), enabled=amp):
        yield


def check_machine(plan: Plan, model: nn.Module) -> None:
    """Raise MemoryError if a step with a plan needs more than the memory of the machine, or of the model's GPU."""
    first = next(iter((*model.parameters(), *model.buffers())), torch.empty(0))
    if first.device.type == "cuda":
        there = torch.cuda.get_device_properties(first.device).total_memory
    else:
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 2**63
    needed = plan.peak_bytes + 2 * sum(tensor.numel() * tensor.element_size() for tensor in model.parameters())
    if needed > there:
        raise MemoryError(
            f"a step of {plan.input_shape[0]} samples needs {needed:,} bytes and {first.device.type} has {there:,}: "
            "give verify=False to plan for another machine"
        )


def step_bytes(model: nn.Module, args: Any, kwargs: Any, loss: Loss) -> tuple[int, int]:
    """Peak bytes of one step, and bytes that lie there when its forward pass ends; parameters and batch not counted."""
    known = (*model.parameters(), *model.buffers(), *tensors_in((args, kwargs)))
    torch.clear_autocast_cache()  # weights that an earlier step has cast
    for parameter in model.parameters():
        parameter.grad = None
    with MemoryTracker(known, device_type_of(known)) as tracker:
        end = loss(model(*args, **kwargs))
        saved = tracker.live_bytes
        end.backward()
    for parameter in model.parameters():
        parameter.grad = None
    return tracker.peak_bytes, saved
