"""A model that saves memory stays exact inside the tools people wrap around models, and with layers they change."""

from __future__ import annotations

import copy
import pickle
import threading

import pytest
import torch
from tiny_densenet import TINY, assert_same, images, pair, step
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from pytorch_models import DenseNet, measure_step
from pytorch_models.saving import PlainPathWarning


def efficient_pair(**flags: object) -> tuple[DenseNet, DenseNet]:
    return pair(efficient=True, **flags)


def test_statistics_used_are_those_of_the_forward_pass() -> None:
    """Running statistics may move between a forward pass in eval mode and its backward pass."""
    _, model = efficient_pair()
    expected = step(model.eval(), images())
    model.zero_grad()
    inputs = images().requires_grad_()
    outputs = model(inputs)
    with torch.no_grad():
        model.train()(images(seed=9))
    (outputs * torch.linspace(-1, 1, outputs.numel(), dtype=outputs.dtype).view_as(outputs)).sum().backward()
    found = {n: v for n, v in expected.items() if n.startswith("gradient")}
    assert_same({f"gradient of {n}": p.grad for n, p in model.named_parameters()}, found)


def test_backward_inside_autocast_does_not_cast() -> None:
    results = []
    for model in efficient_pair():
        outputs = model.float()(images().float())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            outputs.square().sum().backward()
        results.append({n: p.grad for n, p in model.named_parameters()})
    assert_same(results[1], results[0], tolerance=1e-3)


def test_checkpoint_and_save_on_cpu_around_the_model() -> None:
    plain, model = efficient_pair(drop_rate=0.3)
    expected = step(plain, images())
    buffers = {n for n in expected if n.startswith("buffer")}
    with torch.autograd.graph.save_on_cpu():
        assert_same(step(model, images()), expected)
    model.load_state_dict(efficient_pair()[0].state_dict())
    model.zero_grad()
    found = step(lambda_module(lambda x: checkpoint(model, x, use_reentrant=False), model), images())
    # A checkpoint runs the forward pass twice, so running statistics move twice: torch's way, with any model.
    assert_same(
        {n: found[n] for n in found if n not in buffers}, {n: expected[n] for n in expected if n not in buffers}
    )


def lambda_module(function: object, model: nn.Module) -> nn.Module:
    """A stand-in whose call is `function` and whose parameters and buffers are the model's."""

    class Wrapped(nn.Module):
        named_parameters = staticmethod(model.named_parameters)
        named_buffers = staticmethod(model.named_buffers)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return function(inputs)

    return Wrapped()


def test_changing_what_was_saved_raises_instead_of_corrupting() -> None:
    _, model = efficient_pair()
    values = model.features.denseblock1(model.features.conv0(images()))
    values.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        values.sum().backward()
    outputs = model(images())
    with torch.no_grad():
        model.features.denseblock1.denselayer1.conv1.weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        outputs.sum().backward()


class Standardised(nn.Conv2d):
    def _conv_forward(self, inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return super()._conv_forward(inputs, weight - weight.mean((1, 2, 3), keepdim=True), bias)


def test_a_convolution_of_another_kind_is_used() -> None:
    models = efficient_pair()
    for model in models:
        model.features.denseblock1.denselayer2.conv2.__class__ = Standardised
    expected = step(models[0], images())
    with pytest.warns(PlainPathWarning, match="convolution of its own"):
        assert_same(step(models[1], images()), expected)


@pytest.mark.parametrize("parametrise", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_parametrised_weights_stay_exact(parametrise: object) -> None:
    models = efficient_pair()
    for model in models:
        torch.manual_seed(7)
        parametrise(model.features.denseblock1.denselayer3.conv2)
    assert_same(step(models[1], images()), step(models[0], images()))


def test_layers_of_different_width() -> None:
    models = efficient_pair()
    for model in models:
        torch.manual_seed(7)
        block = model.features.denseblock1
        block.denselayer1.conv2 = nn.Conv2d(8, 1, 3, padding=1, bias=False)
        for layer, width in ((block.denselayer2, 7), (block.denselayer3, 11)):
            layer.norm1, layer.conv1 = nn.BatchNorm2d(width), nn.Conv2d(width, 8, 1, bias=False)
        model.features.transition1.norm = nn.BatchNorm2d(15)
        model.features.transition1.conv = nn.Conv2d(15, 9, 1, bias=False)
        model.double()
    assert_same(step(models[1], images()), step(models[0], images()))


def test_grey_images_and_a_replaced_stem() -> None:
    models = efficient_pair()
    for model in models:
        torch.manual_seed(7)
        model.features.conv0 = nn.Conv2d(1, 6, 3, padding=1).double()
    grey = images()[:, :1]
    assert_same(step(models[1], grey), step(models[0], grey))
    for model in models:
        model.zero_grad()
        torch.manual_seed(7)
        model.features.conv0 = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.Identity()).double()
    assert_same(step(models[1], images()), step(models[0], images()))


def test_two_models_in_two_threads() -> None:
    models, found = efficient_pair(), {}
    threads = [threading.Thread(target=lambda i=i: found.update({i: step_without_random(models[i])})) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_same(found[1], found[0])


def step_without_random(model: nn.Module) -> dict[str, torch.Tensor]:
    found = step(model, images())
    del found["random"]
    return found


def test_an_empty_batch_trains_like_the_plain_model() -> None:
    plain, other = efficient_pair()
    for model in (plain, other):
        outputs = model(torch.zeros(0, 3, 8, 8, dtype=torch.float64))
        outputs.sum().backward()
        assert outputs.shape == (0, 5)
        assert not any(parameter.grad.any() for parameter in model.parameters())
    for name, buffer in plain.named_buffers():
        assert torch.equal(other.get_buffer(name), buffer), name


def test_measuring_gives_buffers_back_where_moving_replaces_them() -> None:
    class Mover(DenseNet):
        def to(self, *args: object, **kwargs: object) -> DenseNet:
            return self.double().float()

    model = Mover(**TINY, efficient=True)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    measure_step(model, (4, 3, 8, 8), repeats=1)
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())


def test_deepcopy_pickle_and_dtype_moves() -> None:
    plain, other = efficient_pair()
    expected = step(plain, images())
    for twin in (copy.deepcopy(other), pickle.loads(pickle.dumps(other)), other.float().double()):
        tolerance = 1e-12 if twin is not other else 1e-5
        twin.zero_grad()
        assert_same(step(twin, images()), expected, tolerance)


def test_the_meta_device() -> None:
    model = DenseNet(**TINY, efficient=True).to("meta")
    assert model(torch.empty(2, 3, 8, 8, device="meta")).shape == (2, 5)
