"""What users do to compression: foreign networks, odd batches, moved models, failing layers, threads, transforms."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable

import pytest
import torch
from compress.foreign_nets import VGG, Checkpointed, Functional, Shared, UNet, Waves
from compress.small_nets import gradient, images, loss_of, residual, saved_bytes
from torch import nn
from torch.nn import functional as F

import pytorch_models
import zoo
from pytorch_models.compressed import compress

FOREIGN = [VGG, UNet, Waves, Functional, Shared, Checkpointed]
LEARNING = ["L3", "autoquantz", "gact:4"]


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize(("scheme", "near", "part"), [("8", 0.99, 1 / 3), ("L3", 0.75, 1 / 5)])
def test_foreign_networks(kind: Callable[[], nn.Module], scheme: str, near: float, part: float) -> None:
    torch.manual_seed(0)
    model, inputs = kind(), images()
    coded = compress(copy.deepcopy(model), scheme)
    assert torch.equal(coded(inputs), model(inputs))
    exact, found = gradient(model, inputs), gradient(coded, inputs)
    assert F.cosine_similarity(exact, found, 0) > near
    plain, kept = (saved_bytes(one, lambda one=one: one(inputs), inputs) for one in (model, coded))
    assert kept < part * plain
    assert coded.compression.unconverted == (("(model)",) if kind is Functional else ())


@pytest.mark.parametrize(
    ("compressed", "efficient"),
    [("fixed:3", False), ("fixed:3", True), ("2", True), ("L3", False), ("L3", True), ("quantz4", False)],
)
def test_an_empty_batch(compressed: str, efficient: bool) -> None:
    flags = {"compressed": compressed, "efficient": efficient, "num_classes": 10}
    models: list[nn.Module] = [zoo.create_model("resnet20", **flags)]
    if compressed == "fixed:3":
        models += [
            zoo.create_model("mobilenet_v2", **flags),
            pytorch_models.DenseNet(4, (2, 2), compressed=compressed, efficient=efficient),
        ]
    for model in models:
        outputs = model.eval()(torch.zeros(0, 3, 32, 32))
        outputs.sum().backward()
        assert outputs.shape == (0, 10)
        assert all(not p.grad.any() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("scheme", LEARNING)
def test_passes_of_several_batches_in_flight(scheme: str) -> None:
    """Two forward passes, then two backward passes; and forward passes of other sizes that nobody differentiates."""
    model = compress(residual(), scheme).eval()
    for step in range(12):
        one, two = loss_of(model, images()), loss_of(model, images(5, seed=1))
        model.zero_grad()
        one.backward()
        two.backward()
        model(images(3 + step % 3))
    found = torch.cat([p.grad.flatten() for p in model.parameters()])
    plain = residual().eval()
    (loss_of(plain, images()) + loss_of(plain, images(5, seed=1))).backward()
    assert F.cosine_similarity(found, torch.cat([p.grad.flatten() for p in plain.parameters()]), 0) > 0.8


@pytest.mark.parametrize("scheme", LEARNING)
def test_a_model_moved_after_conversion(scheme: str) -> None:
    model = compress(residual(), scheme)
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float32):
        model.to(dtype)
        for training in (True, False):
            model.train(training).zero_grad()
            loss_of(model, images().to(dtype)).backward()
        assert all(p.grad.dtype == dtype and p.grad.isfinite().all() for p in model.parameters())
    with pytest.raises(RuntimeError, match="none for tensors on meta"):
        model.to("meta")(images().to("meta"))


@pytest.mark.parametrize("scheme", [*LEARNING, "swap"])
@pytest.mark.filterwarnings("ignore:compress. 'swap'")
def test_a_failing_layer_leaves_nothing_behind(scheme: str) -> None:
    model = compress(residual(), scheme)

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    handle = model.conv2.register_forward_pre_hook(fail)
    with pytest.raises(KeyboardInterrupt):
        model(images())
    handle.remove()
    assert not model.compression.known.is_open
    seen = torch.randn(4, 300, requires_grad=True) * 1
    assert torch.equal((seen * seen).grad_fn._saved_self, seen)
    loss_of(model, images()).backward()


def test_two_levels_in_threads() -> None:
    inputs, found = images(), {}

    def work(scheme: str, model: nn.Module) -> None:
        for _ in range(4):
            exact = gradient(model, inputs)
        found[scheme] = (exact, saved_bytes(model, lambda: model(inputs), inputs), str(model.compression.scheme))

    models = {scheme: compress(residual(), scheme) for scheme in ("1", "8", "L2")}
    threads = [threading.Thread(target=work, args=pair) for pair in models.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found["1"][1] < found["L2"][1] < found["8"][1]
    assert all(scheme == told for scheme, (_, _, told) in found.items())
    assert F.cosine_similarity(found["8"][0], gradient(residual(), inputs), 0) > 0.99


def test_one_model_in_threads() -> None:
    model, inputs, errors = compress(residual(), "8").eval(), images(), []
    exact = gradient(residual().eval(), inputs)

    def work() -> None:
        for _ in range(4):
            parts = torch.autograd.grad(loss_of(model, inputs), list(model.parameters()))
            errors.append(float((torch.cat([p.flatten().double() for p in parts]) - exact).norm() / exact.norm()))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(errors) == 12
    assert max(errors) < 0.1


@pytest.mark.parametrize("scheme", ["L3", "gact:4"])
def test_reentrant_segments_and_the_zoos_own(scheme: str) -> None:
    own = zoo.create_model("resnet20", num_classes=10, compressed=scheme)
    own.set_grad_checkpointing()
    for model in (compress(Checkpointed(reentrant=True), scheme), own):
        for _ in range(2):
            assert gradient(model, images(4)).isfinite().all()


@pytest.mark.parametrize("scheme", ["L3", "gact:4"])
def test_transforms_compile_and_export_run_as_without(scheme: str) -> None:
    plain = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4)).eval()
    model, inputs = compress(copy.deepcopy(plain), scheme), torch.randn(2, 3, 8, 8)
    weights = {name: value.detach() for name, value in plain.named_parameters()}

    def total(module: nn.Module) -> Callable[[dict[str, torch.Tensor]], torch.Tensor]:
        return lambda given: torch.func.functional_call(module, given, (inputs,)).square().sum()

    exact, found = (torch.func.grad(total(module))(weights) for module in (plain, model))
    assert all(torch.equal(exact[name], found[name]) for name in exact)
    compiled = torch.compile(model, backend="eager")
    assert torch.equal(compiled(inputs), plain(inputs))
    compiled(inputs).sum().backward()
    assert torch.equal(torch.export.export(model, (inputs,)).module()(inputs), plain(inputs))


@pytest.mark.parametrize("scheme", LEARNING)
def test_unbatched_and_lone_values(scheme: str) -> None:
    for layer, shape in (
        (nn.Linear(32, 8), (32,)),
        (nn.LayerNorm(8), (8,)),
        (nn.LayerNorm(8), (0, 8)),
        (nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.AvgPool2d(2)), (3, 18, 18)),
        (nn.Sequential(nn.Linear(1, 8), nn.GELU(), nn.SiLU(inplace=True)), (1, 1)),
    ):
        model = compress(copy.deepcopy(layer), scheme)
        for one in (layer, model):
            one(torch.ones(shape)).sum().backward()
        for a, b in zip(layer.parameters(), model.parameters(), strict=True):
            assert (a.grad - b.grad).abs().max() <= 0.6 * a.grad.abs().max() + 1e-6


@pytest.mark.parametrize("scheme", ["L3", "gact:4"])
def test_the_zoos_lstm_takes_schemes_by_its_own_codes(scheme: str) -> None:
    sizes, outputs = [], []
    for compressed in (None, scheme):
        torch.manual_seed(0)
        model = pytorch_models.LSTM(input_size=28, hidden_size=32, compressed=compressed)
        outputs.append(model(torch.ones(4, 28, 28)))
        sizes.append(pytorch_models.measure_step(model, (4, 28, 28), repeats=0).saved_bytes)
    assert torch.equal(*outputs)
    assert sizes[1] < sizes[0] / 8
    with pytest.raises(ValueError, match="not what an LSTM keeps: give"):
        pytorch_models.LSTM(compressed="autoquantz")
