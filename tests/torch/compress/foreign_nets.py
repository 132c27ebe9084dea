"""Networks as other people write them, small: what `compress` is given."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


def unit(into: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(into, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU(inplace=True))


class VGG(nn.Module):
    """torchvision's: everything in place."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(unit(3, 16), nn.MaxPool2d(2, 2), unit(16, 16), nn.MaxPool2d(2, 2))
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.classifier = nn.Sequential(nn.Linear(64, 64), nn.ReLU(True), nn.Dropout(0.0), nn.Linear(64, 10))

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.pool(self.features(images)), 1))


class UNet(nn.Module):
    """A concatenated skip and a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.inner, self.pool = unit(3, 16), unit(16, 32), nn.MaxPool2d(2)
        self.up, self.last, self.out = nn.ConvTranspose2d(32, 16, 2, 2), unit(32, 16), nn.Conv2d(16, 10, 1)

    def forward(self, images: Tensor) -> Tensor:
        skip = self.down(images)
        values = torch.cat([skip, self.up(self.inner(self.pool(skip)))], 1)
        return self.out(self.last(values)).mean((2, 3))


class Waves(nn.Module):
    """One dimension, dilation, groups, smooth activations, a pool that is not converted."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(3, 16, 5, padding=2), nn.BatchNorm1d(16), nn.GELU(),
            nn.Conv1d(16, 16, 5, padding=4, dilation=2, groups=4), nn.SiLU(), nn.AvgPool1d(2),
            nn.Conv1d(16, 10, 3, stride=2),
        )  # fmt: skip

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images.flatten(2)).mean(2)


class Functional(nn.Module):
    """F.conv2d with parameters of its own, F.relu, F.max_pool2d, F.hardswish."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(16, 3, 3, 3) * 0.2), nn.Parameter(torch.zeros(16))
        self.norm, self.conv, self.head = nn.BatchNorm2d(16), nn.Conv2d(16, 16, 3, padding=1), nn.Linear(256, 10)

    def forward(self, images: Tensor) -> Tensor:
        values = F.relu(self.norm(F.conv2d(images, self.weight, self.bias, padding=1)))
        values = F.relu(self.conv(F.max_pool2d(values, 4)), inplace=True)
        return self.head(F.hardswish(values).flatten(1))


class Shared(nn.Module):
    """Layers that run three times, a norm's output changed in place, and two heads with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1), None
        self.norm, self.relu = nn.BatchNorm2d(16), nn.ReLU()
        self.one, self.two = nn.Linear(16, 10), nn.Linear(16, 10)
        self.two.weight = self.one.weight

    def forward(self, images: Tensor) -> Tensor:
        values = self.stem(images)
        for _ in range(3):
            inner = self.norm(self.conv(values))
            inner += 1
            values = values + self.relu(inner)
        pooled = values.mean((2, 3))
        return self.one(pooled) + self.two(pooled)


class Checkpointed(nn.Module):
    """A segment of `torch.utils.checkpoint` in the middle."""

    def __init__(self, reentrant: bool = False) -> None:
        super().__init__()
        self.first, self.second, self.head, self.reentrant = unit(3, 16), unit(16, 16), nn.Linear(16, 10), reentrant

    def forward(self, images: Tensor) -> Tensor:
        values = checkpoint(self.second, self.first(images), use_reentrant=self.reentrant)
        assert isinstance(values, Tensor)
        return self.head(values.mean((2, 3)))
