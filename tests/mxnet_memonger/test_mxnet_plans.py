"""Plans of the zoo in MXNet: mirror marks by blocks, within the budget, the same numbers; plan files of PyTorch."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mxnet_networks import mx

import mxnet_memonger
import zoo
from mxnet_memonger import LSTM, DenseNet, MobileNetV2, ResNet, measure_step
from mxnet_memonger.part_plans import PartSpace
from mxnet_memonger.step import StepRunner
from zoo.frameworks import FRAMEWORKS, why_missing
from zoo.planner import InfeasibleBudgetError, Plan, PlannedPart
from zoo.planner.adapt import PlanChangedWarning, fingerprint_of_spec

SHAPE = (16, 3, 16, 16)
FIELDS: dict[str, Any] = {"layers": (3, 2), "width": 16, "num_classes": 5}


def made(kind: Any = ResNet, fields: dict[str, Any] = FIELDS) -> Any:
    mxnet_memonger.set_seed(0)
    return kind(**fields)


def step(model: Any, shape: tuple[int, ...] = SHAPE) -> dict[str, np.ndarray]:
    """Probabilities, gradients and running statistics of one step."""
    draw = np.random.default_rng(0)
    runner = StepRunner(model, mx.cpu())
    mxnet_memonger.set_seed(1)
    images = draw.standard_normal(shape).astype(np.float32)
    found = {"output": runner.train(images, np.arange(shape[0]) % 5)[0].asnumpy()}
    found |= {f"gradient {name}": array.asnumpy() for name, array in runner.gradients.items()}
    mx.nd.waitall()
    return found | {name: model.arrays[name].asnumpy() for name in model.state_names}


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert np.abs(found[name] - array).max() <= 1e-5 * np.abs(array).max(), name


CASES: dict[str, tuple[Any, dict[str, Any], tuple[int, ...]]] = {
    "ResNet": (ResNet, FIELDS, SHAPE),
    "DenseNet": (DenseNet, {"growth_rate": 8, "block_config": (3, 3), "num_classes": 5}, SHAPE),
    "MobileNetV2": (MobileNetV2, {"width_mult": 0.35, "num_classes": 5}, (4, 3, 64, 64)),
}


@pytest.mark.parametrize("name", CASES)
def test_a_plan_keeps_its_budget_and_changes_no_number(name: str) -> None:
    kind, fields, shape = CASES[name]
    model = made(kind, fields)
    plan = zoo.plan(model, shape, budget=0.75, times="counted", framework="mxnet")
    assert plan.peak_bytes <= plan.budget_bytes < plan.plain_peak_bytes
    assert plan.plain_seconds < plan.predicted_seconds < 1.6 * plan.plain_seconds
    assert measure_step(model, shape, repeats=0).peak_bytes == plan.plain_peak_bytes
    expected = step(made(kind, fields), shape)
    assert plan.apply(model) is model
    assert measure_step(model, shape, repeats=0).peak_bytes == plan.peak_bytes
    assert_same(step(model, shape), expected)
    with pytest.raises(ValueError, match="has a plan already"):
        plan.apply(model)
    plan.remove(model)
    assert model.carried_plan is None
    with pytest.raises(InfeasibleBudgetError) as caught:
        zoo.plan(model, shape, budget="10KB", framework="mxnet")
    least = zoo.plan(model, shape, budget=caught.value.smallest_bytes, framework="mxnet")
    assert least.peak_bytes == caught.value.smallest_bytes
    assert least.peak_bytes < 0.75 * plan.plain_peak_bytes


@pytest.mark.skipif(why_missing(FRAMEWORKS["torch"]) is not None, reason="PyTorch is not installed")
def test_a_plan_file_of_pytorch_makes_the_same_choices(tmp_path: Path) -> None:
    twin = zoo.frameworks.load("torch").ResNet(**FIELDS)
    zoo.plan(twin, SHAPE, budget=0.55, times="counted").save(tmp_path / "plan.json")
    plan = Plan.load(tmp_path / "plan.json")
    model = made()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PlanChangedWarning)  # the budget is PyTorch's: MXNet may need more
        adapted = plan.adapted(model)
    theirs, ours = ({p.name: p.choice for p in one.parts} for one in (plan, adapted))
    assert all(ours[name] == theirs[name] for name in ours if name.startswith("layer"))
    again = [{p.name for p in one.parts if p.runs > 1 and p.name.startswith("layer")} for one in (plan, adapted)]
    assert again[0] == again[1] != set()
    adapted.apply(model)
    assert measure_step(model, SHAPE, repeats=0).peak_bytes == adapted.peak_bytes == adapted.predicted_peak_bytes
    assert_same(step(model), step(made()))
    plan.remove(model)
    assert model.carried_plan is None


def test_what_mxnet_lacks_is_replaced_aloud() -> None:
    model = made()
    parts = PartSpace.of(model, SHAPE).parts
    assert [part.name for part in parts] == [
        "conv1",
        *(f"layer1.{i}" for i in range(3)),
        "layer2.0",
        "layer2.1",
        "(loss)",
    ]
    words: dict[str, Any] = {"framework": "torch", "model": "ResNet", "input_shape": SHAPE, "budget_bytes": 2**40}
    sizes = ("predicted_peak_bytes", "peak_bytes", "saved_bytes", "plain_peak_bytes")
    words |= {"fingerprint": fingerprint_of_spec(model.spec), "noise": 0.0, **dict.fromkeys(sizes, 0)}
    kinds = ("keep", "4 bits", "efficient", "keep", "keep", "keep", "keep")
    chosen = tuple(PlannedPart(part.name, kind, 1, 0, 0, 0.0) for part, kind in zip(parts, kinds, strict=True))
    seconds = {"predicted_seconds": 0.0, "plain_seconds": 0.0}
    plan = Plan(**words, **seconds, parts=chosen, steps=(0, 1, 2, ((3, 4), 5), 6))
    with pytest.warns(PlanChangedWarning, match=r"in mxnet: layer1\.0 is kept by 'efficient', .*'4 bits'"):
        plan.apply(model)
    assert_same(step(model), step(made()))
    plan.remove(model)
    with pytest.warns(PlanChangedWarning, match="mxnet cannot compress"):
        zoo.plan(model, SHAPE, budget=0.9, allow=("recompute", "compress"), framework="mxnet")


def test_what_cannot_be_planned_is_refused() -> None:
    model = made()
    for asked, error, words in (
        ({"budget": "lots"}, ValueError, "budget must be"),
        ({"budget": 0.5, "solver": "mlip"}, ValueError, "did you mean milp"),
        ({"budget": 0.5, "loss": sum}, ValueError, "leave loss out"),
        ({"budget": 0.5, "batch": "images"}, TypeError, "batch must be"),
        ({"budget": 0.5, "batch": (0, 3, 8, 8)}, ValueError, "positive sizes"),
    ):
        with pytest.raises(error, match=words):
            zoo.plan(model, **{"batch": SHAPE, "framework": "mxnet", **asked})
    plan = zoo.plan(model, SHAPE, budget=0.9, framework="mxnet")
    with pytest.raises(ValueError, match="made for another model"):
        plan.apply(made(ResNet, {"layers": (2,), "width": 16}))
    with pytest.raises(ValueError, match="time steps of an LSTM are no blocks"):
        zoo.plan(LSTM(input_size=3, hidden_size=4), (2, 1, 8, 3), budget=0.5, framework="mxnet")
