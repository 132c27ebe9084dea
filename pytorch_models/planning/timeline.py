"""What lies in memory over one step, event by event, by what it is."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from pytorch_models.planning.step import Loss
from pytorch_models.planning.trace import device_type_of, tensors_in
from pytorch_models.tracker import Allocation, MemoryTracker
from zoo.planner.study import Timeline


def timeline_of(model: nn.Module, args: Any, kwargs: Any, loss: Loss) -> Timeline:
    """One step of a model on tensors without data; what is alive when the forward pass ends counts as saved."""
    known = (*model.parameters(), *model.buffers(), *tensors_in((args, kwargs)))
    torch.clear_autocast_cache()  # weights that an earlier step has cast
    for parameter in model.parameters():
        parameter.grad = None
    with MemoryTracker(known, device_type_of(known)) as tracker:
        end = loss(model(*args, **kwargs))
        saved = {id(allocation) for allocation in tracker.allocations if allocation.died is None}
        end.backward()
        del end
        gradients = [tracker.allocation_of(p.grad) for p in model.parameters() if p.grad is not None]
    of_parameters = {id(allocation) for allocation in gradients if allocation is not None}
    for parameter in model.parameters():
        parameter.grad = None

    def kind_of(allocation: Allocation) -> int:
        return 0 if id(allocation) in saved else 1 if id(allocation) in of_parameters else 2

    events = sorted(
        [(a.born, kind_of(a), a.storage_bytes) for a in tracker.allocations]
        + [(a.died, kind_of(a), -a.storage_bytes) for a in tracker.allocations if a.died is not None]
    )
    levels, curves = [0, 0, 0], ([0], [0], [0])
    for _, kind, size in events:
        levels[kind] += size
        for curve, level in zip(curves, levels, strict=True):
            curve.append(level)
    return Timeline(*(tuple(curve) for curve in curves))
