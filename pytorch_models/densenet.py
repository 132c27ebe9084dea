"""DenseNet in PyTorch: reads like table 1 of the paper; parameter names and shapes are torchvision's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pytorch_models.saving import dense_block, norm_act_then
from pytorch_models.weights import adopt_densenet_names
from zoo.densenet import DenseNetConfig
from zoo.policy import MemoryPolicy


class DenseLayer(nn.Module):
    """norm, ReLU, 1x1 convolution, norm, ReLU, 3x3 convolution (or norm, ReLU, 3x3 without a bottleneck)."""

    def __init__(self, in_features: int, config: DenseNetConfig, policy: MemoryPolicy) -> None:
        super().__init__()
        growth_rate, inplace = config.growth_rate, policy.inplace_activations
        self.bottleneck = config.bn_size > 0
        self.drop_rate = float(config.drop_rate)
        self.norm1 = nn.BatchNorm2d(in_features, eps=config.norm_epsilon)
        self.relu1 = nn.ReLU(inplace)
        if self.bottleneck:
            width = config.bn_size * growth_rate
            self.conv1 = nn.Conv2d(in_features, width, kernel_size=1, bias=False)
            self.norm2 = nn.BatchNorm2d(width, eps=config.norm_epsilon)
            self.relu2 = nn.ReLU(inplace)
            self.conv2 = nn.Conv2d(width, growth_rate, kernel_size=3, padding=1, bias=False)
        else:
            self.conv1 = nn.Conv2d(in_features, growth_rate, kernel_size=3, padding=1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H, W) -> the new features (N, growth_rate, H, W)."""
        new = self.conv1(self.relu1(self.norm1(features)))
        if self.bottleneck:
            new = self.conv2(self.relu2(self.norm2(new)))
        if self.drop_rate > 0:
            new = F.dropout(new, self.drop_rate, self.training)
        return new


class DenseBlock(nn.ModuleDict):
    """Layers whose input is the concatenation of everything before them."""

    def __init__(self, in_features: int, layers: int, config: DenseNetConfig, policy: MemoryPolicy) -> None:
        super().__init__()
        self.policy = policy
        for index in range(layers):
            layer = DenseLayer(in_features + index * config.growth_rate, config, policy)
            self.add_module(f"denselayer{index + 1}", layer)

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C + layers * growth_rate, H, W)."""
        if self.policy.share_features:
            return dense_block(self, inputs, self.policy)
        features = inputs
        for layer in self.values():
            features = torch.cat([features, layer(features)], 1)
        return features


class Transition(nn.Sequential):
    """norm, ReLU, 1x1 convolution, 2x2 average pool."""

    def __init__(self, in_features: int, out_features: int, config: DenseNetConfig, policy: MemoryPolicy) -> None:
        super().__init__()
        self.policy = policy
        self.norm = nn.BatchNorm2d(in_features, eps=config.norm_epsilon)
        self.relu = nn.ReLU(policy.inplace_activations)
        self.conv = nn.Conv2d(in_features, out_features, kernel_size=1, bias=False)
        self.pool = nn.AvgPool2d(kernel_size=2, stride=2)
