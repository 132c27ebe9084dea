"""Segments by hand keep their inputs alone and change no number, on any module and for any arguments."""

from __future__ import annotations

import contextlib
import copy
import gc
import pickle
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_densenet import TINY, assert_same, images, step
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from pytorch_models import DenseNet, checkpoint_segments, measure_step
from pytorch_models.segments import ModuleConfig, is_segment
from pytorch_models.tracker import track_peak


def small_net(norm: Callable[[int], nn.Module] = nn.BatchNorm2d) -> nn.Sequential:
    """Two stages with norms, in-place activations and dropout, then a head."""
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), norm(8), nn.ReLU(inplace=True), nn.Dropout(0.3)),
        nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), norm(8), nn.ReLU(inplace=True), nn.Dropout(0.3)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    ).double()


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


@pytest.mark.quick
def test_only_the_inputs_are_kept() -> None:
    model, shape = small_net().float(), (4, 3, 12, 12)
    plain_bytes = measure_step(model, shape, repeats=0).saved_bytes
    with checkpoint_segments(model, ["0", "1"]):
        report = measure_step(model, shape, repeats=0)
        assert measure_step(model, shape, execute=False).saved_bytes == report.saved_bytes
    rows = {row.name: row.saved_bytes for row in report.rows}
    assert rows["1"] == 4 * 8 * 12 * 12 * 4  # the images are the caller's and are not counted
    assert "0" not in rows
    assert not [name for name in rows if "." in name]
    assert next(row.kept for row in report.rows if row.name == "1").startswith("a segment: its input")
    assert report.saved_bytes < 0.35 * plain_bytes
    assert measure_step(model, shape, repeats=0).saved_bytes == plain_bytes


def test_segments_in_segments_keep_the_outer_input_and_lower_the_peak() -> None:
    deep = nn.Sequential(
        *(nn.Sequential(*(nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Sigmoid()) for _ in range(8))) for _ in "ab")
    )
    whole = nn.Sequential(nn.Linear(48, 64), deep, nn.Linear(64, 5))

    def peak_and_saved() -> tuple[int, int]:
        report = measure_step(nn.Sequential(nn.Flatten(), whole), (512, 3, 4, 4), execute=False)
        return report.peak_bytes, report.saved_bytes

    checkpoint_segments(whole, "1.*")
    outer_peak, outer_saved = peak_and_saved()
    checkpoint_segments(whole, "1.*.*")
    nested_peak, nested_saved = peak_and_saved()
    assert nested_saved == outer_saved
    assert nested_peak < outer_peak - 5 * 512 * 64 * 4  # of the 16 results in an outer segment, half are gone


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


@pytest.mark.quick
def test_without_gradients_nothing_is_kept_or_done_twice() -> None:
    model, calls = small_net(), []
    model[0][0].register_forward_hook(lambda *_: calls.append(1))
    packed: list[Tensor] = []
    checkpoint_segments(model, ["0", "1"])
    with torch.autograd.graph.saved_tensors_hooks(lambda t: packed.append(t) or t, lambda t: t):
        for context in (torch.no_grad(), torch.inference_mode()):
            with context:
                assert torch.equal(model.eval()(images()), small_net().eval()(images()))
    assert (len(calls), packed) == (2, [])


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


def test_buffers_that_a_forward_pass_reads_and_moves() -> None:
    """Spectral norm iterates on its own buffers: the second run starts where the first did, and leaves no trace."""
    models = []
    for _ in range(2):
        model = small_net()
        torch.manual_seed(7)
        parametrizations.spectral_norm(model[0][0])
        models.append(model)
    checkpoint_segments(models[1], ["0", "1"])
    for seed in range(3):
        assert_same(step(models[1], images(seed=seed)), step(models[0], images(seed=seed)), tolerance=0.0)


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


@pytest.mark.quick
def test_an_exception_leaves_nothing_behind() -> None:
    plain, model = small_net(), small_net()
    handle = model[1][3].register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError), checkpoint_segments(model, ["0", "1"]):
        model(images())
    handle.remove()
    assert not any(is_segment(module) or hasattr(module, "config") for module in model.modules())
    for buffers in (plain, model):
        for module in buffers.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.reset_running_stats()
    assert_same(step(model, images()), step(plain, images()), tolerance=0.0)


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
def test_each_handle_undoes_its_own() -> None:
    model = small_net()
    outer = checkpoint_segments(model, ["0", "1"])
    with checkpoint_segments(model, ["1", "4"]) as inner:
        assert inner.names == ("1", "4")
        outer.remove()
        assert [is_segment(module) for module in model] == [False, True, False, False, True]
    outer.remove()
    assert not any(is_segment(module) or hasattr(module, "config") for module in model.modules())


@pytest.mark.quick
def test_the_switch_on_the_zoos_modules() -> None:
    plain, model = DenseNet(**TINY, drop_rate=0.2).double(), DenseNet(**TINY, drop_rate=0.2).double()
    model.load_state_dict(plain.state_dict())
    config = model.features.denseblock1.config
    assert repr(config) == "ModuleConfig(activation_checkpointing=False)"
    before = measure_step(model, (4, 3, 8, 8), dtype=torch.float64, repeats=0).saved_bytes
    config.activation_checkpointing = True
    model.features.transition1.config.activation_checkpointing = True
    model.classifier.config.activation_checkpointing = True
    assert measure_step(model, (4, 3, 8, 8), dtype=torch.float64, repeats=0).saved_bytes < 0.6 * before
    assert_same(step(model, images()), step(plain, images()), tolerance=0.0)
    for module in model.modules():
        module.config.activation_checkpointing = False
    assert measure_step(model, (4, 3, 8, 8), dtype=torch.float64, repeats=0).saved_bytes == before


def test_a_switch_that_does_not_exist_or_a_wrong_value_is_refused() -> None:
    model = DenseNet(**TINY)
    config = model.features.config
    with pytest.raises(AttributeError, match="did you mean activation_checkpointing"):
        config.activation_checkpoint = True
    with pytest.raises(TypeError, match="True or False, not 1"):
        config.activation_checkpointing = 1


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


def test_names_that_do_not_exist_or_cannot_be_called() -> None:
    model = DenseNet(**TINY)
    with pytest.raises(ValueError, match=r"unknown module 'features\.densblock1': did you mean features\.denseblock1"):
        checkpoint_segments(model, ["features.conv0", "features.densblock1"])
    assert not is_segment(model.features.conv0)
    with pytest.raises(ValueError, match="unknown module 'layer"):
        checkpoint_segments(model, "layer*")
    with pytest.raises(TypeError, match="must be strings, not 3"):
        checkpoint_segments(model, [3])
    with pytest.raises(ValueError, match=r"layers is a ModuleList, which is never called itself.*layers\.\*"):
        checkpoint_segments(nn.ModuleDict({"layers": nn.ModuleList([nn.Linear(2, 2)])}), "layers")
    with pytest.raises(TypeError, match="TorchScript"):
        checkpoint_segments(torch.jit.script(nn.Linear(2, 2)), "")


def test_names_are_found_behind_wrappers() -> None:
    wrapper = nn.Module()
    wrapper.module = DenseNet(**TINY)
    assert checkpoint_segments(wrapper, "features.denseblock*").names == (
        "features.denseblock1",
        "features.denseblock2",
    )


@pytest.mark.quick
def test_copies_and_pickles_are_segments_of_their_own() -> None:
    torch.manual_seed(0)
    model = DenseNet(**TINY)
    model.features.denseblock1.config.activation_checkpointing = True
    expected = step(copy.deepcopy(model).double(), images())
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        block = twin.features.denseblock1
        assert block.config.activation_checkpointing
        assert_same(step(twin.double(), images()), expected, tolerance=0.0)
        block.config.activation_checkpointing = False
        assert not is_segment(block)
    assert is_segment(model.features.denseblock1)


def test_a_dropped_model_is_freed_at_once() -> None:
    model = DenseNet(**TINY)
    checkpoint_segments(model, "features.denseblock*")
    gc.collect()
    gc.disable()
    try:
        block = weakref.ref(model.features.denseblock1)
        loss = model(images().float()).sum()
        del model
        loss.backward()  # what the graph needs, it holds
        del loss
        assert block() is None
    finally:
        gc.enable()


def test_the_second_runs_memory_is_freed_as_the_backward_pass_goes() -> None:
    def peak(segments: str | None) -> int:
        layers = [nn.Sequential(*[nn.Sigmoid(), nn.Tanh()] * 2) for _ in range(6)]
        model = nn.Sequential(*layers)
        if segments:
            checkpoint_segments(model, segments)
        inputs = torch.randn(4, 8, 32, 32, requires_grad=True)
        with track_peak([inputs]) as found:
            model(inputs).sum().backward()
        return found.bytes

    one = 4 * 8 * 32 * 32 * 4
    assert peak(None) > 24 * one  # 24 operators' results
    assert peak("*") < 14 * one  # 6 inputs, then a segment's 4 results and gradients on their way


def test_two_models_in_two_threads() -> None:
    found: dict[int, dict[str, Tensor]] = {}

    def work(index: int) -> None:
        model = small_net().eval()
        checkpoint_segments(model, ["0", "1"] if index else [])
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


def test_a_forward_set_on_the_instance_is_wrapped_and_given_back() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))

    def own(values: Tensor) -> Tensor:
        return F.linear(values, model[0].weight) * 3

    model[0].forward = own
    inputs = torch.ones(1, 3)
    expected = model(inputs)
    with checkpoint_segments(model, "0"):
        assert torch.equal(model(inputs), expected)
    assert model[0].forward is own


def test_a_config_of_its_own_stays() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    model[0].config = {"hidden": 2}
    with checkpoint_segments(model, "0"):
        assert model[0].config == {"hidden": 2}
        assert is_segment(model[0])
    assert model[0].config == {"hidden": 2}
    assert not isinstance(model[0].config, ModuleConfig)


def test_compiling_goes_around_segments() -> None:
    plain, model = small_net(), small_net()
    checkpoint_segments(model, ["0", "1"])
    compiled = torch.compile(model, backend="eager")
    assert_same(step(compiled, images()), _as_compiled(step(plain, images())), tolerance=0.0)


def _as_compiled(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same under the names that a compiled model's parameters have."""
    return {
        name.replace("gradient of ", "gradient of _orig_mod.").replace("buffer ", "buffer _orig_mod."): value
        for name, value in found.items()
    }
