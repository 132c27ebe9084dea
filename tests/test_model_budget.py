"""`create_model` and `measure` with a budget: the batch that a plan is for, and names that are none; no framework."""

from __future__ import annotations

from typing import Any

import pytest

import zoo


@pytest.mark.quick
def test_a_batch_size_without_a_budget_would_change_nothing() -> None:
    with pytest.raises(ValueError, match=r"batch_size=4 changes nothing without a budget, .*: leave it out"):
        zoo.create_model("resnet20", batch_size=4)
    with pytest.raises(ValueError, match="batch_size must be at least 1, not 0"):
        zoo.create_model("resnet20", budget=0.5, batch_size=0)


@pytest.mark.quick
def test_a_name_is_text() -> None:
    with pytest.raises(TypeError, match="the name of a model is needed, not 3"):
        zoo.create_model(3)  # type: ignore[arg-type]


@pytest.mark.quick
@pytest.mark.parametrize(("flags", "expected"), [({"budget": 0.5}, 4), ({"efficient": True}, None), ({}, None)])
def test_a_measured_plan_is_for_the_batch_that_is_measured(
    monkeypatch: pytest.MonkeyPatch, flags: dict[str, Any], expected: int | None
) -> None:
    class Enough(Exception):
        pass

    def create_model(name: str, framework: str, **given: Any) -> None:
        asked.append(given)
        raise Enough

    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(zoo, "create_model", create_model)
    with pytest.raises(Enough):
        zoo.measure("resnet20", batch_size=4, **flags)
    assert asked[0].get("batch_size") == expected
