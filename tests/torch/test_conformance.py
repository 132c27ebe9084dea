"""What every family promises, whatever its flags: one table of families, flags, modes and dtypes."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pytest
import torch
from families import FAMILIES, Family, assert_same, inputs_of, norms_of, pair_of
from tiny_densenet import assert_only_gradients_differ, step
from torch import nn
from torch.nn import functional as F

from pytorch_models import LSTM, feature_extractor, measure_step
from pytorch_models.saving import tiles

ROWS = [(family, flags) for family in FAMILIES.values() for flags in family.flags]
IDS = [f"{name}-{index}" for name, family in FAMILIES.items() for index in range(len(family.flags))]
every_row = pytest.mark.parametrize(("family", "flags"), ROWS, ids=IDS)
every_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
Flags = Mapping[str, Any]


@pytest.fixture(autouse=True)
def _no_part_runs_plainly() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture(params=["one tile", "many tiles"])
def any_tiling(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "many tiles":
        monkeypatch.setattr(tiles, "TILE_BYTES", MappingProxyType({"cpu": 20_000}))


@pytest.mark.quick
@pytest.mark.usefixtures("any_tiling")
@every_row
def test_outputs_gradients_buffers_and_the_random_stream_are_plains(family: Family, flags: Flags) -> None:
    plain, other = pair_of(family, flags)
    assert_same(step(other, inputs_of(family)), step(plain, inputs_of(family)))


@every_row
def test_channels_last_inputs(family: Family, flags: Flags) -> None:
    plain, other = pair_of(family, flags)
    inputs = inputs_of(family).contiguous(memory_format=torch.channels_last)
    assert_same(step(other, inputs), step(plain, inputs))


@every_row
def test_eval_mode_and_some_norms_frozen(family: Family, flags: Flags) -> None:
    plain, other = pair_of(family, flags)
    for model in (plain, other):
        model.eval()
    inputs = inputs_of(family)
    assert_same(step(other, inputs), step(plain, inputs))
    for model in (plain, other):
        model.zero_grad()
        model.train()
        for norm in norms_of(model)[::2]:
            norm.eval()
        for norm in norms_of(model)[::3]:
            norm.requires_grad_(False)
    assert_same(step(other, inputs), step(plain, inputs))


@every_row
def test_norms_without_statistics_or_weights(family: Family, flags: Flags) -> None:
    plain, other = pair_of(family, flags)
    for model in (plain, other):
        for norm in norms_of(model):
            norm.track_running_stats = False
            norm.running_mean = norm.running_var = norm.num_batches_tracked = None
            norm.weight = norm.bias = None
    assert_same(step(other, inputs_of(family)), step(plain, inputs_of(family)))


@every_row
@pytest.mark.parametrize("momentum", [0.1, None])
def test_five_steps_of_training_end_alike(family: Family, flags: Flags, momentum: float | None) -> None:
    models = pair_of(family, flags)
    for model in models:
        for norm in norms_of(model):
            norm.momentum = momentum
        optimiser = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
        for seed in range(5):
            torch.manual_seed(seed)
            optimiser.zero_grad()
            F.cross_entropy(model(inputs_of(family, seed=seed)), torch.arange(len(inputs_of(family))) % 5).backward()
            optimiser.step()
    plain, other = (dict(model.state_dict()) for model in models)
    counts = {int(other[name]) for name in other if name.endswith("num_batches_tracked")}
    assert counts == ({5} if norms_of(models[0]) else set())
    assert_same(other, plain, tolerance=1e-9)


def error_against(truth: dict[str, torch.Tensor], found: dict[str, torch.Tensor]) -> float:
    """Relative error of the whole gradient."""
    names = [name for name in truth if name.startswith("gradient")]
    off = sum(float((found[name].double() - truth[name]).square().sum()) for name in names)
    return (off / sum(float(truth[name].square().sum()) for name in names)) ** 0.5


@pytest.mark.parametrize(("family", "flags"), [row for row in ROWS if "efficient" in row[1]])
@pytest.mark.parametrize("kind", ["float32", "autocast bfloat16"])
def test_low_precision_is_as_near_to_the_truth_as_plain(family: Family, flags: Flags, kind: str) -> None:
    """Median over seeds of (error of efficient / error of plain) against float64."""
    ratios = []
    for seed in range(5):
        inputs = inputs_of(family, seed=seed)
        models = pair_of(family, flags, seed=seed)
        expected, errors = step(copy.deepcopy(models[0]), inputs), []
        for model in models:
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=kind.startswith("autocast")):
                found = step(model.float(), inputs.float())
            assert all(found[name].dtype == torch.float32 for name in found if name.startswith("gradient"))
            errors.append(error_against(expected, found))
        ratios.append(errors[1] / errors[0])
    assert sorted(ratios)[2] <= 1.2, ratios


@every_row
def test_two_forwards_then_two_backwards_and_a_retained_graph(family: Family, flags: Flags) -> None:
    results = []
    for model in pair_of(family, flags):
        torch.manual_seed(0)
        first, second = model(inputs_of(family, seed=1)), model(inputs_of(family, seed=2))
        first.sum().backward(retain_graph=True)
        (second * second).sum().backward()
        first.square().sum().backward()
        results.append({n: p.grad for n, p in model.named_parameters()} | dict(model.named_buffers()))
    assert_same(results[1], results[0])


@every_row
@pytest.mark.parametrize("needs_input", [False, True])
def test_parts_without_gradient(family: Family, flags: Flags, needs_input: bool) -> None:
    plain, other = pair_of(family, flags)
    for model in (plain, other):
        parameters = list(model.parameters())
        for parameter in parameters[: len(parameters) // 2]:
            parameter.requires_grad_(False)
    inputs = inputs_of(family)
    assert_same(step(other, inputs, needs_input), step(plain, inputs, needs_input))


@every_row
def test_no_grad_gives_what_eval_gives_and_keeps_nothing(family: Family, flags: Flags) -> None:
    _, model = pair_of(family, flags)
    model.eval()
    with torch.no_grad():
        without = model(inputs_of(family))
    assert torch.equal(without, model(inputs_of(family)).detach())
    assert without.grad_fn is None


@every_family
@pytest.mark.parametrize("flags", [{}, {"efficient": True}], ids=str)
@pytest.mark.parametrize("compressed", [2, "fixed:5"])
def test_codes_change_gradients_alone(family: Family, flags: Flags, compressed: int | str) -> None:
    (_, exact), (_, coded) = (
        pair_of(family, way, torch.float32) for way in (flags, {**flags, "compressed": compressed})
    )
    expected, found = (step(model, inputs_of(family, torch.float32)) for model in (exact, coded))
    assert_only_gradients_differ(found, expected)


@every_family
def test_codes_keep_less_and_change_no_name(family: Family) -> None:
    ways = ({}, {"efficient": True}, {"compressed": 2}, {"efficient": True, "compressed": 2})
    plain, efficient, coded, both = (family.build(**flags) for flags in ways)
    assert list(plain.state_dict()) == list(coded.state_dict()) == list(both.state_dict())
    saved = [measure_step(m, family.inputs, execute=False).saved_bytes for m in (plain, efficient, coded, both)]
    assert saved[2] < saved[0], saved
    assert saved[3] <= min(saved[1:3]), saved
    if not isinstance(both, LSTM):
        both.set_grad_checkpointing()
        assert measure_step(both, family.inputs, execute=False).saved_bytes < saved[1]
    step(both, inputs_of(family, torch.float32))
    assert all(torch.isfinite(parameter.grad).all() for parameter in both.parameters())


@every_row
def test_names_and_shapes_do_not_depend_on_flags(family: Family, flags: Flags) -> None:
    plain, other = family.build(), family.build(**flags)
    assert [(n, t.shape) for n, t in plain.state_dict().items()] == [
        (n, t.shape) for n, t in other.state_dict().items()
    ]
    plain.load_state_dict(other.state_dict(), strict=True)
    other.load_state_dict({f"module.{name}": tensor for name, tensor in plain.state_dict().items()}, strict=True)


@every_family
def test_bytes_fall_and_are_the_same_under_fake_tensors(family: Family) -> None:
    saved = []
    for flags in ({}, *family.flags[:2]):
        model = family.build(**flags)
        fake = measure_step(model, family.inputs, execute=False)
        real = measure_step(model, family.inputs, repeats=0)
        assert real.saved_bytes == fake.saved_bytes
        # Not equal for an LSTM: oneDNN's operators make some values of a few bytes that fake ones do not.
        assert real.peak_bytes == pytest.approx(fake.peak_bytes, abs=64 if isinstance(model, LSTM) else 0)
        saved.append(fake.saved_bytes)
    assert saved[-1] <= saved[1] < saved[0], saved


@every_row
def test_double_backward_is_refused_with_a_way_out(family: Family, flags: Flags) -> None:
    _, model = pair_of(family, flags)
    inputs = inputs_of(family).requires_grad_()
    with pytest.raises(RuntimeError, match="efficient=False"):
        torch.autograd.grad(model(inputs).sum(), inputs, create_graph=True)


@every_row
def test_finite_differences(family: Family, flags: Flags) -> None:
    _, model = pair_of(family, flags)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if hasattr(module, "drop_rate"):
            module.drop_rate = 0.0
        if isinstance(module, nn.LSTM):
            module.dropout = 0.0
    torch.autograd.gradcheck(model, (inputs_of(family)[:2].requires_grad_(),), fast_mode=True)


@every_family
def test_a_copy_and_a_pickled_copy_behave_alike(family: Family) -> None:
    flags = family.flags[0]
    _, model = pair_of(family, flags)
    expected = step(model, inputs_of(family))
    assert copy.deepcopy(model).policy == model.policy != family.build().policy
    _, again = pair_of(family, flags)
    assert_same(step(copy.deepcopy(again), inputs_of(family)), expected, tolerance=0)


@pytest.mark.parametrize(("family", "flags"), [row for row in ROWS if len(row[0].inputs) == 4])
def test_gradient_checkpointing_keeps_less_and_changes_no_number(family: Family, flags: Flags) -> None:
    plain, other = pair_of(family, flags)
    before = measure_step(other, family.inputs, dtype=torch.float64, execute=False).saved_bytes
    other.set_grad_checkpointing()
    assert measure_step(other, family.inputs, dtype=torch.float64, execute=False).saved_bytes < before
    assert_same(step(other, inputs_of(family)), step(plain, inputs_of(family)))


@pytest.mark.parametrize("family", [family for family in FAMILIES.values() if family.build.func is not LSTM])
def test_feature_maps_shrink(family: Family) -> None:
    features = feature_extractor(family.build(efficient=True))
    assert list(features.reductions) == sorted(set(features.reductions))
    shapes = [maps.shape[1:] for maps in features.eval()(torch.zeros(2, 3, 64, 64))]
    expected = [(c, 64 // r, 64 // r) for c, r in zip(features.channels, features.reductions, strict=True)]
    assert [tuple(shape) for shape in shapes] == expected
