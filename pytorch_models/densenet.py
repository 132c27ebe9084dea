"""DenseNet in PyTorch: reads like table 1 of the paper; parameter names and shapes are torchvision's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pytorch_models.compression import NoiseSeeds
from pytorch_models.saving import (
    BlockCall,
    DenseStorage,
    InputKeeping,
    call_that_made,
    convolution_format,
    dense_block,
    has_hooks,
    norm_act_then,
    why_block_is_plain,
    why_norm_act_is_plain,
)
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


class Features(nn.Sequential):
    """Everything before the classifier: stem, dense blocks with transitions between them, and the last norm."""

    def __init__(self, config: DenseNetConfig, policy: MemoryPolicy, seeds: NoiseSeeds) -> None:
        super().__init__()
        self.policy, self.seeds = policy, seeds
        channels = config.num_init_features
        if config.small_inputs:
            self.conv0 = nn.Conv2d(3, channels, kernel_size=3, stride=1, padding=1, bias=False)
        else:
            self.conv0 = nn.Conv2d(3, channels, kernel_size=7, stride=2, padding=3, bias=False)
            self.norm0 = nn.BatchNorm2d(channels, eps=config.norm_epsilon)
            self.relu0 = nn.ReLU(policy.inplace_activations)
            self.pool0 = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        for index, layers in enumerate(config.block_config, start=1):
            self.add_module(f"denseblock{index}", DenseBlock(channels, layers, config, policy, seeds))
            channels += layers * config.growth_rate
            if index < len(config.block_config):
                out_channels = int(channels * config.compression)
                self.add_module(f"transition{index}", Transition(channels, out_channels, config, policy, seeds))
                channels = out_channels
        self.norm5 = nn.BatchNorm2d(channels, eps=config.norm_epsilon)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, C, h, w), normalised but not yet through the last ReLU."""
        return self.norm5(self.before_last_norm(images)[0])

    def before_last_norm(self, images: Tensor) -> tuple[Tensor, BlockCall | None]:
        """The output of the last dense block, and its call, if nobody else sees what it gave."""
        memory_format = convolution_format(images, getattr(self.conv0, "weight", images))
        values = self.conv0(images)
        if hasattr(self, "norm0"):
            stem: tuple[nn.Module, ...] = (self.norm0, self.relu0, self.pool0)
            if self.policy.recompute_activations:
                values = norm_act_then(values, *stem, keeping=InputKeeping.of(self.policy, self.seeds))
            else:
                for module in stem:
                    values = module(values)
        made_by = None
        for name, module in self.named_children():
            if name.startswith("denseblock"):
                values = module(values)
                made_by = None if has_hooks(module) else call_that_made(values)
            elif name.startswith("transition"):
                seen_by_others = type(module) is not Transition or has_hooks(module)
                values = module(values) if made_by is None or seen_by_others else module(values, made_by)
                # Blocks with shared storage return channels_last; dropout draws its masks in the model's own order.
                values = values.contiguous(memory_format=memory_format)
        return values, made_by


class DenseNet(nn.Module):
    """DenseNet (Huang et al. 2017, arXiv:1608.06993), with exact memory saving.

    Args:
        growth_rate, block_config, compression, num_init_features, bn_size, drop_rate, num_classes, small_inputs:
            see `zoo.densenet.DenseNetConfig`.
        efficient: keep each feature once and recompute everything cheap; same outputs, gradients and running
            statistics as without, see README for bytes and time.
        keep_bottleneck: with `efficient`, keep the 1x1 outputs too: more bytes, less time.
        opt_memory: one of the five classic levels 0..4 instead of `efficient`, see `zoo.policy.MemoryPolicy`.
        flavour: whose constants, "torchvision" or "keras".
        compressed: what is kept is coded in few bits, lossy but unbiased; see `zoo.policy.MemoryPolicy`.

    Input (N, 3, H, W), any floating dtype; output (N, num_classes).

    Raises:
        TypeError, ValueError: naming the argument, what came and what is needed.

    Example:
        >>> model = DenseNet(growth_rate=12, block_config=(2, 2, 2), efficient=True)
        >>> model(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        growth_rate: int = 12,
        block_config: Sequence[int] = (16, 16, 16),
        compression: float = 0.5,
        num_init_features: int = 24,
        bn_size: int = 4,
        drop_rate: float = 0,
        num_classes: int = 10,
        small_inputs: bool = True,
        efficient: bool = False,
        keep_bottleneck: bool = False,
        opt_memory: int | None = None,
        flavour: str = "torchvision",
        compressed: int | str | None = None,
    ) -> None:
        super().__init__()
        self.config = DenseNetConfig(
            growth_rate,
            block_config,  # type: ignore[arg-type]
            compression,
            num_init_features,
            bn_size,
            drop_rate,
            num_classes,
            small_inputs,
            flavour,
        )
        self.policy = MemoryPolicy(efficient, keep_bottleneck, opt_memory, compressed)
        self.features = Features(self.config, self.policy, NoiseSeeds())
        self.classifier = nn.Linear(self.config.block_widths()[-1], num_classes)
        self._initialise()
        self.register_load_state_dict_pre_hook(adopt_densenet_names)

    @classmethod
    def from_config(cls, config: DenseNetConfig, policy: MemoryPolicy = MemoryPolicy()) -> DenseNet:  # noqa: B008 - frozen
        """Build from zoo's values."""
        return cls(**vars(config), **vars(policy))

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, num_classes) scores."""
        channels = getattr(getattr(self.features, "conv0", None), "in_channels", 3)
        if images.dim() != 4 or images.shape[1] != channels:
            needed = f"(N, {channels}, height, width)"
            raise ValueError(f"DenseNet needs images of shape {needed}, not {tuple(images.shape)}")
        features_are_ours = type(self.features) is Features and "forward" not in vars(self.features)
        if self.policy.recompute_activations and features_are_ours and not has_hooks(self.features):
            values, made_by = self.features.before_last_norm(images)
            head = (self.features.norm5, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
            keeping = InputKeeping.of(self.policy, self.features.seeds, made_by)
            pooled = norm_act_then(values, *head, keeping=keeping)
        else:
            pooled = F.adaptive_avg_pool2d(F.relu(self.features(images)), 1).flatten(1)
        return self.classifier(pooled)
