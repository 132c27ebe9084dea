"""Plans in TensorFlow: within the budget, as predicted, the same numbers; and a plan file of PyTorch carried out."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_networks import LSTM, ResNet, batch, keras, network, one_step, tf

import zoo
from tf_models.carry_out import CarriedPlan
from tf_models.measure import random_batch
from tf_models.part_costs import traced_parts
from tf_models.step import make_step
from tf_models.weights import canonical_weights
from zoo.frameworks import FRAMEWORKS, why_missing
from zoo.planner import InfeasibleBudgetError, Plan, PlannedPart
from zoo.planner.adapt import PlanChangedWarning, fingerprint_of_spec
from zoo.policy import MemoryPolicy

SHAPE = (32, 3, 16, 16)
FIELDS: dict[str, Any] = {"layers": (3,), "width": 16, "num_classes": 5}
ONE_MAP = 32 * 16 * 16 * 16 * 4  # bytes; TensorFlow runs what is ready in either order, so one more may be there


def made() -> Any:
    keras.utils.set_random_seed(0)
    return ResNet(**FIELDS)


def step(model: Any) -> dict[str, np.ndarray]:
    """Loss, gradients and running statistics of one step in graph mode."""
    inputs, labels = random_batch(model, SHAPE, np.float32)
    loss, _, gradients = make_step(model, "graph")(inputs, labels)
    found = {"loss": loss.numpy()[None]}
    found |= {f"gradient {number}": tf.convert_to_tensor(one).numpy() for number, one in enumerate(gradients)}
    return found | {one.path: one.numpy() for one in model.non_trainable_variables}


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert np.abs(found[name] - array).max() <= 1e-5 * np.abs(array).max(), name


def by_hand(kinds: tuple[str, ...], steps: Any, framework: str = "torch") -> Plan:
    """A plan for `made()`, as PyTorch would have it."""
    names = ("conv1", "bn1", "relu", "layer1.0", "layer1.1", "layer1.2", "avgpool", "fc", "(loss)")
    parts = tuple(PlannedPart(name, kind, 1, 0, 0, 0.0) for name, kind in zip(names, kinds, strict=True))
    words: dict[str, Any] = {"framework": framework, "model": "ResNet", "input_shape": SHAPE}
    words |= {"fingerprint": fingerprint_of_spec(made().spec), "predicted_seconds": 0.0, "plain_seconds": 0.0}
    sizes = ("predicted_peak_bytes", "peak_bytes", "saved_bytes", "plain_peak_bytes")
    return Plan(**words, parts=parts, steps=steps, budget_bytes=2**40, noise=0.0, **dict.fromkeys(sizes, 0))


def test_a_plan_keeps_its_budget_and_changes_no_number() -> None:
    model = made()
    start = [one.numpy() for one in model.variables]
    plan = zoo.plan(model, SHAPE, budget=0.75, times="counted", framework="tensorflow")
    assert all(np.array_equal(one.numpy(), value) for one, value in zip(model.variables, start, strict=True))
    assert plan.peak_bytes <= plan.budget_bytes < plan.plain_peak_bytes
    assert plan.predicted_peak_bytes == pytest.approx(plan.peak_bytes, abs=ONE_MAP)
    assert any(part.runs > 1 for part in plan.parts)
    expected = step(made())
    model.train_function = "without the plan"
    assert plan.apply(model) is model
    assert model.train_function is None
    with pytest.raises(ValueError, match="has a plan already"):
        plan.apply(model)
    assert_same(step(model), expected)
    model.train_function = "of the plan"  # a graph that Keras's fit has made
    plan.remove(model)
    assert model.carried_plan is model.train_function is None
    with pytest.raises(InfeasibleBudgetError, match="the smallest that works"):
        zoo.plan(model, SHAPE, budget="1KB", times="counted", framework="tensorflow")


@pytest.mark.skipif(why_missing(FRAMEWORKS["torch"]) is not None, reason="PyTorch is not installed")
def test_a_plan_file_of_pytorch_makes_the_same_choices(tmp_path: Path) -> None:
    twin = zoo.frameworks.load("torch").ResNet(**FIELDS)
    zoo.plan(twin, SHAPE, budget=0.55, times="counted").save(tmp_path / "plan.json")
    plan = Plan.load(tmp_path / "plan.json")
    plan = replace(plan, budget_bytes=plan.budget_bytes + 2 * ONE_MAP)  # what runs side by side may need more
    model = made()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        adapted = plan.adapted(model)
    theirs, ours = ({p.name: (p.choice, p.runs) for p in one.parts} for one in (plan, adapted))
    assert [name for name in ours if ours[name] != theirs[name]] == []
    assert adapted.framework == "tensorflow"
    assert adapted.predicted_peak_bytes == pytest.approx(adapted.peak_bytes, abs=ONE_MAP)
    expected = step(made())
    adapted.apply(model)
    assert_same(step(model), expected)
    plan.remove(model)
    assert model.carried_plan is None
    back = adapted.adapted(twin)
    assert [part.choice for part in back.parts if part.name in ours] == [part.choice for part in adapted.parts]


@pytest.mark.parametrize("policy", [MemoryPolicy(), MemoryPolicy(efficient=True), MemoryPolicy(compressed=4)], ids=str)
def test_no_convolution_has_both_its_gradients_at_once(policy: MemoryPolicy) -> None:
    """Their scratch would be there twice; and how much is kept would hang on which thread is late."""
    model = ResNet(layers=(1, 1), width=8, block="bottleneck", groups=2, **vars(policy))
    parts = [name for name, _ in model.part_functions()]
    if policy == MemoryPolicy():
        model.carried_plan = CarriedPlan(None, tuple(parts), dict.fromkeys(parts, policy), (0, (1,), 2))
    inputs, labels = random_batch(model, (2, 3, 16, 16), np.float32)
    step_of = tf.function(make_step(model, "eager"), autograph=False)
    operations = step_of.get_concrete_function(inputs, labels).graph.get_operations()
    kinds = [one.type for one in operations]
    of_inputs = [one for one in operations if one.type == "Conv2DBackpropInput"]
    assert len(of_inputs) >= kinds.count("Conv2DBackpropFilter") - 1 > 4
    for one in of_inputs:
        assert "Conv2DBackpropFilter" in [before.type for before in one.control_inputs], one.name


@pytest.mark.slow
def test_nested_stretches_and_what_tensorflow_lacks() -> None:
    kinds = ("keep", "keep", "keep", "4 bits", "efficient", "keep", "keep", "keep", "keep")
    plan = by_hand(kinds, ((0, 1, 2, (3, 4), 5), 6, 7, 8))
    model, expected = made(), step(made())
    with pytest.warns(PlanChangedWarning, match=r"made for torch; in tensorflow: layer1\.0 .*'efficient'.*'4 bits'"):
        plan.apply(model)
    assert model.carried_plan.steps == ((0, (1, 2), 3), 4)
    assert_same(step(model), expected)
    with (
        pytest.warns(PlanChangedWarning, match=r"tensorflow without compressed=\.\.\. cannot compress"),
        pytest.raises(ValueError, match="already"),
    ):
        zoo.plan(model, SHAPE, budget=0.5, allow="compress", framework="tensorflow")


def test_a_coded_model_keeps_by_its_plan_and_codes_run_again() -> None:
    inputs, labels = batch("densenet", "float32")
    plain = network("densenet", dtype="float32")
    count = 1 + len(plain.trainable_variables)
    expected = one_step(plain, inputs, labels, "graph")[:count]
    statistics = {key: value for key, value in canonical_weights(plain).items() if "running" in key}
    for policy in (MemoryPolicy(), MemoryPolicy(compressed=8)):
        model = network("densenet", dtype="float32", compressed=8)
        names = tuple(name for name, _ in model.part_functions())
        model.carried_plan = CarriedPlan(None, names, dict.fromkeys(names, policy), (0, (1, (2, 3)), 4))
        found = one_step(model, inputs, labels, "graph")[:count]
        assert np.isclose(found[0], expected[0], rtol=1e-6)
        far = max(np.abs(a - b).max() / np.abs(b).max() for a, b in zip(found[1:], expected[1:], strict=True))
        assert 1e-4 < far < 0.1 if policy.compressed else far < 1e-5
        assert_same({key: canonical_weights(model)[key] for key in statistics}, statistics)


def test_codes_are_refused_by_a_model_that_was_built_without() -> None:
    names = [name for name, _ in made().part_functions()]
    kinds = dict.fromkeys(names, "keep") | {"layer1.0": "2 bits"}
    parts = tuple(PlannedPart(name, kind, 1, 0, 0, 0.0) for name, kind in kinds.items())
    plan = replace(by_hand(("keep",) * 9, tuple(range(9)), "tensorflow"), parts=parts, steps=tuple(range(len(parts))))
    with pytest.raises(ValueError, match=r"layer1\.0 .* 2 bits, .* built without codes: build it with compressed=4"):
        plan.apply(made())


@pytest.mark.slow
def test_a_model_with_codes_is_planned_with_codes_part_by_part() -> None:
    keras.utils.set_random_seed(0)
    model = ResNet(**FIELDS, compressed=4)
    plan = zoo.plan(model, SHAPE, budget=0.6, allow="compress", times="counted")
    coded = {part.choice for part in plan.parts} & {"8 bits", "4 bits", "2 bits"}
    assert coded
    assert plan.noise > 0
    assert plan.peak_bytes <= plan.budget_bytes < plan.plain_peak_bytes
    expected = step(made())
    found = step(plan.apply(model))
    assert np.isclose(found["loss"], expected["loss"], rtol=1e-6)
    far = max(float(np.abs(found[name] - expected[name]).max()) for name in expected if name.startswith("gradient"))
    assert far > 1e-6, "it is really coded"
    theirs = by_hand(("keep",) * 3 + ("2 bits", "keep", "efficient", "keep", "keep", "keep"), tuple(range(9)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        adapted = theirs.adapted(ResNet(**FIELDS, compressed=4))
    assert [part.choice for part in adapted.parts if part.name.startswith("layer1")] == ["2 bits", "keep", "efficient"]


def test_what_cannot_be_planned_is_refused() -> None:
    model = made()
    for asked, error, words in (
        ({"budget": "lots"}, ValueError, "budget must be"),
        ({"budget": 0.5, "times": "guessed"}, ValueError, "times"),
        ({"budget": 0.5, "solver": "mlip"}, ValueError, "did you mean milp"),
        ({"budget": 0.5, "loss": tf.reduce_sum}, ValueError, "leave loss out"),
        ({"budget": 0.5, "batch": "images"}, TypeError, "batch must be"),
        ({"budget": 0.5, "batch": (0, 3, 8, 8)}, ValueError, "positive sizes"),
    ):
        with pytest.raises(error, match=words):
            zoo.plan(model, **{"batch": SHAPE, "framework": "tensorflow", **asked})
    other = ResNet(layers=(2,), width=16)
    with pytest.raises(ValueError, match="made for another model"):
        by_hand(("keep",) * 9, tuple(range(9))).apply(other)
    recurrent = LSTM(reads="rows", input_size=28, hidden_size=8)
    parts = traced_parts(recurrent, random_batch(recurrent, (4, 1, 28, 28), np.float32)[0])
    assert [part.name for part in parts] == ["recurrent"]
