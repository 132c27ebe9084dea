"""Many models with policies and plans of their own, in threads: none disturbs another."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

import zoo
from pytorch_models import ResNet, measure_step
from zoo.planner import Plan

SHAPE = (4, 3, 12, 12)
POLICIES: tuple[dict[str, Any], ...] = (
    {},
    {"efficient": True},
    {"efficient": True, "keep_bottleneck": True},
    {"compressed": 2},
    {"compressed": "fixed:4"},
    {"compressed": "L1"},
)


some_and_fifty = pytest.mark.parametrize("tasks", [12, pytest.param(50, marks=pytest.mark.slow)])


def network(**policy: Any) -> ResNet:
    return ResNet(block="bottleneck", layers=(1, 1), width=8, num_classes=5, **policy)


def saved_by(task: int) -> int:
    return measure_step(network(**POLICIES[task % len(POLICIES)]), SHAPE, repeats=0).saved_bytes


@some_and_fifty
def test_policies_in_threads(tasks: int) -> None:
    alone = [saved_by(task) for task in range(len(POLICIES))]
    assert len(set(alone)) >= 5
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(saved_by, range(tasks)))
    assert together == [alone[task % len(POLICIES)] for task in range(tasks)]


@some_and_fifty
def test_plans_in_threads(tasks: int, tmp_path: Path) -> None:
    """One plan for each of three budgets, read from its file and carried out many times."""
    torch.manual_seed(0)
    model, inputs = network(), torch.randn(SHAPE)
    for number, budget in enumerate((0.95, 0.85, 0.75)):
        zoo.plan(model, SHAPE, budget=budget, times="counted").save(tmp_path / f"{number}.json")
    weights = model.state_dict()

    def carry_out(task: int) -> tuple[int, list[torch.Tensor]]:
        made = Plan.load(tmp_path / f"{task % 3}.json")
        own = network()
        own.load_state_dict(weights)
        made.apply(own)
        own(inputs).square().sum().backward()
        gradients = [parameter.grad.clone() for parameter in own.parameters() if parameter.grad is not None]
        return measure_step(own, SHAPE, repeats=0, execute=False).saved_bytes, gradients

    alone = [carry_out(task) for task in range(3)]
    with ThreadPoolExecutor(8) as pool:
        for task, (saved, gradients) in enumerate(pool.map(carry_out, range(tasks))):
            assert saved == alone[task % 3][0]
            assert all(map(torch.equal, gradients, alone[task % 3][1]))


@pytest.mark.quick
def test_contradictions_in_threads() -> None:
    def refused(task: int) -> str:
        with pytest.raises(ValueError, match="opt_memory") as caught:
            network(opt_memory=task % 5, efficient=True)
        return str(caught.value)

    with ThreadPoolExecutor(8) as pool:
        assert [f"opt_memory={task % 5} " in text for task, text in enumerate(pool.map(refused, range(50)))] == [
            True
        ] * 50
