"""The parts of a DenseNet in PyTorch: a dense layer, a block of them, and the transition between two blocks."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pytorch_models.compression import NoiseSeeds
from pytorch_models.saving import (
    BlockCall,
    DenseStorage,
    InputKeeping,
    dense_block,
    norm_act_then,
    why_block_is_plain,
    why_norm_act_is_plain,
)
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

    def __init__(
        self, in_features: int, layers: int, config: DenseNetConfig, policy: MemoryPolicy, seeds: NoiseSeeds
    ) -> None:
        super().__init__()
        self.policy, self.seeds = policy, seeds
        self.storage: DenseStorage | None = None  # what the last forward pass kept, for `how_kept`
        for index in range(layers):
            layer = DenseLayer(in_features + index * config.growth_rate, config, policy)
            self.add_module(f"denselayer{index + 1}", layer)

    @property
    def layer_type(self) -> type[nn.Module]:
        """What every layer of an unchanged block is."""
        return DenseLayer

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C + layers * growth_rate, H, W)."""
        if self.policy.share_features:
            return dense_block(self, inputs, self.policy, self.seeds)
        return self.plain_forward(inputs)

    def how_kept(self) -> str:
        """In words, what this block keeps for the backward pass."""
        if not self.policy.share_features:
            return "concatenations and activations of every layer"
        reason = why_block_is_plain(self, DenseLayer)
        if reason is not None:
            return f"the plain way: {reason}"
        return str(self.storage or "features once")

    def plain_forward(self, inputs: Tensor) -> Tensor:
        """The definition: every layer reads the concatenation of all features before it."""
        features = inputs
        for layer in self.values():
            features = torch.cat([features, layer(features)], 1)
        return features


class Transition(nn.Sequential):
    """norm, ReLU, 1x1 convolution, 2x2 average pool."""

    def __init__(
        self, in_features: int, out_features: int, config: DenseNetConfig, policy: MemoryPolicy, seeds: NoiseSeeds
    ) -> None:
        super().__init__()
        self.policy, self.seeds = policy, seeds
        self.norm = nn.BatchNorm2d(in_features, eps=config.norm_epsilon)
        self.relu = nn.ReLU(policy.inplace_activations)
        self.conv = nn.Conv2d(in_features, out_features, kernel_size=1, bias=False)
        self.pool = nn.AvgPool2d(kernel_size=2, stride=2)

    def how_kept(self) -> str:
        """In words, what this transition keeps for the backward pass."""
        if not self.policy.recompute_activations:
            return "kept by autograd"
        reason = why_norm_act_is_plain(*self)
        if reason:
            return f"the plain way: {reason}"
        return "its input (the block's own, or codes of it and masks), the rest is rebuilt"

    def forward(self, inputs: Tensor, made_by: BlockCall | None = None) -> Tensor:
        """(N, C, H, W) -> (N, out_features, H // 2, W // 2); `made_by` is the block's call that made the inputs."""
        if not self.policy.recompute_activations:
            return super().forward(inputs)
        tail, keeping = [self.conv, self.pool], InputKeeping.of(self.policy, self.seeds, made_by)
        if not keeping.plain_order and self._averages_commute() and why_norm_act_is_plain(*self) is None:
            tail.reverse()  # the same numbers from a quarter of the convolution's work
        return norm_act_then(inputs, self.norm, self.relu, *tail, keeping=keeping)

    def _averages_commute(self) -> bool:
        """Whether the pool may come before the convolution: one mixes pixels, the other channels alone."""
        conv, pool = self.conv, self.pool
        if type(conv) is not nn.Conv2d or type(pool) is not nn.AvgPool2d:
            return False
        pointwise = conv.kernel_size == (1, 1) and conv.stride == (1, 1) and conv.padding == (0, 0)
        return pointwise and pool.padding == 0 and pool.divisor_override is None
