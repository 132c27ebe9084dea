"""Weights and images that follow from names and shapes alone, so that two implementations can be compared by value."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def fill(model: nn.Module) -> nn.Module:
    """Give every floating parameter and buffer waves of its own, of a size that keeps activations moderate."""
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if not tensor.is_floating_point():
                continue
            wave = torch.sin(torch.arange(tensor.numel(), dtype=torch.float64) * 0.37 + len(name)).view(tensor.shape)
            if tensor.dim() > 1:
                tensor.copy_(wave * (2 / tensor[0].numel()) ** 0.5)
            elif name.endswith(("weight", "running_var")):
                tensor.copy_(1 + 0.3 * wave)
            else:
                tensor.copy_(0.1 * wave)
    return model.double().eval()


def fixed_images() -> Tensor:
    """(2, 3, 65, 65) in float64; odd sizes show how strides and padding meet."""
    return torch.cos(torch.arange(2 * 3 * 65 * 65, dtype=torch.float64) * 0.11).view(2, 3, 65, 65)
