"""Plans that take real steps in turns: the model and its batch stay as they were, and no step is a long one."""

from __future__ import annotations

from dataclasses import replace

import torch
from families import FAMILIES, inputs_of
from test_planning import plain_stack, planned
from torch import nn

from pytorch_models.planning.race import ROUNDS, step_seconds
from pytorch_models.planning.step import default_loss


def test_real_steps_touch_nothing_and_run_as_planned() -> None:
    """A batch that is worked on in place is a copy."""
    model = nn.Sequential(nn.ReLU(inplace=True), plain_stack())
    batch, seen = torch.randn(2, 3, 16, 16), list[tuple[int, bool]]()
    kept, random = batch.clone(), torch.get_rng_state()
    plan = planned(model, batch, budget=0.5)
    model.register_forward_pre_hook(lambda module, args: seen.append((len(args[0]), "forward" in vars(module))))
    seconds = step_seconds(model, batch, lambda outputs: outputs.square().sum(), [plan, plan])
    assert len(seconds) == 2
    assert min(seconds) > 0
    assert seen == [(2, True)] * 2 * (ROUNDS + 1), "with the plan, of the whole batch"
    assert torch.equal(batch, kept)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), random)
    assert step_seconds(model, batch, default_loss, [replace(plan, plain_seconds=60.0)]) == []


def test_of_a_zoo_models_batch_so_much_is_taken_as_is_a_short_step() -> None:
    family = FAMILIES["resnet"]
    model, seen = family.build(), list[int]()
    shape = (16, *inputs_of(family).shape[1:])
    plan = replace(planned(model, shape, budget=0.9), plain_seconds=2.0)
    model.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    assert len(step_seconds(model, shape, default_loss, [plan])) == 1
    assert set(seen) == {4}
