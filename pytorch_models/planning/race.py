"""Real steps of a model with several plans, taken in turns: what parts take alone is not all that a step takes."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import unset_fake_temporarily

from pytorch_models.planning.alone import fresh, now, random_share
from pytorch_models.planning.carry_out import apply_plan, remove_plan
from pytorch_models.planning.step import Loss, as_call, default_loss
from pytorch_models.planning.trace import device_type_of, tensors_in
from pytorch_models.zoo_model import ZooModel
from zoo.planner import Plan

STEP_SECONDS = 0.5  # a step of a zoo model is cut down to about that, by taking less of the batch
MOST_SECONDS = 5.0  # other models take whole batches: where a step would take longer, none is taken
ROUNDS = 3


def step_seconds(model: nn.Module, batch: Any, loss: Loss, plans: Sequence[Plan]) -> list[float]:
    """Seconds of a real step with each plan, the least of three taken in turns; [] = one would take too long.

    The steps run on a copy of the model: its parameters, gradients, statistics and random streams are not touched. Of
    a zoo model's batch only so many samples are taken as make a step of about half a second.
    """
    args, kwargs = as_call(model, batch)
    listed = tensors_in((args, kwargs))
    size = len(listed[0]) if listed and listed[0].dim() else 1
    share, estimate = size, plans[0].plain_seconds
    if isinstance(model, ZooModel):
        share = min(size, max(2, int(size * STEP_SECONDS / estimate))) if estimate > 0 else size
    elif estimate > MOST_SECONDS:
        return []

    def like(tensor: Tensor) -> Tensor:
        whole = share == size and 0 not in tensor.stride()
        return tensor.detach().clone() if whole else random_share(tensor, size, share)

    with unset_fake_temporarily(), torch.random.fork_rng():
        copied = copy.deepcopy(model)
        args, kwargs = fresh((args, kwargs), like)
        of_outputs = loss if share == size else default_loss
        rounds = [[_seconds(copied, plan, args, kwargs, of_outputs) for plan in plans] for _ in range(ROUNDS + 1)]
        return [min(taken) * size / share for taken in zip(*rounds[1:], strict=True)]


def _seconds(model: nn.Module, plan: Plan, args: Any, kwargs: Any, loss: Loss) -> float:
    """Of one step; the plan is removed again."""
    for parameter in model.parameters():
        parameter.grad = None
    where = device_type_of((*model.parameters(), *tensors_in((args, kwargs))))
    apply_plan(plan, model)
    try:
        start = now(where)
        loss(model(*args, **kwargs)).backward()
        return now(where) - start
    finally:
        remove_plan(plan, model)
