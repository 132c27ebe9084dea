"""Small networks for the tests of compression, and what is asked of them again and again."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pytorch_models.tracker import MemoryTracker


class Residual(nn.Module):
    """norm, ReLU and convolutions around a sum, with a pool, dropout and a shortcut that shares its input."""

    def __init__(self, width: int = 16, drop: float = 0.0) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.norm1, self.relu = nn.BatchNorm2d(width), nn.ReLU()
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(width, width, 1)
        self.drop = nn.Dropout(drop)
        self.mean = nn.AvgPool2d(2)
        self.head = nn.Linear(width * 16, 10)

    def forward(self, images: Tensor) -> Tensor:
        values = self.pool(self.relu(self.norm1(self.stem(images))))
        inner = self.conv2(self.relu(self.norm2(self.conv1(values))))
        values = self.relu(inner + self.shortcut(values))
        return self.head(self.drop(self.mean(values)).flatten(1))


def images(count: int = 8, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def residual(drop: float = 0.0, seed: int = 1) -> Residual:
    torch.manual_seed(seed)
    return Residual(drop=drop)


def loss_of(model: nn.Module, inputs: Tensor) -> Tensor:
    outputs = model(inputs)
    return F.cross_entropy(outputs, torch.arange(len(outputs)) % outputs.shape[1])


def gradient(model: nn.Module, inputs: Tensor, seed: int | None = None) -> Tensor:
    """All weights' gradients of a step in one vector, float64."""
    if seed is not None:
        torch.manual_seed(seed)
    model.zero_grad()
    loss_of(model, inputs).backward()
    return torch.cat([p.grad.flatten().double() for p in model.parameters() if p.grad is not None])


def saved_bytes(model: nn.Module, run: Callable[[], Tensor], inputs: Tensor) -> int:
    """What is allocated after the forward pass, outputs not counted."""
    with MemoryTracker([inputs, *model.parameters(), *model.buffers()]) as tracker:
        outputs = run()
        allocation = tracker.allocation_of(outputs)
        live = tracker.live_bytes - (allocation.storage_bytes if allocation is not None else 0)
        del outputs
    return live


def assert_unbiased(samples: Tensor, exact: Tensor, errors: float = 4.0) -> None:
    """The mean of (runs, n) samples is the exact vector, within standard errors of projections on fixed directions."""
    directions = torch.randn(16, exact.numel(), generator=torch.Generator().manual_seed(5), dtype=exact.dtype)
    directions = torch.cat([directions, exact[None] / exact.norm()])
    found = samples @ directions.T
    standard = found.std(0) / len(samples) ** 0.5
    difference = (found.mean(0) - directions @ exact).abs()
    assert (difference <= errors * standard + 1e-9).all(), (difference / standard).max()
