"""efficient=True and opt_memory change no number: outputs, gradients, buffers, dropout, the random stream."""

from __future__ import annotations

import copy
import itertools
import warnings
from types import MappingProxyType

import pytest
import torch
from tiny_densenet import TINY, assert_same, images, pair, step
from torch import nn

import zoo
from pytorch_models import DenseNet
from pytorch_models.saving import PlainPathWarning, tiles

FLAGS = (
    {"efficient": True},
    {"efficient": True, "keep_bottleneck": True},
    {"opt_memory": 1},
    {"opt_memory": 2},
    {"opt_memory": 3},
    {"opt_memory": 4},
)
SHAPES = ({}, {"bn_size": 0}, {"small_inputs": False}, {"small_inputs": False, "bn_size": 0})
EFFICIENT = {"efficient": True}


@pytest.fixture(params=["one tile", "many tiles"])
def any_tiling(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "many tiles":
        monkeypatch.setattr(tiles, "TILE_BYTES", MappingProxyType({"cpu": 20_000}))


def size_of(shape: dict) -> int:
    return 12 if shape.get("small_inputs", True) else 40


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("densenet121", 7_978_856),
        ("densenet161", 28_681_000),
        ("densenet169", 14_149_480),
        ("densenet201", 20_013_928),
        ("densenet_bc_100_12", 769_162),
    ],
)
def test_published_parameter_counts(name: str, count: int) -> None:
    model = zoo.create_model(name, efficient=True)
    assert sum(p.numel() for p in model.parameters()) == count


@pytest.mark.quick
@pytest.mark.usefixtures("any_tiling")
@pytest.mark.parametrize(("flags", "shape"), list(itertools.product(FLAGS, SHAPES)))
def test_gradients_and_buffers_equal_the_plain_models(flags: dict, shape: dict) -> None:
    plain, other = pair(**flags, **shape)
    inputs = images(size=size_of(shape))
    assert_same(step(other, inputs), step(plain, inputs))


@pytest.mark.parametrize("efficient", [False, True])
def test_finite_differences(efficient: bool) -> None:
    _, model = pair(efficient=efficient)
    torch.autograd.gradcheck(model, (images(3, 5).requires_grad_(),), nondet_tol=0, fast_mode=True)
    parameters = dict(model.named_parameters())

    def by_parameters(*values: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(model, dict(zip(parameters, values, strict=True)), (images(3, 5),))

    leaves = tuple(p.detach().clone().requires_grad_() for p in parameters.values())
    torch.autograd.gradcheck(by_parameters, leaves, fast_mode=True)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_five_training_steps_move_parameters_and_statistics_alike(momentum: float | None) -> None:
    models = pair(**EFFICIENT)
    for model in models:
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = momentum
        optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for seed in range(5):
            optimiser.zero_grad()
            loss = nn.functional.cross_entropy(model(images(seed=seed)), torch.arange(5))
            loss.backward()
            optimiser.step()
    plain, other = (dict(model.state_dict()) for model in models)
    assert other["features.norm5.num_batches_tracked"] == 5
    assert_same(other, plain, tolerance=1e-10)


def gradient_error(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """Relative error of all parameter gradients together."""
    names = [name for name in expected if name.startswith("gradient")]
    return sum(float((found[n].double() - expected[n]).norm() / expected[n].norm().clamp_min(1e-6)) for n in names)


def test_float32_is_as_near_to_the_truth_as_plain() -> None:
    """Median over seeds of (error of efficient / error of plain) against float64, whole gradient."""
    ratios = []
    for seed in range(7):
        truth, _ = pair(seed, **EFFICIENT)
        inputs = images(8, 16, seed=seed)
        expected, errors = step(truth, inputs), []
        for model in pair(seed, torch.float32, **EFFICIENT):
            model.load_state_dict(truth.state_dict())
            errors.append(gradient_error(step(model, inputs.float()), expected))
        ratios.append(errors[1] / errors[0])
    assert sorted(ratios)[3] <= 1.2, ratios


@pytest.mark.quick
@pytest.mark.usefixtures("any_tiling")
@pytest.mark.parametrize("flags", FLAGS)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_dropout_draws_the_plain_models_masks(flags: dict, memory_format: torch.memory_format) -> None:
    plain, other = pair(drop_rate=0.4, **flags)
    inputs = images().contiguous(memory_format=memory_format)
    found, expected = step(other, inputs), step(plain, inputs)
    assert_same(found, expected)
    assert torch.equal(found["random"], expected["random"])


def test_dropout_with_weights_in_channels_last() -> None:
    plain, other = (m.to(memory_format=torch.channels_last) for m in pair(drop_rate=0.4, **EFFICIENT))
    assert_same(step(other, images()), step(plain, images()))


@pytest.mark.parametrize("flags", FLAGS)
def test_eval_mode_and_frozen_norms(flags: dict) -> None:
    plain, other = pair(drop_rate=0.3, **flags)
    inputs = images()
    for model in (plain, other):
        model.eval()
    assert_same(step(other, inputs), step(plain, inputs))
    for model in (plain, other):  # dropout off again, some norms frozen, others not
        model.train()
        model.zero_grad()
        for name, module in model.named_modules():
            if name.endswith(("layer1.norm1", "layer2.norm2", "transition1.norm")):
                module.eval()
            if isinstance(module, nn.Module) and hasattr(module, "drop_rate"):
                module.drop_rate = 0.0
    assert_same(step(other, inputs), step(plain, inputs))


def test_no_grad_gives_the_same_output_to_the_bit() -> None:
    _, model = pair(**EFFICIENT)
    model.eval()
    with torch.no_grad():
        without = model(images())
    assert torch.equal(without, model(images()))
    assert without.grad_fn is None


def test_norms_without_running_statistics_or_weights() -> None:
    models = pair(**EFFICIENT)
    for model in models:
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.track_running_stats = False
                module.running_mean = module.running_var = module.num_batches_tracked = None
                module.weight = module.bias = None
    plain, other = models
    assert_same(step(other, images()), step(plain, images()))
    for model in models:
        model.eval()
        model.zero_grad()
    assert_same(step(other, images()), step(plain, images()))


@pytest.mark.parametrize(
    "trained", ["classifier", "denseblock2", "denselayer2.norm", "conv2", "denseblock1.denselayer2"]
)
@pytest.mark.parametrize("needs_input", [False, True])
def test_frozen_parts_and_inputs_without_grad(trained: str, needs_input: bool) -> None:
    plain, other = pair(**EFFICIENT)
    for model in (plain, other):
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(trained in name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = step(other, images(), needs_input)
    assert_same(found, step(plain, images(), needs_input))
    gradients = {name for name in found if name.startswith("gradient")}
    assert gradients
    assert all(trained in name for name in gradients)


def test_two_forwards_then_two_backwards_and_the_model_used_twice() -> None:
    results = []
    for model in pair(**EFFICIENT):
        first, second = model(images(seed=1)), model(images(seed=2))
        first.sum().backward()
        (second * second).sum().backward()
        model(model(images(seed=3)).mean() * images(seed=4)).sum().backward()
        results.append({n: p.grad for n, p in model.named_parameters()} | dict(model.named_buffers()))
    assert_same(results[1], results[0])


def test_retain_graph_gives_the_same_gradient_twice() -> None:
    _, model = pair(drop_rate=0.3, **EFFICIENT)
    loss = model(images()).square().sum()
    once = torch.autograd.grad(loss, model.parameters(), retain_graph=True)
    twice = torch.autograd.grad(loss, model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(once, twice, strict=True))


def test_a_gradient_kept_by_the_user_is_not_written_to() -> None:
    """The block's gradient buffer is its own: the gradient of its output belongs to whoever asks for it."""
    results: list[torch.Tensor] = []
    for model in pair(**EFFICIENT):
        values = model.features.denseblock1(model.features.conv0(images()))
        values.register_hook(results.append)  # the very tensor, where retain_grad would keep a copy
        values.square().sum().backward()
    assert_same({"gradient": results[1]}, {"gradient": results[0]})


def test_double_backward_is_refused_with_a_way_out() -> None:
    _, model = pair(**EFFICIENT)
    inputs = images().requires_grad_()
    with pytest.raises(RuntimeError, match="efficient=False"):
        torch.autograd.grad(model(inputs).sum(), inputs, create_graph=True)
    block_input = torch.randn(2, 6, 4, 4, dtype=torch.float64, requires_grad=True)
    with pytest.raises(RuntimeError, match="differentiated twice"):
        torch.autograd.grad(model.features.denseblock1(block_input).sum(), block_input, create_graph=True)


@pytest.mark.parametrize(
    "part", ["denseblock1.denselayer2", "denseblock1.denselayer1.conv2", "transition1.conv", "norm5"]
)
def test_a_hook_inside_fires_and_the_part_says_it_runs_plainly(part: str) -> None:
    plain, other = pair(**EFFICIENT)
    seen: list[torch.Size] = []
    other.features.get_submodule(part).register_forward_hook(lambda _m, _i, output: seen.append(output.shape))
    with pytest.warns(PlainPathWarning, match="hook"):
        found = step(other, images())
    assert len(seen) == 1
    assert_same(found, step(plain, images()))


def test_a_replaced_layer_is_used_and_said_so() -> None:
    plain, other = pair(**EFFICIENT)
    for model in (plain, other):
        model.features.denseblock2.denselayer1.relu2 = nn.LeakyReLU(0.2)
    with pytest.warns(PlainPathWarning, match="relu2 is a LeakyReLU"):
        found = step(other, images())
    assert_same(found, step(plain, images()))


def test_convolutions_with_bias_stride_padding_and_groups_stay_exact() -> None:
    models = pair(**EFFICIENT)
    torch.manual_seed(3)
    layer = nn.Conv2d(8, 4, kernel_size=3, padding=2, dilation=2, groups=2).double()
    for model in models:
        model.features.denseblock1.denselayer1.conv2 = copy.deepcopy(layer)
    assert_same(step(models[1], images()), step(models[0], images()))


@pytest.mark.parametrize("kind", ["autocast bfloat16", "bfloat16", "float16"])
def test_low_precision_is_as_near_to_the_truth_as_plain(kind: str) -> None:
    ratios = []
    dtype = getattr(torch, kind) if not kind.startswith("autocast") else torch.float32
    for seed in range(5):
        truth, _ = pair(seed, **EFFICIENT)
        inputs = images(8, 16, seed=seed)
        expected, errors = step(truth, inputs), []
        for model in pair(seed, dtype, **EFFICIENT):
            model.load_state_dict(truth.state_dict())
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=kind.startswith("autocast")):
                found = step(model, inputs.to(dtype))
            assert found["gradient of features.conv0.weight"].dtype == dtype
            errors.append(gradient_error(found, expected))
        ratios.append(errors[1] / errors[0])
    assert sorted(ratios)[2] <= 1.2, ratios


@pytest.mark.parametrize(
    ("shape", "words"), [((2, 1, 32, 32), "N, 3"), ((3, 32, 32), "N, 3"), ((1, 3, 2, 2), "Expected more than 1 value")]
)
def test_wrong_inputs_are_refused(shape: tuple[int, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        DenseNet(**TINY, efficient=True)(torch.zeros(shape))


def test_an_empty_batch_in_eval_mode() -> None:
    model = DenseNet(**TINY, efficient=True).eval()
    assert model(torch.zeros(0, 3, 8, 8)).shape == (0, 5)
