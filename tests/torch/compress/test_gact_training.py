"""GACT at work: transformers and LSTMs train, mixed precision, copies, measuring, automatic bits."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from compress.small_nets import gradient, images, loss_of, residual, saved_bytes
from torch import Tensor, nn
from torch.nn import functional as F

import pytorch_models
from pytorch_models.compressed import compress, gact


def transformer() -> tuple[nn.Module, Tensor]:
    return nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, activation="gelu"), torch.randn(8, 12, 32)


def recurrent() -> tuple[nn.Module, Tensor]:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.head = nn.LSTM(32, 32, batch_first=True), nn.Linear(32, 32)

        def forward(self, values: Tensor) -> Tensor:
            return self.head(self.lstm(values)[0])

    return Last(), torch.randn(8, 12, 32)


@pytest.mark.parametrize("make", [transformer, recurrent])
def test_transformers_and_lstms_train(make: Callable[[], tuple[nn.Module, Tensor]]) -> None:
    torch.manual_seed(0)
    model, inputs = make()
    targets = torch.randn(8, 12, 32) / 4
    optimiser = torch.optim.Adam(model.parameters(), 0.01)
    losses = []
    with gact(model, 4) as controller:
        for _ in range(30):
            optimiser.zero_grad()
            loss = F.mse_loss(model(inputs), targets + inputs)
            loss.backward()
            optimiser.step()
            controller.iterate()
            losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


def test_nan_activations_stay_nan() -> None:
    model = nn.Sequential(nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3))
    inputs = torch.randn(2, 8, 16, 16)
    inputs[0, 0, 0, 0] = float("nan")
    with gact(model, 2):
        model(inputs)[1].sum().backward()
    assert model[1].weight.grad.isnan().any()


def test_the_zoos_own_functions_are_left_alone() -> None:
    model = pytorch_models.DenseNet(growth_rate=4, block_config=(2, 2), num_classes=10, efficient=True)
    inputs = torch.randn(4, 3, 32, 32)
    exact = gradient(model, inputs)
    with gact(model, 1):
        found = gradient(model, inputs)
    inside = [name for name, _ in model.named_parameters() if "denseblock1" in name]
    sizes = [p.numel() for p in model.parameters()]
    for name, a, b in zip(dict(model.named_parameters()), exact.split(sizes), found.split(sizes), strict=True):
        if name in inside and "features.conv0" not in name:
            assert torch.allclose(a, b, atol=1e-6), name


def test_autocast() -> None:
    model, inputs = residual(), images()
    with torch.autocast("cpu", torch.bfloat16), gact(model, 8):
        loss = loss_of(model, inputs)
    loss.backward()
    assert all(p.grad.isfinite().all() and p.grad.dtype == torch.float32 for p in model.parameters())


def test_copies_and_pickles_are_not_watched() -> None:
    model, inputs = residual(), images()
    plain = saved_bytes(model, lambda: model(inputs), inputs)
    with gact(model, 2):
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(other(inputs), model(inputs))
            assert saved_bytes(other, lambda other=other: other(inputs), inputs) == plain


def test_measure_counts_what_hooks_keep() -> None:
    model = residual()
    plain = pytorch_models.measure_step(model, (8, 3, 16, 16), repeats=0)
    with gact(model, 2):
        for execute in (True, False):
            report = pytorch_models.measure_step(model, (8, 3, 16, 16), repeats=0, execute=execute)
            assert plain.saved_bytes / 20 < report.saved_bytes < plain.saved_bytes / 6


def test_automatic_bits_keep_their_average_and_lower_the_noise() -> None:
    model, inputs = residual(), images(16)

    def noise() -> float:
        return float(torch.stack([gradient(model, inputs) for _ in range(12)]).var(0).sum())

    with gact(model, 2):
        uniform = noise()
    with gact(model, 2, automatic=True) as controller:
        for _ in range(8):
            loss_of(model, inputs).backward()
            controller.iterate(lambda: loss_of(model, inputs).backward())
        assert controller.automatic is not None
        assert controller.automatic.average_bits <= 2
        assert controller.coded.average == pytest.approx(controller.automatic.average_bits, abs=0.5)
        assert len({slot.bits for slot in controller.automatic.slots}) > 1
        assert noise() < uniform


def test_average_bits_are_those_of_what_hooks_coded() -> None:
    model = compress(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Tanh()), "gact:4")
    model(images())  # the second convolution's input, 14 x 14, in 4 bits, and tanh's output, 12 x 12, in 8
    assert model.compression.average_bits == pytest.approx((4 * 14**2 + 8 * 12**2) / (14**2 + 12**2))
