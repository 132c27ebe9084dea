"""A plan for another framework's parts: the same steps and kinds, what is lacking replaced; and the same doors."""

from __future__ import annotations

import ast
import warnings
from pathlib import Path
from typing import Any

import pytest

from zoo import frameworks
from zoo.planner import CostGraph, Option, Part, Plan, PlannedPart
from zoo.planner.adapt import PlanChangedWarning, adapt, adapted_plan
from zoo.planner.rounds import Search

ROOT = Path(__file__).resolve().parents[2]
FILES = (
    ("pytorch_models/planning/__init__.py", "pytorch_models/planning/carry_out.py"),
    ("tf_models/planning.py",),
    ("mxnet_memonger/part_planning.py",),
)
DOORS = ("make_plan", "study_plan", "apply_plan", "remove_plan", "adapt_plan", "real_peak")


def plan_of(names: tuple[str, ...], kinds: tuple[str, ...], steps: Any, budget_bytes: int = 2**40) -> Plan:
    parts = tuple(PlannedPart(name, kind, 1, 0, 0, 0.0) for name, kind in zip(names, kinds, strict=True))
    words: dict[str, Any] = {"framework": "torch", "model": "Net", "fingerprint": "f00d", "input_shape": (8, 3)}
    numbers = ("predicted_peak_bytes", "peak_bytes", "saved_bytes", "plain_peak_bytes", "predicted_seconds")
    words |= dict.fromkeys((*numbers, "plain_seconds", "noise"), 0)
    return Plan(**words, parts=parts, steps=steps, budget_bytes=budget_bytes)


@pytest.mark.quick
def test_parts_are_found_by_name_and_stretches_stay_together() -> None:
    names = ("conv1", "bn1", "layer1.0", "layer1.1", "fc", "(loss)")
    kinds = ("keep", "keep", "efficient", "4 bits", "keep", "keep")
    found = adapt(plan_of(names, kinds, ((0, 1, (2, 3)), 4, 5)), ["conv1", "layer1.0", "layer1.1", "(loss)"])
    assert found.steps == ((0, (1, 2)), 3)
    assert found.kinds == ("keep", "efficient", "4 bits", "keep")
    coarse = plan_of(("conv1", "layer1", "(loss)"), ("keep", "efficient", "keep"), ((0, 1), 2))
    finer = adapt(coarse, ["conv1", "bn1", "layer1.0", "layer1.1", "pool", "(loss)"])
    assert finer.steps == ((0, 1, 2, 3), 4, 5), "bn1, of which the plan says nothing, lies inside the stretch"
    assert finer.kinds == ("keep", "keep", "efficient", "efficient", "keep", "keep")


def graph_of(joins: bool = True) -> CostGraph:
    options = (Option("keep", 10, 1.0, 2.0), Option("efficient", 6, 1.0, 2.5), Option("2 bits", 5, 1.0, 2.5, noise=0.1))
    parts = [Part(name, 4, options[:2], joins=joins) for name in ("a", "b", "c")]
    return CostGraph.chain([*parts, Part("(loss)", 0, (Option("keep", 0, 0.0, 0.0),), reruns=False)])


def search_of(graph: CostGraph) -> Search:
    words: dict[str, Any] = {"framework": "mxnet", "model": "Net", "fingerprint": "f00d", "input_shape": (8, 3)}
    return Search(
        graph, lambda plan: (plan.predicted_peak_bytes, 0), {**words, "budget_bytes": 1, "plain_peak_bytes": 9}
    )


def test_what_is_lacking_is_replaced_aloud() -> None:
    names = ("a", "b", "c", "(loss)")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same = adapted_plan(
            plan_of(names, ("keep", "efficient", "keep", "keep"), ((0, 1), 2, 3)), search_of(graph_of())
        )
    assert [part.choice for part in same.parts] == ["keep", "efficient", "keep", "keep"]
    assert (same.steps, same.framework, same.budget_bytes) == (((0, 1), 2, 3), "mxnet", 2**40)
    with pytest.warns(PlanChangedWarning, match=r"made for torch; in mxnet: b is kept by 'efficient', .* for '2 bits'"):
        adapted_plan(plan_of(names, ("keep", "2 bits", "keep", "keep"), (0, 1, 2, 3)), search_of(graph_of()))
    with pytest.warns(PlanChangedWarning, match="b cannot run again with what is before it: its stretch is divided"):
        apart = adapted_plan(plan_of(names, ("keep",) * 4, ((0, 1), 2, 3)), search_of(graph_of(joins=False)))
    assert apart.steps == ((0,), (1,), 2, 3)
    with pytest.warns(PlanChangedWarning, match="more than the budget of 7"):
        adapted_plan(plan_of(names, ("keep",) * 4, (0, 1, 2, 3), budget_bytes=7), search_of(graph_of()))


def test_every_framework_has_the_same_doors() -> None:
    """Read and not imported: three frameworks take long to start."""
    taken: dict[str, list[list[str]]] = {door: [] for door in DOORS}
    for files in FILES:
        for file in files:
            for node in ast.parse((ROOT / file).read_text(encoding="utf-8")).body:
                if isinstance(node, ast.FunctionDef) and node.name in DOORS:
                    taken[node.name].append([one.arg for one in (*node.args.args, *node.args.kwonlyargs)])
    for door, names in taken.items():
        assert len(names) == len(FILES), door
        assert all(one == names[0] for one in names), door
    assert frameworks.framework_of(object()) is None
