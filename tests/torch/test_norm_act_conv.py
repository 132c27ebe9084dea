"""norm_act_conv and chains: every kind of norm, activation and convolution, exact, keeping one tensor a convolution."""

from __future__ import annotations

import copy
import itertools
import warnings
from types import MappingProxyType
from typing import Any

import pytest
import torch
from families import assert_same
from torch import Tensor, nn

from pytorch_models.measure import MemoryTracker
from pytorch_models.saving import PlainPathWarning, Step, chain, norm_act_conv, tiles

ACTIVATIONS = (
    nn.ReLU(),
    nn.ReLU6(),
    nn.LeakyReLU(0.2),
    nn.LeakyReLU(-0.3),
    nn.PReLU(),
    nn.PReLU(4, init=-0.3),
    nn.SiLU(),
    nn.Hardswish(),
    nn.Identity(),
)
CONVOLUTIONS = (
    nn.Conv2d(4, 6, 3, padding=1),
    nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=4, bias=False),
    nn.Conv2d(4, 4, (1, 3), dilation=(1, 2), groups=2),
    nn.Conv2d(4, 12, 1, stride=2),
)
DIMENSIONS = (
    (nn.BatchNorm1d(4), nn.Conv1d(4, 6, 3, stride=2, padding=1), (5, 4, 9)),
    (nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, padding=1), (5, 4, 7, 6)),
    (nn.BatchNorm3d(4), nn.Conv3d(4, 4, 3, padding=1, groups=4), (3, 4, 4, 5, 3)),
    (nn.BatchNorm1d(4), nn.Conv1d(4, 2, 1), (6, 4, 1)),
)


@pytest.fixture(autouse=True, params=["one tile", "many tiles"])
def any_tiling(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "many tiles":
        monkeypatch.setattr(tiles, "TILE_BYTES", MappingProxyType({"cpu": 500}))


def fresh(*modules: nn.Module) -> list[Any]:
    """Copies in float64, norms away from their defaults."""
    torch.manual_seed(3)
    copies = [copy.deepcopy(module).double() for module in modules]
    for module in copies:
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            with torch.no_grad():
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.5)
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
    return copies


def results(outputs: Tensor, inputs: Tensor, modules: list[nn.Module]) -> dict[str, Tensor]:
    """Outputs, gradients and buffers by name, after a backward pass from weighted outputs."""
    (outputs * torch.linspace(-1, 1, outputs.numel(), dtype=outputs.dtype).view_as(outputs)).sum().backward()
    found = {"outputs": outputs.detach(), "inputs": inputs.grad}
    for index, module in enumerate(modules):
        found |= {f"{index} {n}": p.grad for n, p in module.named_parameters() if p.grad is not None}
        found |= {f"{index} buffer {n}": b for n, b in module.named_buffers()}
    return {name: tensor for name, tensor in found.items() if tensor is not None}


def compare(
    norm: nn.Module, activation: nn.Module, convolution: nn.Module, inputs: Tensor, mode: str = "train"
) -> None:
    """Fused against the modules one after the other; raises where they differ."""
    found = []
    for fused in (True, False):
        modules = fresh(norm, activation, convolution)
        prepare(modules[0], mode)
        given = inputs.clone(memory_format=torch.preserve_format).requires_grad_()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            outputs = norm_act_conv(given, *modules) if fused else modules[2](modules[1](modules[0](given)))
        found.append(results(outputs, given, modules))
    assert_same(*found)


def prepare(norm: Any, mode: str) -> None:
    if mode == "eval":
        norm.eval()
    elif mode == "frozen":
        norm.eval().requires_grad_(False)
    elif mode == "no weights":
        norm.weight = norm.bias = None
    elif mode == "no running statistics":
        norm.running_mean = norm.running_var = norm.num_batches_tracked = None
        norm.track_running_stats = False
        norm.eval()
    elif mode == "momentum None":
        norm.momentum = None


def random_inputs(shape: tuple[int, ...] = (5, 4, 7, 6)) -> Tensor:
    return 1 + 2 * torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.quick
@pytest.mark.parametrize(("activation", "convolution"), list(itertools.product(ACTIVATIONS, CONVOLUTIONS)), ids=str)
def test_activations_and_convolutions(activation: nn.Module, convolution: nn.Module) -> None:
    compare(nn.BatchNorm2d(4), activation, convolution, random_inputs())


@pytest.mark.parametrize(("norm", "convolution", "shape"), DIMENSIONS, ids=lambda value: str(value)[:12])
@pytest.mark.parametrize("activation", [nn.ReLU(), nn.SiLU(), nn.PReLU(4)], ids=str)
def test_dimensions(norm: nn.Module, convolution: nn.Module, shape: tuple[int, ...], activation: nn.Module) -> None:
    compare(norm, activation, convolution, random_inputs(shape))


@pytest.mark.parametrize("mode", ["eval", "frozen", "no weights", "no running statistics", "momentum None"])
@pytest.mark.parametrize("activation", [nn.ReLU(), nn.Hardswish()], ids=str)
def test_modes_of_the_norm(mode: str, activation: nn.Module) -> None:
    compare(nn.BatchNorm2d(4), activation, CONVOLUTIONS[0], random_inputs(), mode)


@pytest.mark.parametrize("layout", ["channels_last", "transposed", "expanded", "sliced"])
def test_layouts(layout: str) -> None:
    inputs = random_inputs()
    made = {
        "channels_last": lambda: inputs.contiguous(memory_format=torch.channels_last),
        "transposed": lambda: random_inputs((4, 5, 6, 7)).permute(1, 0, 3, 2),
        "expanded": lambda: inputs[:, :, :, :1].expand(5, 4, 7, 6),
        "sliced": lambda: random_inputs((5, 8, 7, 12))[:, ::2, :, ::2],
    }[layout]()
    compare(nn.BatchNorm2d(4), nn.ReLU(), CONVOLUTIONS[0], made)


def test_a_batch_of_one_and_an_empty_one() -> None:
    compare(nn.BatchNorm2d(4), nn.ReLU(), CONVOLUTIONS[0], random_inputs((1, 4, 5, 5)))
    norm, relu, convolution = fresh(nn.BatchNorm2d(4), nn.ReLU(), CONVOLUTIONS[0])
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        norm_act_conv(random_inputs((1, 4, 1, 1)), norm, relu, convolution)
    with pytest.raises(ValueError, match="expected 4D input"):
        norm_act_conv(random_inputs((5, 4, 7)), norm, relu, convolution)
    assert norm_act_conv(random_inputs((0, 4, 5, 5)), norm.eval(), relu, convolution).shape == (0, 6, 5, 5)


def saved_bytes(run: Any, *external: Tensor) -> int:
    """Bytes alive after a forward pass, besides its outputs."""
    with MemoryTracker(external) as tracker:
        outputs = run()
    return tracker.live_bytes - outputs.untyped_storage().nbytes()


@pytest.mark.quick
def test_only_the_inputs_and_two_vectors_are_kept() -> None:
    modules = fresh(nn.BatchNorm2d(4), nn.ReLU(), CONVOLUTIONS[0])
    inputs = random_inputs((32, 4, 7, 6)).requires_grad_()
    external = [inputs, *(t for m in modules for t in (*m.parameters(), *m.buffers()))]
    kept = saved_bytes(lambda: norm_act_conv(inputs, *modules), *external)
    assert kept == 2 * 4 * 8, "mean and variance of four channels"
    norm, relu, convolution = modules
    assert saved_bytes(lambda: convolution(relu(norm(inputs))), *external) > inputs.nbytes
    assert (
        saved_bytes(lambda: norm_act_conv(inputs.detach(), *(m.requires_grad_(False) for m in modules)), *external) == 0
    )


STEPS = {
    "all kept": (True, True),
    "the last redone": (True, False),
    "two redone": (False, False),
}


@pytest.mark.parametrize("keep", STEPS.values(), ids=STEPS)
@pytest.mark.parametrize("shortcut", ["inputs", "another", None])
@pytest.mark.parametrize("widths", [(4, 4), (4, 16)], ids=["narrow", "wide"])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_chains_with_and_without_a_shortcut(
    keep: tuple[bool, bool], shortcut: str | None, widths: tuple[int, int], mode: str
) -> None:
    """1x1 convolutions in the middle and at the end; a wide end does without its outputs in training."""
    inner, outer = widths
    first = nn.Conv2d(outer, inner, 1, bias=False)
    middle = (nn.BatchNorm2d(inner), nn.ReLU6(), nn.Conv2d(inner, inner, 3, padding=1, bias=False))
    end = (nn.BatchNorm2d(inner), nn.ReLU(), nn.Conv2d(inner, outer, 1, bias=False), nn.BatchNorm2d(outer))
    wide = [first, *middle, *end, nn.LeakyReLU(0.1)]
    found = []
    for fused in (True, False):
        modules = fresh(*wide)
        for norm in (modules[1], modules[4], modules[7]):
            norm.train(mode == "train")
        inputs = random_inputs((6, outer, 9, 8)).requires_grad_()
        other = random_inputs((6, outer, 9, 8)).cos().requires_grad_()
        added = {"inputs": inputs, "another": other, None: None}[shortcut]
        first, *rest, norm, last = modules
        if fused:
            steps = [Step(None, None, first), Step(*rest[:3], keep_input=keep[0]), Step(*rest[3:])]
            outputs = chain(inputs, [*steps, Step(norm, last, None, keep_input=keep[1])], shortcut=added)
        else:
            values = norm(nn.Sequential(first, *rest)(inputs))
            outputs = last(values if added is None else values + added)
        found.append(
            results(outputs, inputs, modules) | {"other": torch.zeros(1) if other.grad is None else other.grad}
        )
    assert_same(*found)


def test_a_redone_step_is_not_kept() -> None:
    sizes = []
    for keep in (True, False):
        modules = fresh(nn.Conv2d(4, 16, 1), nn.BatchNorm2d(16), nn.ReLU())
        inputs = random_inputs((8, 4, 9, 8)).requires_grad_()
        external = [inputs, *(t for m in modules for t in (*m.parameters(), *m.buffers()))]
        steps = [Step(None, None, modules[0]), Step(modules[1], modules[2], None, keep_input=keep)]
        sizes.append(saved_bytes(lambda steps=steps, inputs=inputs: chain(inputs, steps), *external))
    assert sizes[0] - sizes[1] == 8 * 16 * 9 * 8 * 8


class Scaled(nn.Conv2d):
    def forward(self, inputs: Tensor) -> Tensor:
        return 2 * super().forward(inputs)


def hooked(module: nn.Module) -> nn.Module:
    module.register_forward_hook(lambda *_: None)
    return module


@pytest.mark.parametrize(
    ("norm", "activation", "convolution", "words"),
    [
        (hooked(nn.BatchNorm2d(4)), nn.ReLU(), nn.Conv2d(4, 2, 1), "hook is registered on BatchNorm2d"),
        (nn.BatchNorm2d(4), nn.GELU(), nn.Conv2d(4, 2, 1), "GELU"),
        (nn.GroupNorm(2, 4), nn.ReLU(), nn.Conv2d(4, 2, 1), "GroupNorm"),
        (nn.BatchNorm2d(4), nn.ReLU(), Scaled(4, 2, 1), "Scaled"),
        (nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3, padding="same"), "padding='same'"),
        (nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1, padding_mode="reflect"), "pads by 'reflect'"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_fused_runs_plainly_and_says_so(
    norm: nn.Module, activation: nn.Module, convolution: nn.Module, words: str
) -> None:
    modules = [m.double() for m in (norm, activation, convolution)]
    with pytest.warns(PlainPathWarning, match=words):
        found = norm_act_conv(random_inputs(), *modules)
    assert torch.equal(found, nn.Sequential(*modules)(random_inputs()))


def test_shortcuts_and_inputs_that_do_not_fit() -> None:
    convolution, norm, relu = fresh(nn.Conv2d(4, 6, 1), nn.BatchNorm2d(6), nn.ReLU())
    steps = [Step(None, None, convolution), Step(norm, relu, None)]
    with pytest.raises(ValueError, match=r"shortcut of shape \(5, 4, 7, 6\) cannot be added to \(5, 6, 7, 6\)"):
        chain(random_inputs(), steps, shortcut=random_inputs())
    steps[1] = Step(norm, nn.SiLU(), None)
    with pytest.warns(PlainPathWarning, match="a SiLU after a sum needs its input"):
        chain(random_inputs(), steps, shortcut=random_inputs((5, 6, 7, 6)))
    with pytest.raises(ValueError, match=r"in torch.float64 got inputs in torch.float32: give inputs.to"):
        chain(random_inputs().float(), steps)


def test_double_backward_is_refused_with_a_way_out() -> None:
    inputs = random_inputs().requires_grad_()
    outputs = norm_act_conv(inputs, *fresh(nn.BatchNorm2d(4), nn.ReLU(), CONVOLUTIONS[0]))
    with pytest.raises(RuntimeError, match=r"differentiated twice.*efficient=False"):
        torch.autograd.grad(outputs.sum(), inputs, create_graph=True)


def test_a_changed_input_raises_instead_of_corrupting() -> None:
    inputs = random_inputs().requires_grad_()
    values = inputs * 1
    outputs = norm_act_conv(values, *fresh(nn.BatchNorm2d(4), nn.ReLU(), CONVOLUTIONS[0]))
    values.data_ptr()
    with torch.no_grad():
        values.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        outputs.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_autocast(dtype: torch.dtype) -> None:
    norm, relu, convolution = (m.float() for m in fresh(nn.BatchNorm2d(4), nn.ReLU(), CONVOLUTIONS[0]))
    inputs = random_inputs().float().requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        outputs = norm_act_conv(inputs, norm, relu, convolution)
    assert outputs.dtype == dtype
    outputs.float().square().sum().backward()
    grads = [inputs.grad, norm.weight.grad, convolution.weight.grad]
    assert all(grad.dtype == torch.float32 for grad in grads)
    wanted = random_inputs().requires_grad_()
    plain = fresh(nn.BatchNorm2d(4), nn.ReLU(), CONVOLUTIONS[0])
    nn.Sequential(*plain)(wanted).square().sum().backward()
    for found, expected in zip(grads, (wanted.grad, plain[0].weight.grad, plain[2].weight.grad), strict=True):
        assert (found - expected).abs().max() < 0.05 * expected.abs().max()
