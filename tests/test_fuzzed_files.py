"""Files that somebody else wrote, or that a disk spoiled: read as they are, or refused with words; never a crash."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

import zoo
from zoo import weights
from zoo.frameworks import FRAMEWORKS
from zoo.planner import Plan
from zoo.planner.kinds import KINDS
from zoo.planner.plan import PlannedPart
from zoo.run_folder import RunFolderError, finished_epochs, read_flags, read_result
from zoo.saved_run import rebuild_config
from zoo.weights import WeightsError

in_one_folder = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 2**70) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
DTYPES = st.sampled_from([np.dtype(kind) for kind in weights.DTYPES.values()])
ARRAYS = st.dictionaries(
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12).filter(
        lambda name: name != "__metadata__"
    ),
    DTYPES.flatmap(lambda kind: arrays(kind, array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))),
    max_size=4,
)


@in_one_folder
@given(content=ARRAYS)
def test_weights_come_back_to_the_bit(content: dict[str, np.ndarray], tmp_path: Path) -> None:
    pytest.importorskip("safetensors", reason="safetensors is not installed")
    weights.write(tmp_path / "some.safetensors", content)
    found, network = weights.read(tmp_path / "some.safetensors")
    assert network is None
    assert found.keys() == content.keys()
    for name, value in content.items():
        assert found[name].dtype == value.dtype
        assert found[name].shape == value.shape
        assert found[name].tobytes() == value.tobytes()


@in_one_folder
@given(data=st.data())
def test_damaged_weights_are_read_or_refused(data: st.DataObject, tmp_path: Path) -> None:
    """The format has no checksum: what is left of its list of tensors decides."""
    pytest.importorskip("safetensors", reason="safetensors is not installed")
    path = tmp_path / "some.safetensors"
    weights.write(path, {"a.weight": np.arange(6, dtype="<f4").reshape(2, 3), "a.bias": np.zeros(2, "<i8")})
    whole = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, 8 * len(whole) - 1))
    whole[place // 8] ^= 1 << (place % 8)
    path.write_bytes(whole[: data.draw(st.sampled_from([len(whole), len(whole) - 1, len(whole) // 2, 7]))])
    try:
        found, _ = weights.read(path)
    except WeightsError as error:
        assert str(path) in str(error)  # noqa: PT017 - a file may be read as well
    else:
        assert all(isinstance(value, np.ndarray) for value in found.values())


COUNTS = st.integers(0, 2**50)
SECONDS = st.floats(0, 1e6)
KIND = st.sampled_from(sorted(KINDS))
PARTS = st.builds(PlannedPart, st.text(), KIND, st.integers(1, 9), COUNTS, COUNTS, SECONDS)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    parts = tuple(draw(st.lists(PARTS, min_size=1, max_size=4)))
    cut = draw(st.integers(0, len(parts) - 1))
    steps = (*range(cut), tuple(range(cut, len(parts))))
    words = {name: draw(st.text()) for name in ("model", "fingerprint")}
    words["framework"] = draw(st.sampled_from(sorted(FRAMEWORKS)))
    counts = ("budget_bytes", "predicted_peak_bytes", "peak_bytes", "saved_bytes", "plain_peak_bytes")
    seconds = ("predicted_seconds", "plain_seconds", "noise")
    numbers = {name: draw(COUNTS) for name in counts} | {name: draw(SECONDS) for name in seconds}
    shape = tuple(draw(st.lists(st.integers(1, 999), min_size=1, max_size=4)))
    taken = draw(st.none() | SECONDS)
    return Plan(**words, input_shape=shape, parts=parts, steps=steps, step_seconds=taken, **numbers)


@in_one_folder
@given(plan=plans())
def test_a_plan_comes_back_from_its_file(plan: Plan, tmp_path: Path) -> None:
    plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == plan
    assert str(Plan.load(tmp_path / "plan.json")) == str(plan)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | KIND
ANY_JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner))


@in_one_folder
@given(plan=plans(), value=ANY_JSON, data=st.data())
def test_a_field_that_cannot_be_is_refused_by_its_name(
    plan: Plan, value: object, data: st.DataObject, tmp_path: Path
) -> None:
    """Any JSON in the place of one field: a plan that is itself a file, or a ValueError that names the field."""
    path = tmp_path / "plan.json"
    plan.save(path)
    found = json.loads(path.read_text())
    field = data.draw(st.sampled_from(sorted(found)))
    where, holder = field, found
    if data.draw(st.booleans()):
        place = data.draw(st.integers(0, len(plan.parts) - 1))
        holder, field = found["parts"][place], data.draw(st.sampled_from(sorted(found["parts"][place])))
        where = f"parts[{place}].{field}"
    holder[field] = value
    path.write_text(json.dumps(found))
    try:
        read = Plan.load(path)
    except ValueError as error:
        assert where in str(error)  # noqa: PT017 - another value may do as well
    else:
        read.save(path)
        assert Plan.load(path) == read
        assert str(read)
        assert {part.choice for part in read.parts} <= {*KINDS}


@pytest.mark.parametrize("text", ["[" * 10**5, '{"format": ' + "9" * 5000 + "}", "{}", '"plan"', "1e999", "\ufeff{}"])
def test_what_json_holds_no_plan(text: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="holds no plan"):
        Plan.load(path)


@in_one_folder
@given(plan=plans(), data=st.data())
def test_a_plan_that_was_cut_off_is_refused(plan: Plan, data: st.DataObject, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    plan.save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(ValueError, match=r"plan\.json holds no plan"):
        Plan.load(path)


@in_one_folder
@given(content=st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_config_is_a_runs_or_refused(content: bytes, tmp_path: Path) -> None:
    for name in ("config.json", "metrics.csv", "result.json"):
        (tmp_path / name).write_bytes(content)
    assert finished_epochs(tmp_path) >= 0
    assert isinstance(read_result(tmp_path), dict | None)
    for read in (read_flags, zoo.load_run):
        with pytest.raises(RunFolderError, match=r"config\.json"):
            read(tmp_path)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(network=st.dictionaries(st.sampled_from(["family", "growth_rate", "block_config", "x"]), JSON, max_size=4))
def test_any_network_of_a_config_is_built_or_refused(network: dict[str, Any]) -> None:
    with contextlib.suppress(ValueError, TypeError):
        assert rebuild_config({"family": "densenet", **network})
