"""A norm's codes stand for the ReLU's and the convolution's input too: bytes, and the convolution's own gradient."""

from __future__ import annotations

import pytest
import torch
from compress.small_nets import assert_unbiased, saved_bytes
from torch import Tensor, nn

from pytorch_models.compressed import compress


def chain() -> nn.Sequential:
    torch.manual_seed(2)
    return nn.Sequential(nn.Conv2d(4, 16, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 3, padding=1))


def last_gradient(model: nn.Sequential, inputs: Tensor) -> Tensor:
    model.zero_grad()
    outputs = model(inputs)
    weights = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(3))
    (outputs * weights).sum().backward()
    assert isinstance(model[3], nn.Conv2d)
    assert model[3].weight.grad is not None
    return model[3].weight.grad.flatten().double()


@pytest.mark.parametrize("scheme", ["2", "L3"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_a_convolution_behind_a_norm_is_unbiased(scheme: str, channels_last: bool) -> None:
    inputs = torch.randn(4, 4, 12, 12)
    if channels_last:
        inputs = inputs.contiguous(memory_format=torch.channels_last)
    exact = last_gradient(chain(), inputs)
    model = compress(chain(), scheme)
    samples = torch.stack([last_gradient(model, inputs) for _ in range(120)])
    assert_unbiased(samples, exact)
    assert samples.std(0).max() > 0


@pytest.mark.quick
def test_norm_relu_and_convolution_keep_three_bits_a_value() -> None:
    inputs, model = torch.randn(8, 4, 32, 32), compress(chain(), 2)
    first = inputs.numel() * (2 + 32 / 256) / 8
    behind = 8 * 16 * 32 * 32 * (2 + 32 / 256 + 1) / 8
    assert saved_bytes(model, lambda: model(inputs), inputs) <= 1.02 * (first + behind)
