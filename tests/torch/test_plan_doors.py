"""The doors to plans in PyTorch: zoo.plan, create_model(budget=...), max_batch, and the solvers to choose from."""

from __future__ import annotations

import builtins
import sys
from typing import Any

import pytest
import torch
from families import norms_of
from foreign_models import Transformer
from test_planning import plain_stack, planned, step

import zoo
from pytorch_models.planning import make_plan


def test_the_doors_of_the_zoo() -> None:
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
