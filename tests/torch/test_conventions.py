"""What people expect of any model: switches by timm's and transformers' names, features, arguments, listing."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from tiny_densenet import TINY, assert_same, images, pair, step
from torch import nn
from torch.nn import functional as F

import zoo
from pytorch_models import DenseNet, feature_extractor, measure_step

FLAGS: tuple[dict[str, object], ...] = ({}, {"efficient": True}, {"efficient": True, "keep_bottleneck": True})


@pytest.mark.quick
@pytest.mark.parametrize("flags", FLAGS, ids=str)
def test_gradient_checkpointing_changes_bytes_both_ways_and_no_number(flags: dict[str, object]) -> None:
    plain, model = pair(drop_rate=0.2, **flags)

    def saved_bytes() -> int:
        return measure_step(model, (4, 3, 16, 16), dtype=torch.float64, execute=False).saved_bytes

    before = saved_bytes()
    assert not model.is_gradient_checkpointing
    for switch_on, switch_off in (
        (model.set_grad_checkpointing, lambda: model.set_grad_checkpointing(False)),
        (model.gradient_checkpointing_enable, model.gradient_checkpointing_disable),
    ):
        switch_on()
        assert model.is_gradient_checkpointing
        assert saved_bytes() < 0.7 * before
        switch_off()
        assert not model.is_gradient_checkpointing
        assert saved_bytes() == before
    model.gradient_checkpointing_enable({"use_reentrant": False})
    for seed in range(2):
        assert_same(step(model, images(seed=seed)), step(plain, images(seed=seed)))


@pytest.mark.parametrize(("flags", "kept_by_the_head"), [({}, 2), ({"efficient": True}, 1)], ids=str)
def test_only_what_enters_the_stages_is_kept(flags: dict[str, object], kept_by_the_head: int) -> None:
    """DenseNet-BC-40: three stages of 24, 48 and 60 channels; the head keeps the last 132 once or twice."""
    model = zoo.create_model("densenet_bc_40_12", **flags)
    model.set_grad_checkpointing()
    entering = 16 * 4 * (24 * 32**2 + 48 * 16**2 + 60 * 8**2)
    head = 16 * 4 * 132 * 8**2 * kept_by_the_head
    saved = measure_step(model, (16, 3, 32, 32), execute=False).saved_bytes
    assert entering + head < saved < entering + head + 16_000  # vectors and logits


def test_other_ways_of_checkpointing_are_refused() -> None:
    model = DenseNet(**TINY)
    with pytest.raises(ValueError, match="use_reentrant=True is not offered"):
        model.gradient_checkpointing_enable({"use_reentrant": True})
    with pytest.raises(TypeError, match="enable must be True or False, not 'yes'"):
        model.set_grad_checkpointing("yes")


def test_a_checkpointing_model_is_copied_and_pickled() -> None:
    plain, model = pair(efficient=True)
    model.set_grad_checkpointing()
    expected = step(plain, images())
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert twin.is_gradient_checkpointing
        assert_same(step(twin, images()), expected)


@pytest.mark.quick
@pytest.mark.parametrize("flags", FLAGS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_mixed_precision_with_gradient_scaling(flags: dict[str, object], dtype: torch.dtype) -> None:
    models = [model.float() for model in pair(**flags)]
    models[1].set_grad_checkpointing()
    found = []
    for model in models:
        optimizer, scaler = torch.optim.SGD(model.parameters(), 0.05), torch.amp.GradScaler("cpu", init_scale=2.0**10)
        losses = []
        for seed in range(3):
            with torch.autocast("cpu", dtype=dtype):
                loss = F.cross_entropy(model(images(samples=8, seed=seed).float()), torch.arange(8) % 5)
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            losses.append(loss.detach().float())
        assert scaler.get_scale() == 2.0**10  # no step was skipped
        found.append(torch.stack(losses))
    torch.testing.assert_close(found[1], found[0], rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("flags", FLAGS, ids=str)
def test_half_precision_weights(flags: dict[str, object]) -> None:
    plain, model = pair(**flags)
    for dtype in (torch.float16, torch.bfloat16):
        outputs = [net.to(dtype)(images().to(dtype)).float() for net in (plain, model)]
        torch.testing.assert_close(outputs[1], outputs[0], rtol=0.1, atol=0.1)
        outputs[1].sum().backward()
        assert all(p.grad.dtype == dtype for p in model.parameters())


@pytest.mark.quick
def test_feature_maps() -> None:
    torch.manual_seed(0)
    shape = {"growth_rate": 8, "block_config": (2, 3, 2, 1), "num_init_features": 16}
    extractor = zoo.create_model("densenet121", features_only=True, in_chans=2, efficient=True, **shape)
    assert (extractor.channels, extractor.reductions) == ((32, 40, 36, 26), (4, 8, 16, 32))
    inputs = torch.randn(2, 2, 64, 96)
    maps = extractor(inputs)
    expected = [(2, c, 64 // r, 96 // r) for c, r in zip(extractor.channels, extractor.reductions, strict=True)]
    assert [tuple(values.shape) for values in maps] == expected
    assert not [name for name, _ in extractor.named_parameters() if "classifier" in name]
    assert extractor.training
    whole = zoo.create_model("densenet121", in_chans=2, **shape)
    whole.features.load_state_dict(extractor.model.features.state_dict())
    logits = whole.eval().classifier(extractor.eval()(inputs)[-1].mean((2, 3)))
    torch.testing.assert_close(logits, whole(inputs), rtol=1e-5, atol=1e-5)


def test_feature_maps_with_checkpointing_have_the_same_gradients() -> None:
    plain, model = pair(efficient=True)
    found = []
    for net in (plain, model):
        extractor = feature_extractor(net)
        extractor.model.set_grad_checkpointing(net is model)
        sum(values.square().sum() for values in extractor(images())).backward()
        found.append({name: p.grad for name, p in extractor.named_parameters()})
    assert_same(found[1], found[0])


def test_feature_maps_need_a_model_that_has_them() -> None:
    from pytorch_models.zoo_model import ZooModel

    class Flat(ZooModel):
        pass

    with pytest.raises(ValueError, match="a Flat has no feature maps"):
        feature_extractor(Flat())
    with pytest.raises(TypeError, match="needs a model of the zoo, not a Linear"):
        feature_extractor(nn.Linear(2, 2))
    with pytest.raises(TypeError, match="features_only must be True or False, not 'yes'"):
        zoo.create_model("densenet121", features_only="yes")


@pytest.mark.quick
def test_channels_of_the_images() -> None:
    model = zoo.create_model("densenet_bc_40_12", in_chans=1)
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    assert model.spec.in_chans == 1
    assert sum(p.numel() for p in model.parameters()) == model.spec.count_parameters()
    assert zoo.measure(model, batch_size=2).input_shape == (2, 1, 32, 32)
    with pytest.raises(ValueError, match=r"images of shape \(N, 1, height, width\), not \(2, 3, 8, 8\)"):
        model(torch.zeros(2, 3, 8, 8))
    with pytest.raises(TypeError, match=r"floating dtype, not torch\.uint8.*float\(\) / 255"):
        model(torch.zeros(2, 1, 8, 8, dtype=torch.uint8))
    with pytest.raises(TypeError, match="not list"):
        model([1])


@pytest.mark.quick
def test_an_argument_that_does_not_exist() -> None:
    with pytest.raises(TypeError, match=r"DenseNet: unknown argument 'efficent': did you mean efficient\?"):
        DenseNet(efficent=True)
    with pytest.raises(TypeError, match="in_chans must be an integer"):
        DenseNet(in_chans="3")


@pytest.mark.quick
def test_models_are_listed_by_globs() -> None:
    assert zoo.list_models("densenet_bc*") == [n for n in zoo.list_models() if n.startswith("densenet_bc")] != []
    assert "densenet121" in zoo.list_models("*121")
    with pytest.raises(ValueError, match=r"no model's name matches 'densent\*': unknown model 'densent': did you mean"):
        zoo.list_models("densent*")


@pytest.mark.parametrize("flags", [{"compressed": 8}, {"compressed": 8, "efficient": True}], ids=str)
def test_checkpointing_a_compressed_model(flags: dict[str, object]) -> None:
    """The forward pass and the statistics stay those of the compressed model; gradients carry its rounding alone."""
    plain, model = pair(dtype=torch.float32, **flags)
    expected, inputs = step(plain, images().float()), images().float()
    without = step(copy.deepcopy(model), inputs)
    model.set_grad_checkpointing()
    found = step(model, inputs)
    for name in found:
        if name in ("outputs", "random") or name.startswith("buffer"):
            assert torch.equal(found[name], without[name]), name
        else:
            difference = (found[name] - expected[name]).norm() / expected[name].norm().clamp_min(1e-2)
            assert difference < 0.05, name
