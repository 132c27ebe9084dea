"""What a GPU's allocator did over one step, in the file that https://pytorch.org/memory_viz shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from pytorch_models.planning.step import Loss, as_call, default_loss
from pytorch_models.planning.trace import device_type_of, tensors_in

MOST_EVENTS = 10**6


def write_cuda_snapshot(model: nn.Module, batch: Any, path: str | Path, loss: Loss | None = None) -> Path:
    """Run one real step of a model on a GPU, with its plan if it has one, and write the allocator's history; the path.

    Gradients are dropped before and after; statistics of norms move as in any step.

    Args:
        batch: as `zoo.plan` takes it.
        path: of the pickle to write; it is replaced in one step.

    Raises:
        ValueError: the model is not on a CUDA device.
    """
    args, kwargs = as_call(model, batch)
    where = device_type_of((*model.parameters(), *tensors_in((args, kwargs))))
    if where != "cuda":
        raise ValueError(f"write_cuda_snapshot: the model is on {where}, and only CUDA's allocator keeps a history")
    path = Path(path).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.part")
    model.zero_grad(set_to_none=True)
    torch.cuda.memory._record_memory_history(max_entries=MOST_EVENTS)
    try:
        (loss or default_loss)(model(*args, **kwargs)).backward()
        torch.cuda.memory._dump_snapshot(str(unfinished))
    finally:
        torch.cuda.memory._record_memory_history(enabled=None)
        model.zero_grad(set_to_none=True)
    return unfinished.replace(path)
