"""Host memory in plans. A model on "meta" stands in for one on a GPU: what is not in host memory is counted."""

from __future__ import annotations

import copy
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from families import assert_same
from test_planning import made, plain_stack, planned, step
from torch import Tensor

import zoo
from pytorch_models.compressed.gact import Controller
from pytorch_models.tracker import MemoryTracker
from zoo.planner.adapt import PlanChangedWarning


def test_on_a_device_parts_move_to_host_memory_and_the_budget_is_kept() -> None:
    model, shape = plain_stack().to("meta"), (32, 3, 32, 32)
    plan = planned(model, shape, budget=0.5, allow="swap")
    assert {part.choice for part in plan.parts} == {"keep", "swap"}
    assert plan.peak_bytes <= plan.budget_bytes < plan.plain_peak_bytes
    assert plan.predicted_peak_bytes == pytest.approx(plan.peak_bytes, rel=0.01)
    assert plan.predicted_seconds > 1.5 * plan.plain_seconds, "a bus is slow"
    assert plan.noise == 0
    moved = [part for part in plan.parts if part.choice == "swap"]
    assert sum(part.kept_bytes for part in moved) < 0.05 * sum(part.plain_bytes for part in moved)
    both = planned(model, shape, budget=0.5, allow=("recompute", "swap"))
    assert both.predicted_seconds <= plan.predicted_seconds
    everything = planned(model, shape, budget=0.5, objective="memory", allow=("recompute", "swap"))
    again = planned(model, shape, budget=0.5, objective="memory", allow="recompute")
    assert everything.peak_bytes < again.peak_bytes, "less than by recomputation alone"


def test_in_host_memory_nothing_is_swapped_and_that_is_said() -> None:
    model, batch = made("plain stack")
    with pytest.warns(PlanChangedWarning, match="a model in host memory cannot swap: planned without"):
        plan = planned_loudly(model, batch, budget=0.6, allow=("recompute", "swap"))
    assert plan == planned(model, batch, budget=0.6)


def planned_loudly(model: Any, batch: Tensor, **asked: Any) -> Any:
    return zoo.plan(model, batch, times="counted", **asked)


@pytest.mark.parametrize("name", ["transformer", "resnet"])
def test_what_comes_back_is_what_left(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All parts swapped; copies are made though the model is in host memory."""
    left = []

    def to_host(parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        left.append(sum(part.nbytes for part in parts))
        return tuple(part.clone() for part in parts)

    monkeypatch.setattr(sys.modules[Controller.__module__], "to_host", to_host)
    model, batch = made(name)
    plain = planned(model, batch, budget=2**40)
    parts = [replace(one, choice="keep" if one.name.startswith("(") else "swap") for one in plain.parts]
    plan = replace(plain, parts=tuple(parts), steps=tuple(range(len(parts))))
    _, expected = step(copy.deepcopy(model), batch)
    _, found = step(plan.apply(model), batch)
    assert_same(found, expected)
    assert sum(left) > 0.5 * plain.saved_bytes


@pytest.mark.quick
def test_the_tracker_counts_one_kind_of_device() -> None:
    with MemoryTracker(device="meta") as tracker:
        kept = [torch.empty(1024, device=device) for device in ("cpu", "meta")]
    assert tracker.peak_bytes == kept[1].nbytes
