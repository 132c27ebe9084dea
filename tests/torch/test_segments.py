"""Segments by hand change no number, on any module and for any arguments."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from segment_net import small_net
from tiny_densenet import TINY, assert_same, images, step
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from pytorch_models import DenseNet, checkpoint_segments, measure_step


@pytest.mark.quick
@pytest.mark.parametrize("names", [["0", "1"], "*", ["0", "0.*", "1"], ["**"], ["0.1", "0.2", "0.3"]])
def test_numbers_are_those_of_the_model_without_segments(names: list[str]) -> None:
    """Gradients, running statistics (moved once), dropout and the random stream after it, over five steps."""
    plain, model = small_net(), small_net()
    checkpoint_segments(model, names)
    for seed in range(5):
        assert_same(step(model, images(seed=seed)), step(plain, images(seed=seed)), tolerance=0.0)
    assert int(model[0][1].num_batches_tracked) == 5


def without_averages(width: int) -> nn.Module:
    return nn.BatchNorm2d(width, momentum=None)


def instance_norm(width: int) -> nn.Module:
    return nn.InstanceNorm2d(width, affine=True, track_running_stats=True)


@pytest.mark.parametrize("norm", [without_averages, instance_norm])
@pytest.mark.parametrize("training", [True, False])
def test_other_norms_and_eval_mode(norm: Callable[[int], nn.Module], training: bool) -> None:
    plain, model = small_net(norm).train(training), small_net(norm).train(training)
    checkpoint_segments(model, ["0", "1"])
    for seed in range(2):
        assert_same(step(model, images(seed=seed)), step(plain, images(seed=seed)), tolerance=0.0)


class Shapely(nn.Module):
    """Takes nested, keyword and other arguments, and gives a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, pair: tuple[Tensor, Tensor], *, scale: float, extra: dict[str, Any], mode: str = "sum") -> Any:
        first, second = pair
        extra["seen"].append(mode)
        hidden = torch.tanh(self.linear(first) * scale) + second * extra["tensors"]["shift"]
        return {"hidden": hidden, "both": (hidden.exp(), hidden.detach()), "mode": mode}


@pytest.mark.quick
def test_nested_keyword_and_other_arguments_and_several_outputs() -> None:
    torch.manual_seed(0)
    model, found, seen = Shapely().double(), [], []
    given = [torch.randn(3, 4, dtype=torch.float64) for _ in range(3)]
    for segments in (False, True):
        with checkpoint_segments(model, "") if segments else contextlib.nullcontext():
            first, second, shift = (tensor.clone().requires_grad_() for tensor in given)
            model.zero_grad()
            extra = {"tensors": {"shift": shift}, "seen": seen}
            outputs = model((first, second), scale=2.0, extra=extra, mode="mean")
            (outputs["hidden"].sum() + outputs["both"][0].square().sum()).backward()
        assert outputs["mode"] == "mean"
        gradients = {name: tensor.grad for name, tensor in zip("abc", (first, second, shift), strict=True)}
        found.append({**gradients, "weight": model.linear.weight.grad.clone()})
    assert_same(found[1], found[0], tolerance=0.0)
    assert seen == ["mean", "mean"]  # the second run has a list of its own


def test_a_module_used_twice_and_one_shared_by_two_segments() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 6, 3, padding=1)
            self.body = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(True), nn.Dropout(0.2))
            self.again = nn.Sequential(nn.Tanh(), self.body)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.again(self.body(self.body(self.stem(inputs)))).mean((2, 3))

    models = []
    for _ in range(2):
        torch.manual_seed(0)
        models.append(Twice().double())
    checkpoint_segments(models[1], ["body", "again"])
    for seed in range(2):
        assert_same(step(models[1], images(seed=seed)), step(models[0], images(seed=seed)), tolerance=0.0)


@pytest.mark.quick
def test_two_forwards_then_two_backwards_and_a_retained_graph() -> None:
    found = []
    for segments in ([], ["0", "1"]):
        model = small_net()
        checkpoint_segments(model, segments)
        torch.manual_seed(1)
        first, second = (model(images(seed=seed)) for seed in (1, 2))
        first.square().sum().backward(retain_graph=True)
        first.sum().backward()
        second.square().sum().backward()
        found.append({name: tensor.grad for name, tensor in model.named_parameters()} | dict(model.named_buffers()))
    assert_same(found[1], found[0], tolerance=0.0)


def test_gradients_of_gradients() -> None:
    found = []
    for segments in ([], ["0", "1"]):
        model = small_net().eval()
        checkpoint_segments(model, segments)
        inputs = images().requires_grad_()
        (gradient,) = torch.autograd.grad(model(inputs).sigmoid().sum(), inputs, create_graph=True)
        gradient.square().sum().backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None} | {"x": inputs.grad})
    assert_same(found[1], found[0], tolerance=1e-14)


def test_frozen_layers_and_inputs_without_grad() -> None:
    found = []
    for segments in ([], ["0", "1"]):
        model = small_net()
        model[0].requires_grad_(False)
        model[1][1].eval().requires_grad_(False)
        checkpoint_segments(model, segments)
        found.append(step(model, images(), needs_input=False))
    assert_same(found[1], found[0], tolerance=0.0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_is_that_of_the_forward_pass(dtype: torch.dtype) -> None:
    found = []
    for segments in ([], ["0", "1"]):
        model = small_net().float()
        checkpoint_segments(model, segments)
        torch.manual_seed(2)
        with torch.autocast("cpu", dtype=dtype):
            loss = F.cross_entropy(model(images().float()), torch.arange(5))
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
        scaler.scale(loss).backward()
        found.append({name: p.grad for name, p in model.named_parameters()} | dict(model.named_buffers()))
    assert_same(found[1], found[0], tolerance=0.0)


def test_a_segment_that_begins_in_place_works() -> None:
    models = [small_net(), small_net()]
    checkpoint_segments(models[1], ["0.2", "0.3", "1.2"])
    for _ in range(2):
        assert_same(step(models[1], images()), step(models[0], images()), tolerance=0.0)
    outputs = models[1](images())
    outputs.sum().backward(retain_graph=True)
    outputs.sum().backward()


def test_changing_the_input_unseen_is_refused() -> None:
    class Doubles(nn.Module):
        def forward(self, values: Tensor) -> Tensor:
            return values.mul_(2).sigmoid()

    model = nn.Sequential(nn.Linear(3, 3), Doubles())
    checkpoint_segments(model, "1")
    with pytest.raises(RuntimeError, match=r"a Doubles, changed its input in place.*begin one module earlier"):
        model(torch.ones(2, 3))


def test_weights_changed_before_the_backward_pass_are_noticed() -> None:
    model = small_net()
    checkpoint_segments(model, ["0", "1"])
    outputs = model(images())
    with torch.no_grad():
        model[1][0].bias.add_(1)
    with pytest.raises(RuntimeError, match=r"parameter 0\.bias of a segment was modified by an inplace operation"):
        outputs.sum().backward()


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_may_change_before_the_backward_pass(training: bool) -> None:
    """As a model is evaluated, or goes on to train, while a loss waits for its backward pass."""
    plain, model = small_net().train(training), small_net().train(training)
    checkpoint_segments(model, ["0", "1"])
    for one in (plain, model):
        torch.manual_seed(5)
        loss = one(images()).square().sum()
        one.train(not training)
        loss.backward()
        assert all(module.training is not training for module in one.modules())
    gradients = [{name: p.grad for name, p in one.named_parameters()} for one in (model, plain)]
    assert_same(*gradients, tolerance=0.0)


def test_running_statistics_moved_before_the_backward_pass_are_noticed() -> None:
    """Torch itself would use the moved ones without a word."""
    model = small_net().eval()
    checkpoint_segments(model, ["0", "1"])
    outputs = model(images())
    with torch.no_grad():
        model.train()(images(seed=2))
    with pytest.raises(RuntimeError, match=r"buffer 1\.num_batches_tracked of a segment.*in training mode after"):
        outputs.sum().backward()


def test_buffers_that_a_forward_pass_reads_and_moves() -> None:
    """Spectral norm iterates on its own buffers: the second run starts where the first did, and leaves no trace."""
    models = []
    for _ in range(2):
        model = small_net()
        torch.manual_seed(7)
        parametrizations.spectral_norm(model[0][0])
        parametrizations.spectral_norm(model[1][0])
        models.append(model)
    checkpoint_segments(models[1], ["0", "1"])
    for seed in range(3):
        assert_same(step(models[1], images(seed=seed)), step(models[0], images(seed=seed)), tolerance=0.0)
    torch.manual_seed(0)
    models[1].zero_grad()
    outputs = models[1](images())
    outputs.sum().backward(retain_graph=True)
    once = models[1][1][0].parametrizations.weight.original.grad.clone()
    outputs.sum().backward()
    assert torch.equal(models[1][1][0].parametrizations.weight.original.grad, 2 * once)


def test_functional_calls_use_the_parameters_they_were_given() -> None:
    model, found = small_net(), []
    given = {name: (p.detach() * 1.5).requires_grad_() for name, p in model.named_parameters()}
    for segments in ([], ["0", "1"]):
        with checkpoint_segments(model, segments):
            torch.manual_seed(1)
            outputs = torch.func.functional_call(model, given, (images(),))
            gradients = torch.autograd.grad(outputs.square().sum(), list(given.values()))
            found.append(dict(zip(given, gradients, strict=True)))
    assert_same(found[1], found[0], tolerance=0.0)


def test_an_exception_in_the_second_run_gives_the_statistics_back() -> None:
    model, calls = small_net(), []

    def fails_the_second_time(*_: Any) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise ZeroDivisionError

    model[0][2].register_forward_hook(fails_the_second_time)
    checkpoint_segments(model, ["0"])
    outputs = model(images())
    before = {name: (id(buffer), buffer.clone()) for name, buffer in model.named_buffers()}
    with pytest.raises(ZeroDivisionError):
        outputs.sum().backward()
    for name, buffer in model.named_buffers():
        assert id(buffer) == before[name][0]
        assert torch.equal(buffer, before[name][1])


@pytest.mark.quick
@pytest.mark.parametrize("keep_bottleneck", [False, True])
def test_a_segment_around_a_fused_dense_block(keep_bottleneck: bool) -> None:
    plain, model = DenseNet(**TINY), DenseNet(**TINY, efficient=True, keep_bottleneck=keep_bottleneck)
    model.load_state_dict(plain.state_dict())
    checkpoint_segments(model, "features")
    for seed in range(2):
        assert_same(step(model.double(), images(seed=seed)), step(plain.double(), images(seed=seed)))
    rows = {row.name: row.saved_bytes for row in measure_step(model.float(), (4, 3, 8, 8), repeats=0).rows}
    assert not [name for name in rows if "dense" in name or "transition" in name]


def test_two_models_in_two_threads() -> None:
    found: dict[int, dict[str, Tensor]] = {}

    models = [small_net().eval() for _ in range(2)]
    checkpoint_segments(models[1], ["0", "1"])

    def work(index: int) -> None:
        model = models[index]
        for seed in range(3):
            outputs = model(images(seed=seed))
            outputs.square().sum().backward()
        found[index] = {name: p.grad for name, p in model.named_parameters()}

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_same(found[1], found[0], tolerance=0.0)
