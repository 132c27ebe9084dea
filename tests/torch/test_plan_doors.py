"""The doors to plans in PyTorch: zoo.plan, create_model(budget=...), max_batch, and the solvers to choose from."""

from __future__ import annotations

import builtins
import copy
import sys
from typing import Any

import pytest
import torch
from families import assert_same, norms_of
from foreign_models import Transformer
from test_planning import plain_stack, planned, step
from torch import nn

import pytorch_models
import zoo
from pytorch_models.planning import make_plan


def test_the_doors_of_the_zoo(monkeypatch: pytest.MonkeyPatch) -> None:
    """zoo.plan by number of samples, create_model(budget=...), max_batch; language models are planned as one part."""
    model = zoo.create_model("resnet20", num_classes=3)
    plan = zoo.plan(model, 4, budget=0.7, times="counted")
    assert plan.input_shape == (4, 3, 32, 32)
    made_with = zoo.create_model("resnet20", budget=plan.budget_bytes, batch_size=4)
    peak, _ = step(made_with, torch.randn(4, 3, 32, 32))
    assert peak <= plan.budget_bytes < plan.plain_peak_bytes
    with pytest.raises(ValueError, match="do not go together"):
        zoo.create_model("resnet20", budget=0.5, efficient=True)
    with pytest.raises(TypeError, match="give a batch or its shape"):
        zoo.plan(plain_stack(), 4, budget=0.5)
    with pytest.raises(TypeError, match=r"not the class Linear: give Linear\("):
        zoo.plan(nn.Linear, 4, budget=0.5)
    with pytest.raises(TypeError, match=r"needed is a model.*zoo\.create_model\('resnet20'\)"):
        zoo.plan("resnet20", 4, budget=0.5)
    text = zoo.create_model("lstm_text", hidden_size=16)
    tight = zoo.plan(text, (2, 64), budget=2**40, objective="memory", times="counted")
    assert tight.peak_bytes < tight.plain_peak_bytes
    assert len(norms_of(text)) == 0
    stack = plain_stack()
    samples = zoo.max_batch(stack, (3, 16, 16), "300 KB")
    fits, not_fits = (
        make_plan(stack, (n, 3, 16, 16), budget=2**40, objective="memory", times="counted").peak_bytes
        for n in (samples, samples + 1)
    )
    assert fits <= 300_000 < not_fits
    assert zoo.max_batch(stack, (3, 16, 16), 10) == 0
    said = {samples: 300_001, samples - 1: 300_000}
    monkeypatch.setattr(pytorch_models, "real_peak", lambda plan, *_: said[plan.input_shape[0]])
    assert zoo.max_batch(stack, (3, 16, 16), "300 KB") == samples - 1, "a real step has the last word"


def test_a_batch_for_another_machine_is_not_run_here() -> None:
    wide = nn.Sequential(nn.Linear(4, 2**16), nn.ReLU(), nn.Linear(2**16, 1))
    with pytest.raises(MemoryError, match="verify=False"):
        zoo.max_batch(wide, (4,), 2**42)
    assert zoo.max_batch(wide, (4,), 2**42, verify=False) > 2**20


def test_norms_that_average_and_mixed_precision_are_planned_as_they_run() -> None:
    torch.manual_seed(0)
    model, batch = plain_stack(), torch.randn(4, 3, 32, 32)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # a running average: its weight is the number of steps
    plan, twin = planned(model, batch, budget=0.5), copy.deepcopy(model)
    plan.apply(model)
    for seed in (1, 2):
        expected, found = step(twin, batch, seed)[1], step(model, batch, seed)[1]
        assert_same(found, expected, 1e-6)
    assert int(model.get_submodule("0.1").num_batches_tracked) == 2  # type: ignore[arg-type]
    model = plain_stack()
    mixed = planned(model, batch, budget=0.6, amp=True)
    assert mixed.plain_peak_bytes < 0.8 * plan.plain_peak_bytes, "half as many bytes a value"
    mixed.apply(model)
    with torch.autocast("cpu", torch.bfloat16):
        peak, _ = step(model, batch)
    assert peak == pytest.approx(mixed.peak_bytes, rel=1e-3), "but for norms' statistics of another dtype"


def test_the_programme_of_a_small_model_and_where_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model, batch = Transformer(layers=3).double(), torch.arange(2 * 48).view(2, 48) % 50
    by_chain, by_programme = (planned(model, batch, budget=0.6, solver=solver) for solver in ("chain", "milp"))
    assert by_programme.peak_bytes <= by_programme.budget_bytes
    assert by_programme.predicted_seconds == pytest.approx(by_chain.predicted_seconds, rel=0.02)
    assert any(part.runs > 1 for part in by_programme.parts)
    with pytest.raises(ValueError, match=r"at most 16 parts, not \d+: use solver='chain'"):
        planned(plain_stack(), (4, 3, 16, 16), budget=0.6, solver="milp")
    with pytest.raises(ValueError, match="did you mean milp"):
        planned(model, batch, budget=0.6, solver="mlip")
    found = builtins.__import__

    def without_scipy(name: str, *rest: Any) -> Any:
        if name.startswith("scipy"):
            raise ModuleNotFoundError("No module named 'scipy'", name="scipy")
        return found(name, *rest)

    monkeypatch.delitem(sys.modules, "scipy.optimize", raising=False)
    monkeypatch.setattr(builtins, "__import__", without_scipy)
    with pytest.raises(ImportError, match=r"needs SciPy .*use solver='chain'"):
        planned(model, batch, budget=0.6, solver="milp")
