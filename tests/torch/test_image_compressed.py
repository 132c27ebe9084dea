"""compressed= in ResNet and MobileNetV2: outputs to the bit; gradients unbiased, exact where nothing is rounded."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pytest
import torch
from families import FAMILIES, Family, assert_same, inputs_of, norms_of, pair_of
from lossless_codec import use_lossless_codec
from test_densenet_noise import bias_and_noise
from tiny_densenet import assert_only_gradients_differ, images, step
from torch import nn

from pytorch_models import MobileNetV2, ResNet, measure_step
from pytorch_models.saving import tiles

EFFICIENT = {"efficient": True}
BASES = ({}, EFFICIENT, EFFICIENT | {"keep_bottleneck": True})
IMAGES = {name: family for name, family in FAMILIES.items() if family.build.func in (ResNet, MobileNetV2)}
every_family = pytest.mark.parametrize("family", IMAGES.values(), ids=IMAGES)
every_base = pytest.mark.parametrize("base", BASES[:2], ids=str)


@pytest.fixture(autouse=True)
def _no_part_runs_plainly() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture
def lossless(monkeypatch: pytest.MonkeyPatch) -> None:
    use_lossless_codec(monkeypatch)


def same_but_compressed(
    family: Family, base: Mapping[str, Any], compressed: int | str = 2, dtype: torch.dtype = torch.float32
) -> tuple[nn.Module, nn.Module]:
    """A model with the flags, and one with compression on top: same weights."""
    return pair_of(family, base, dtype)[1], pair_of(family, {**base, "compressed": compressed}, dtype)[1]


@pytest.mark.parametrize("base", BASES, ids=str)
@pytest.mark.parametrize("compressed", [2, "fixed:3"])
@every_family
def test_outputs_buffers_and_the_random_stream_do_not_change_by_a_bit(
    family: Family, compressed: int | str, base: Mapping[str, Any]
) -> None:
    exact, coded = same_but_compressed(family, base, compressed)
    inputs = inputs_of(family, torch.float32)
    assert_only_gradients_differ(step(coded, inputs), step(exact, inputs))


@pytest.mark.quick
@pytest.mark.parametrize("mode", ["eval", "no_grad", "autocast"])
@every_base
@every_family
def test_outputs_in_other_modes(family: Family, base: Mapping[str, Any], mode: str) -> None:
    exact, coded = same_but_compressed(family, base)
    inputs = inputs_of(family, torch.float32).contiguous(memory_format=torch.channels_last)
    with torch.set_grad_enabled(mode != "no_grad"), torch.autocast("cpu", torch.bfloat16, enabled=mode == "autocast"):
        outputs = []
        for model in (exact, coded):
            torch.manual_seed(3)
            outputs.append(model.train(mode != "eval")(inputs))
    assert torch.equal(*outputs)
    if mode == "autocast":
        outputs[1].float().square().sum().backward()
        assert all(torch.isfinite(parameter.grad).all() for parameter in coded.parameters())


@pytest.mark.usefixtures("lossless")
@every_base
@every_family
def test_gradients_are_exact_where_nothing_is_rounded(
    family: Family, base: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, coded = pair_of(family, {**base, "compressed": 2})
    assert_same(step(coded, inputs_of(family)), step(plain, inputs_of(family)))
    monkeypatch.setattr(tiles, "TILE_BYTES", MappingProxyType({"cpu": 20_000}))
    plain, coded = pair_of(family, {**base, "compressed": 2})
    inputs = inputs_of(family).contiguous(memory_format=torch.channels_last)
    assert_same(step(coded, inputs), step(plain, inputs))


@pytest.mark.usefixtures("lossless")
@pytest.mark.parametrize("frozen", ["eval", "some norms", "no running statistics", "parameters"])
@every_base
@every_family
def test_gradients_are_exact_with_frozen_parts(family: Family, base: Mapping[str, Any], frozen: str) -> None:
    plain, coded = pair_of(family, {**base, "compressed": 2})
    for model in (plain, coded):
        freeze(model, frozen)
    for needs_input in (True, False):
        assert_same(step(coded, inputs_of(family), needs_input), step(plain, inputs_of(family), needs_input))


def freeze(model: nn.Module, what: str) -> None:
    if what == "eval":
        model.eval()
    elif what == "parameters":
        parameters = list(model.parameters())
        for number, parameter in enumerate(parameters):
            parameter.requires_grad_(number > len(parameters) // 2 or number % 3 == 1)
    elif what == "some norms":
        for norm in norms_of(model)[::2]:
            norm.eval().requires_grad_(False)
    else:
        for norm in norms_of(model):
            norm.track_running_stats = False
            norm.running_mean = norm.running_var = norm.num_batches_tracked = None
            norm.weight = norm.bias = None


def test_a_frozen_network_keeps_no_codes() -> None:
    for name in ("resnet", "mobilenet_v2"):
        _, coded = same_but_compressed(IMAGES[name], {})
        head = coded.fc if name == "resnet" else coded.classifier
        coded.requires_grad_(False)
        head.requires_grad_(True)
        report = measure_step(coded, IMAGES[name].inputs, execute=False)
        kept = {row.name for row in report.rows}
        assert kept <= {"fc", "classifier.0", "classifier.1", "loss"}, kept


@pytest.mark.usefixtures("lossless")
@every_base
def test_two_uses_in_a_step(base: Mapping[str, Any]) -> None:
    for name in ("resnet", "mobilenet_v2"):
        results = []
        for model in pair_of(IMAGES[name], {**base, "compressed": 2}):
            torch.manual_seed(0)
            first, second = (model(inputs_of(IMAGES[name], seed=seed)) for seed in (1, 2))
            first.sum().backward(retain_graph=True)
            (second * second).sum().backward()
            first.square().sum().backward()
            results.append({n: p.grad for n, p in model.named_parameters()} | dict(model.named_buffers()))
        assert_same(results[1], results[0])


def test_two_backward_passes_of_one_step_agree() -> None:
    for base in BASES[:2]:
        _, coded = same_but_compressed(IMAGES["resnet"], base)
        loss, parameters = coded(inputs_of(IMAGES["resnet"], torch.float32)).square().sum(), list(coded.parameters())
        first = torch.autograd.grad(loss, parameters, retain_graph=True)
        second = torch.autograd.grad(loss, parameters)
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def block_of(kind: str, compressed: int | str | None, **flags: bool) -> nn.Module:
    """The second block of a stage alone: a batch large enough for a norm's own bias, of order 1/M, to vanish."""
    shape = {"width": 8, "num_classes": 5, "layers": (2, 1)}
    torch.manual_seed(0)
    if kind == "inverted":
        model: nn.Module = MobileNetV2(width_mult=0.1, compressed=compressed, **flags).features[3]
    else:
        model = ResNet(**shape, pre_activation=kind == "pre-activation", compressed=compressed, **flags).layer1[1]
    for norm in norms_of(model):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, 0.5 if kind == "inverted" else 0.0, 0.5)
    return model


BLOCKS = [("basic", {}, 2), ("basic", EFFICIENT, "fixed:4"), ("pre-activation", {}, 1), ("inverted", {}, 2)]


@pytest.mark.parametrize(("kind", "base", "compressed"), [*BLOCKS, ("inverted", EFFICIENT, "fixed:4")])
def test_gradients_are_unbiased(kind: str, base: Mapping[str, Any], compressed: int | str) -> None:
    exact, coded = block_of(kind, None, **base), block_of(kind, compressed, **base)
    squares, noise = bias_and_noise(coded, exact, 64, torch.randn(16, 8, 12, 12).relu())
    assert squares < 1.8
    assert noise > 1e-3, "something was rounded"


@pytest.mark.parametrize("kind", ["pre-activation", "inverted"])
def test_the_test_of_bias_notices_a_clamped_activation(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from pytorch_models.saving import units

    rebuild = units.rebuild_into
    monkeypatch.setattr(units, "rebuild_into", lambda *arguments: rebuild(*arguments).clamp_(0, 6))
    exact, coded = block_of(kind, None), block_of(kind, 2)
    assert bias_and_noise(coded, exact, 64, torch.randn(16, 8, 12, 12).relu())[0] > 3


@pytest.mark.usefixtures("lossless")
@pytest.mark.parametrize("activation", [nn.SiLU(), nn.Hardswish(), nn.LeakyReLU(0.1)], ids=str)
@every_base
def test_inputs_of_other_activations_are_kept_as_they_are(base: Mapping[str, Any], activation: nn.Module) -> None:
    """In the middle of a block; after a sum PyTorch's own way is taken for those that need their input."""
    plain, coded = pair_of(IMAGES["resnet, pre-activation"], {**base, "compressed": 2})
    for model in (plain, coded):
        for block in (*model.layer1, *model.layer2):
            block.relu = activation
    inputs = inputs_of(IMAGES["resnet, pre-activation"])
    assert_same(step(coded, inputs), step(plain, inputs))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes(dtype: torch.dtype) -> None:
    for base in BASES[:2]:
        exact, coded = same_but_compressed(IMAGES["resnet"], base, 8, dtype)
        inputs = images(16, 16, dtype)
        expected, found = (
            torch.cat([value.flatten().double() for name, value in step(model, inputs).items() if "gradient" in name])
            for model in (exact, coded)
        )
        assert nn.functional.cosine_similarity(found, expected, 0) > 0.98


def test_a_compressing_model_is_copied_and_pickled() -> None:
    _, coded = same_but_compressed(IMAGES["mobilenet_v2"], EFFICIENT)
    step(coded, inputs_of(IMAGES["mobilenet_v2"], torch.float32))
    for other in (copy.deepcopy(coded), pickle.loads(pickle.dumps(coded))):
        assert list(other.state_dict()) == list(coded.state_dict())
        assert other.policy == coded.policy


@pytest.mark.parametrize("kind", [ResNet, MobileNetV2])
@pytest.mark.parametrize("wrong", [3, "zero", "fixed:1"])
def test_wrong_codecs_are_refused_before_work(kind: type[nn.Module], wrong: int | str) -> None:
    with pytest.raises(ValueError, match="compressed"):
        kind(compressed=wrong)
