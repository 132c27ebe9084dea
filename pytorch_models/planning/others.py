"""What PyTorch itself offers to save memory with, as points beside a plan: save_on_cpu, torch.compile's budget.

Both really run one step. Bytes are the tracker's, seconds by operations and bytes, as a plan's that is "counted".
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import save_on_cpu
from torch.nn.modules.batchnorm import _BatchNorm

from pytorch_models.planning.alone import Work
from pytorch_models.planning.step import Loss, as_call, default_loss
from pytorch_models.planning.trace import device_type_of, tensors_in
from pytorch_models.tracker import MemoryTracker
from zoo.planner.study import Point

COMPILED_BUDGETS = (0.5, 0.1)  # of the activations that torch.compile would keep


class OtherMissingWarning(UserWarning):
    """A technique cannot be shown here; says which, and why."""


def points_of_others(model: nn.Module, batch: Any, loss: Loss | None = None) -> dict[str, Point]:
    """Peak bytes and seconds of a step with `save_on_cpu`, and with what torch.compile keeps under its memory budget.

    torch.compile's partition (`torch._functorch.config.activation_memory_budget`) runs operator by operator here, as
    its generated code allocates out of the tracker's sight; norms take the batch's statistics alone. In host memory
    `save_on_cpu` copies what is there already, and saves nothing.

    Args:
        model: is copied.
        batch: as `zoo.plan` takes it.

    Warns:
        OtherMissingWarning: torch.compile cannot follow the model; the point is left out.

    Example:
        >>> layers = nn.Sequential(*(nn.Sequential(nn.Linear(64, 64), nn.Tanh()) for _ in range(3)))
        >>> sorted(points_of_others(layers, (32, 64)))[0]
        'save_on_cpu (saves nothing on a CPU)'
    """
    copied = copy.deepcopy(model)
    args, kwargs = as_call(copied, batch)
    measured_loss = loss or default_loss
    on_cpu = device_type_of((*copied.parameters(), *tensors_in((args, kwargs)))) == "cpu"
    words = "save_on_cpu (saves nothing on a CPU)" if on_cpu else "save_on_cpu"
    found = {words: _point(copied, copied, args, kwargs, measured_loss, save_on_cpu(pin_memory=not on_cpu))}
    for norm in copied.modules():
        if isinstance(norm, _BatchNorm):  # a partition cannot run again what moves statistics
            norm.running_mean = norm.running_var = norm.num_batches_tracked = None
            norm.track_running_stats = False
    for budget in COMPILED_BUDGETS:
        name = f"torch.compile's budget {budget:g}"
        try:
            run = compiled(copied, budget)
            measured_loss(run(*args, **kwargs))  # it is traced at its first call
            found[name] = _point(run, copied, args, kwargs, measured_loss)
        except (RuntimeError, TypeError, ImportError, AssertionError) as error:
            reason = str(error).partition("\n")[0]
            warnings.warn(f"{name} is left out: torch cannot follow this model: {reason}", OtherMissingWarning, 2)
    return found


def compiled(model: nn.Module, budget: float) -> Callable[..., Any]:
    """A model as torch.compile divides it into a forward and a backward graph under a memory budget of 0 to 1.

    Raises:
        RuntimeError: at its first call, if the model cannot be traced.
    """
    from functorch.compile import aot_module, min_cut_rematerialization_partition, nop

    traced = aot_module(model, nop, nop, partition_fn=min_cut_rematerialization_partition)

    def run(*args: Any, **kwargs: Any) -> Any:
        with torch._functorch.config.patch(activation_memory_budget=budget):
            return traced(*args, **kwargs)

    return run


def _point(
    run: Callable[..., Any],
    model: nn.Module,
    args: Sequence[Any],
    kwargs: Any,
    loss: Loss,
    around: AbstractContextManager[Any] | None = None,
) -> Point:
    known: tuple[Tensor, ...] = (*model.parameters(), *model.buffers(), *tensors_in((args, kwargs)))
    model.zero_grad(set_to_none=True)
    with torch.random.fork_rng(), MemoryTracker(known, device_type_of(known)) as tracker, Work() as work:
        with around or nullcontext():
            end = loss(run(*args, **kwargs))
        end.backward()
    return tracker.peak_bytes, work.take()
