"""Models of no zoo, as people write them: a U-Net, a small transformer, a plain stack; for the planner's tests."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class DoubleConv(nn.Sequential):
    """Two convolutions with norms and activations in place."""

    def __init__(self, into: int, out: int) -> None:
        super().__init__(
            nn.Conv2d(into, out, 3, padding=1),
            nn.BatchNorm2d(out),
            nn.ReLU(inplace=True),
            nn.Conv2d(out, out, 3, padding=1),
            nn.BatchNorm2d(out),
            nn.ReLU(inplace=True),
        )


class UNet(nn.Module):
    """Ronneberger et al. 2015 (arXiv:1505.04597), small: two levels, skips by concatenation."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.enter = DoubleConv(3, width)
        self.down = nn.MaxPool2d(2)
        self.left = DoubleConv(width, 2 * width)
        self.bottom = DoubleConv(2 * width, 4 * width)
        self.rise = nn.ConvTranspose2d(4 * width, 2 * width, 2, stride=2)
        self.right = DoubleConv(4 * width, 2 * width)
        self.rise_again = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.leave = DoubleConv(2 * width, width)
        self.head = nn.Conv2d(width, 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 2, H, W)."""
        first = self.enter(images)
        second = self.left(self.down(first))
        values = self.bottom(self.down(second))
        values = self.right(torch.cat([second, self.rise(values)], 1))
        values = self.leave(torch.cat([first, self.rise_again(values)], 1))
        return self.head(values)


class Layer(nn.Module):
    """Attention and a perceptron, each added to what it reads."""

    def __init__(self, width: int, heads: int, drop_rate: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_qkv, self.to_out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.perceptron = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(drop_rate)

    def forward(self, values: Tensor) -> Tensor:
        """(N, T, width) -> the same."""
        batch, steps, width = values.shape
        parts = self.to_qkv(self.norm1(values)).view(batch, steps, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        weights = torch.softmax(query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5, -1)
        seen = (weights @ value).transpose(1, 2).reshape(batch, steps, width)
        values = values + self.dropout(self.to_out(seen))
        return values + self.dropout(self.perceptron(self.norm2(values)))


class Transformer(nn.Module):
    """Tokens to scores, layers in a list as everybody has them."""

    def __init__(self, layers: int = 4, width: int = 32, vocabulary: int = 50, drop_rate: float = 0.1) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(torch.zeros(64, width))
        self.layers = nn.ModuleList(Layer(width, 4, drop_rate) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, T) -> (N, T, vocabulary)."""
        values = self.embedding(tokens) + self.positions[: tokens.shape[1]]
        for layer in self.layers:
            values = layer(values)
        return self.head(self.norm(values))


class Shared(nn.Module):
    """One block called three times, one of its own, and a first layer that is not trained."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, padding=1).requires_grad_(False)
        self.block, self.other = DoubleConv(width, width), DoubleConv(width, width)
        self.head = nn.Linear(width, 5)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 5)."""
        values = F.relu(self.first(images))
        for _ in range(3):
            values = self.block(values)
        return self.head(self.other(values).mean((2, 3)))


class DataDependent(nn.Module):
    """A layer that looks at values to decide what it does."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.gate = nn.Linear(8, 8), Gate()

    def forward(self, values: Tensor) -> Tensor:
        """(N, 8) -> (N, 8)."""
        return self.gate(self.linear(values))


class Gate(nn.Module):
    """Negates a batch with a negative sum."""

    def forward(self, values: Tensor) -> Tensor:
        """As it says."""
        return -values if values.sum().item() < 0 else values
