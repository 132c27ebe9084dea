"""Convolutions as saving blocks call them."""

from __future__ import annotations

import torch

from pytorch_models.saving.unit_call import Convolution


def test_a_strided_pointwise_weights_gradient_stays_within_its_memory() -> None:
    """Of few channels in channels_last, where oneDNN would write past its scratch."""
    for channels in (1, 4, 15):
        values = torch.randn(32, channels, 64, 64).to(memory_format=torch.channels_last)
        weight = torch.randn(8, channels, 1, 1)
        gradient = torch.randn(32, 8, 32, 32).to(memory_format=torch.channels_last)
        convolution = Convolution((2, 2), (0, 0), (1, 1), 1)
        for _ in range(5):
            found = convolution.backward(gradient, values, weight, needs=(True, True, False))
        expected = torch.einsum("nohw,nihw->oi", gradient.double(), values[:, :, ::2, ::2].double())
        assert torch.allclose(found[1][:, :, 0, 0].double(), expected, rtol=1e-4, atol=1e-3)
        assert torch.equal(found[0], convolution.backward(gradient, values, weight, needs=(True, False, False))[0])
