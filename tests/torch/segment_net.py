"""A network of two stages, whose modules the tests of segments mark."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn


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
