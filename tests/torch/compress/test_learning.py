"""What schemes learn and keep between passes: costs that add up, steps that teach nothing, statistics that move."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from compress.small_nets import images, loss_of, residual, saved_bytes
from torch import Tensor, nn
from torch.nn import functional as F

from pytorch_models.compressed import compress, gact
from pytorch_models.compressed.session import INTERVAL
from pytorch_models.compressed.sites import Site


class TwoReaders(nn.Module):
    """Two linear layers that read the same values."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.one, self.two = nn.Linear(64, 64), nn.Linear(64, 4), nn.Linear(64, 4)

    def forward(self, values: Tensor) -> Tensor:
        values = F.relu(self.enter(values))
        return self.one(values) + self.two(values)


def taught(trained: bool) -> Site:
    """The place that packed what `one` and, if it is `trained`, `two` read."""
    torch.manual_seed(0)
    model = compress(TwoReaders(), "L3")
    model.two.requires_grad_(trained)
    outputs = model(torch.randn(8, 64))
    outputs.backward(torch.ones_like(outputs))
    return next(site for site in model.compression.sites if site.name == "one")


def test_costs_of_layers_that_read_the_same_values_add_up() -> None:
    both, alone = taught(True), taught(False)
    assert both.variance == pytest.approx(2 * alone.variance, rel=1e-4)
    assert torch.allclose(both.costs(), 2 * alone.costs())


def test_a_step_with_infinite_gradients_teaches_nothing() -> None:
    model = compress(residual(), "L3")
    loss_of(model, images()).backward()
    before = [site.costs().clone() for site in model.compression.sites if site.is_measured]
    (loss_of(model, images()) * float("inf")).backward()
    after = [site.costs() for site in model.compression.sites if site.is_measured]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_bits_are_shared_out_again_after_some_steps() -> None:
    model, scale = compress(residual(), "L3"), 1.0
    averages = []
    for step in range(2 * INTERVAL + 2):
        if step == INTERVAL:
            model.head.weight.data[:, ::2] *= 100
            scale = 1e-3
        (loss_of(model, images()) * scale).backward()
        averages.append(tuple(site.average for site in model.compression.sites))
    assert averages[1] == averages[INTERVAL - 1] != averages[-1]


def test_a_norm_of_few_values_a_channel_gets_four_bits() -> None:
    for shape, bits in (((16, 8), 4.0), ((128, 8), 1.0)):
        model = compress(nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)), "1")
        model(torch.randn(shape)).sum().backward()
        assert model.compression.report()[1]["bits"] == bits


def test_statistics_may_move_before_the_backward_pass() -> None:
    plain, model = residual().eval(), compress(residual(), "8").eval()
    loss_of(plain, images()).backward()
    loss = loss_of(model, images())
    model.train()(images(seed=3) * 90 + 90)
    loss.backward()
    for exact, found in ((plain.norm1, model.norm1), (plain.norm2, model.norm2)):
        assert float((found.weight.grad - exact.weight.grad).norm()) < 0.1 * float(exact.weight.grad.norm())


class Expanded(nn.Module):
    """A product with one row seen as many, and a root, which saves its own output."""

    def forward(self, values: Tensor) -> Tensor:
        return (values * values[:1].exp().expand(64, -1)).square().sqrt()


def test_what_hooks_leave_as_it_is_is_freed_and_not_made_larger() -> None:
    model, values = Expanded(), torch.rand(64, 256, requires_grad=True) * 1
    plain = saved_bytes(model, lambda: model(values), values)
    gc.disable()
    try:
        with gact(model, 8):
            coded = 2 * values.numel() * (8 + 32 / 256) / 8  # of the product's other factor and of the square's input
            assert saved_bytes(model, lambda: model(values), values) < 1.1 * coded < plain
            outputs = model(values)
            alive = weakref.ref(outputs)
            del outputs
            assert alive() is None, "an output holds itself alive"
    finally:
        gc.enable()
