"""compressed=: outputs to the bit, gradients unbiased or exact where nothing is rounded, the three ways of a block."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from lossless_codec import use_lossless_codec
from tiny_densenet import assert_only_gradients_differ, assert_same, gradients, images, pair, same_but_compressed, step
from torch import Tensor, nn

from pytorch_models import DenseNet
from pytorch_models.compression import NoiseSeeds, NormCodec
from pytorch_models.saving.dense_storage import Bottleneck, DenseStorage, choose_storage
from pytorch_models.saving.gradient_sink import GradientSink
from pytorch_models.saving.masks import TileMasks
from zoo.policy import MemoryPolicy

EFFICIENT = {"efficient": True}
SHAPES: dict[str, dict[str, Any]] = {
    "bottleneck": {},
    "no bottleneck": {"bn_size": 0},
    "dropout": {"drop_rate": 0.3},
    "large inputs": {"small_inputs": False},
}


def size_for(flags: dict[str, Any]) -> int:
    return 32 if "small_inputs" in flags else 12


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("flags", [{}, EFFICIENT, EFFICIENT | {"keep_bottleneck": True}], ids=str)
@pytest.mark.parametrize("compressed", [2, "fixed:3"])
def test_outputs_buffers_and_the_random_stream_do_not_change_by_a_bit(
    compressed: int | str, flags: dict[str, Any], shape: str
) -> None:
    exact, coded = same_but_compressed(compressed, **flags, **SHAPES[shape])
    inputs = images(size=size_for(SHAPES[shape]), dtype=torch.float32)
    assert_only_gradients_differ(step(coded, inputs), step(exact, inputs))


@pytest.mark.quick
@pytest.mark.parametrize("mode", ["train", "eval", "no_grad"])
def test_outputs_in_other_modes(mode: str) -> None:
    for flags in ({}, EFFICIENT):
        exact, coded = same_but_compressed(2, **flags)
        with torch.set_grad_enabled(mode != "no_grad"):
            inputs = images(dtype=torch.float32).contiguous(memory_format=torch.channels_last)
            outputs = [model.train(mode != "eval")(inputs) for model in (exact, coded)]
        assert torch.equal(*outputs)


@pytest.fixture
def lossless(monkeypatch: pytest.MonkeyPatch) -> None:
    use_lossless_codec(monkeypatch)


WAYS = {
    "features coded": (True, Bottleneck.CODED),
    "1x1 outputs coded": (False, Bottleneck.CODED),
    "nothing coded": (False, Bottleneck.RECOMPUTED),
}


def force(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """Take one of the three ways whatever it costs."""
    features_coded, bottleneck = WAYS[way]

    def choose(policy: MemoryPolicy, *arguments: Any) -> DenseStorage:
        if policy.compressed is None:
            return choose_storage(policy, *arguments)
        codec = NormCodec.of(policy) if bottleneck is Bottleneck.CODED else None
        return DenseStorage(codec, features_coded, False, bottleneck)

    monkeypatch.setattr("pytorch_models.saving.dense_call.choose_storage", choose)


@pytest.mark.usefixtures("lossless")
@pytest.mark.parametrize(
    ("way", "flags"), [(way, flags) for way in WAYS for flags in ({}, EFFICIENT) if flags or way != "nothing coded"]
)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("samples", [5, 1])
def test_gradients_are_exact_where_nothing_is_rounded(
    monkeypatch: pytest.MonkeyPatch, way: str, flags: dict[str, Any], shape: str, samples: int
) -> None:
    force(monkeypatch, way)
    plain, coded = pair(compressed=2, **flags, **SHAPES[shape])
    inputs = images(samples, size_for(SHAPES[shape]))
    assert_same(step(coded, inputs), step(plain, inputs))


@pytest.mark.usefixtures("lossless")
@pytest.mark.parametrize("flags", [{}, EFFICIENT], ids=str)
@pytest.mark.parametrize("frozen", ["eval", "some norms", "no running statistics", "parameters"])
def test_gradients_are_exact_with_frozen_parts(flags: dict[str, Any], frozen: str) -> None:
    models = pair(compressed=2, **flags)
    for model in models:
        if frozen == "eval":
            model.eval()
        elif frozen == "parameters":
            for name, parameter in model.named_parameters():
                parameter.requires_grad_("denseblock1" not in name or "conv" in name)
        for name, module in model.named_modules():
            if isinstance(module, nn.BatchNorm2d):
                if frozen == "some norms" and "layer2" in name:
                    module.eval()
                elif frozen == "no running statistics":
                    module.track_running_stats = False
                    module.running_mean = module.running_var = module.num_batches_tracked = None
    plain, coded = models
    for needs_input in (True, False):
        assert_same(step(coded, images(), needs_input), step(plain, images(), needs_input))


@pytest.mark.usefixtures("lossless")
def test_tiles_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytorch_models.saving.tiles.TILE_BYTES", {"cpu": 40_000})
    for flags in ({}, EFFICIENT):
        plain, coded = pair(compressed=2, **flags)
        assert_same(step(coded, images(7, 9)), step(plain, images(7, 9)))


def test_tile_masks_have_a_byte_of_their_own_for_every_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytorch_models.saving.tiles.TILE_BYTES", {"cpu": 60})
    masks = TileMasks(torch.Size((5, 3, 1, 1)), torch.float32, torch.device("cpu"))
    parts = [masks.of(slice(start, stop)) for start, stop in ((0, 5),)]
    assert masks.bits.numel() == sum(part.numel() for part in parts) == 2


def test_two_backward_passes_of_one_step_agree() -> None:
    for flags in ({}, EFFICIENT):
        _, coded = same_but_compressed(2, **flags)
        loss = coded(images(dtype=torch.float32)).square().sum()
        parameters = list(coded.parameters())
        first = torch.autograd.grad(loss, parameters, retain_graph=True)
        second = torch.autograd.grad(loss, parameters)
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.usefixtures("lossless")
@pytest.mark.parametrize("flags", [EFFICIENT, {"compressed": 2}], ids=str)
def test_who_looks_at_a_gradient_between_two_blocks_sees_it(flags: dict[str, Any]) -> None:
    """The reader of a block hands its gradient over past autograd only where nobody can see it."""
    plain, other = pair(**flags)
    found = []
    for model in (plain, other):
        seen: list[Tensor] = []
        for module in (model.features.denseblock1, model.features.transition1):
            module.register_full_backward_hook(lambda _, given, __, seen=seen: seen.append(given[0].clone()))
        step(model, images())
        found.append(seen)
    assert all(torch.allclose(a, b, rtol=1e-10, atol=1e-14) for a, b in zip(*found, strict=True))
    assert all(gradient.abs().max() > 0 for gradient in found[1])


@pytest.mark.usefixtures("lossless")
def test_blocks_called_by_hand_give_their_gradients_to_autograd() -> None:
    plain, other = pair(**EFFICIENT)
    found = []
    for model in (plain, other):
        values = model.features.denseblock1(model.features.conv0(images()))
        values.retain_grad()
        model.features.transition1(values).square().sum().backward()
        found.append(values.grad)
    assert torch.allclose(*found, rtol=1e-10, atol=1e-14)


def test_bfloat16_autocast() -> None:
    for flags in ({}, EFFICIENT):
        exact, coded = same_but_compressed(2, **flags)
        inputs = images(dtype=torch.float32)
        with torch.autocast("cpu", torch.bfloat16):
            outputs = [model(inputs) for model in (exact, coded)]
        assert torch.equal(*outputs)
        outputs[1].float().square().sum().backward()
        assert all(torch.isfinite(parameter.grad).all() for parameter in coded.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes(dtype: torch.dtype) -> None:
    exact, coded = same_but_compressed(8, dtype, **EFFICIENT)
    found, expected = (gradients(model, images(dtype=dtype)).double() for model in (coded, exact))
    assert nn.functional.cosine_similarity(found, expected, 0) > 0.98


def test_a_compressing_model_is_copied_and_pickled() -> None:
    _, coded = same_but_compressed(2, **EFFICIENT)
    gradients(coded, images(dtype=torch.float32))
    for other in (copy.deepcopy(coded), pickle.loads(pickle.dumps(coded))):
        assert list(other.state_dict()) == list(coded.state_dict())
        assert torch.isfinite(gradients(other, images(dtype=torch.float32))).all()


def layers_of(policy: MemoryPolicy, layers: int, growth_rate: int, bits_shape: tuple[int, ...]) -> DenseStorage:
    from pytorch_models.saving.dense_call import read_block

    block = DenseNet(growth_rate, (layers,), num_init_features=2 * growth_rate).features.denseblock1
    inputs = torch.empty(bits_shape[0], 2 * growth_rate, *bits_shape[1:])
    call, _ = read_block(block, inputs, policy, NoiseSeeds())
    assert call.storage == choose_storage(policy, call.layers, inputs.shape, inputs.dtype)
    return call.storage


def test_each_way_is_the_cheapest_somewhere() -> None:
    shallow = layers_of(MemoryPolicy(efficient=True, compressed=2), 6, 12, (2, 8, 8))
    deep = layers_of(MemoryPolicy(compressed=8), 100, 4, (2, 8, 8))
    wide = layers_of(MemoryPolicy(efficient=True, compressed=8), 31, 40, (2, 8, 8))
    assert (shallow.features_coded, shallow.bottleneck) == WAYS["features coded"]
    assert (deep.features_coded, deep.bottleneck) == WAYS["1x1 outputs coded"]
    assert (wide.features_coded, wide.bottleneck) == WAYS["nothing coded"]


@pytest.mark.parametrize(("wrong", "kind"), [(3, ValueError), ("zero", ValueError), ("fixed:1", ValueError)])
def test_wrong_codecs_are_refused_before_work(wrong: int | str, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="compressed"):
        DenseNet(compressed=wrong)
    with pytest.raises(TypeError, match="compressed"):
        DenseNet(compressed=True)
    with pytest.raises(ValueError, match="opt_memory"):
        DenseNet(compressed=2, opt_memory=3)


@pytest.mark.parametrize("flags", [{}, EFFICIENT], ids=str)
def test_an_empty_batch(flags: dict[str, Any]) -> None:
    _, coded = same_but_compressed(2, **flags)
    assert coded(images(samples=0, dtype=torch.float32)).shape == (0, 5)


def test_a_gradient_from_elsewhere_is_added_to_the_one_that_was_left() -> None:
    sink, left = GradientSink(), torch.ones(2, 3)
    placeholder = sink.leave(left)
    assert sink.take(placeholder + 2).tolist() == [[3.0] * 3] * 2
    assert sink.take(placeholder) is None
    assert sink.take(sink.leave(left)) is left
