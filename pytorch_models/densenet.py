"""DenseNet in PyTorch: reads like table 1 of the paper; parameter names and shapes are torchvision's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pytorch_models.compression import NoiseSeeds
from pytorch_models.densenet_blocks import DenseBlock, Transition
from pytorch_models.saving import BlockCall, InputKeeping, call_that_made, convolution_format, has_hooks, norm_act_then
from pytorch_models.segments import give_configs, run_as_segment
from pytorch_models.weights import canonical_densenet_name
from pytorch_models.zoo_model import ZooModel, check_images
from zoo.densenet import DenseNetConfig
from zoo.policy import MemoryPolicy


class Features(nn.Sequential):
    """Everything before the classifier: stem, dense blocks with transitions between them, and the last norm."""

    def __init__(self, config: DenseNetConfig, policy: MemoryPolicy, seeds: NoiseSeeds) -> None:
        super().__init__()
        self.policy, self.seeds = policy, seeds
        self.checkpoint_stages = False
        channels = config.num_init_features
        if config.small_inputs:
            self.conv0 = nn.Conv2d(config.in_chans, channels, kernel_size=3, stride=1, padding=1, bias=False)
        else:
            self.conv0 = nn.Conv2d(config.in_chans, channels, kernel_size=7, stride=2, padding=3, bias=False)
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
        """(N, in_chans, H, W) -> (N, C, h, w), normalised but not yet through the last ReLU."""
        return self.norm5(self.before_last_norm(images)[0])

    def before_last_norm(self, images: Tensor) -> tuple[Tensor, BlockCall | None]:
        """The output of the last dense block, and its call, if nobody else sees what it gave."""
        values, made_by = self._stem(images), None
        for stage in self._stages():
            values, made_by = self._run(stage, values, images)
        return values, made_by

    def block_outputs(self, images: Tensor) -> Iterator[Tensor]:
        """The output of each dense block."""
        values = self._stem(images)
        for block, *transition in self._stages():
            values, _ = self._run((block,), values, images)
            yield values
            if transition:
                values, _ = self._run(tuple(transition), values, images)

    def _stem(self, images: Tensor) -> Tensor:
        values = self.conv0(images)
        if hasattr(self, "norm0"):
            stem: tuple[nn.Module, ...] = (self.norm0, self.relu0, self.pool0)
            if self.policy.recompute_activations:
                return norm_act_then(values, *stem, keeping=InputKeeping.of(self.policy, self.seeds))
            for module in stem:
                values = module(values)
        return values

    def _stages(self) -> list[tuple[nn.Module, ...]]:
        """Each dense block with the transition after it."""
        stages: list[tuple[nn.Module, ...]] = []
        for name, module in self.named_children():
            if name.startswith("denseblock"):
                stages.append((module,))
            elif name.startswith("transition"):
                stages[-1] = (*stages[-1], module)
        return stages

    def _run(self, modules: tuple[nn.Module, ...], values: Tensor, images: Tensor) -> tuple[Tensor, BlockCall | None]:
        """Blocks and transitions in turn, as a segment if so switched; the call of a block that is the last of them."""
        memory_format = convolution_format(images, getattr(self.conv0, "weight", images))
        if self.checkpoint_stages:
            return run_as_segment(modules, _run_in_turn, modules, values, memory_format)[0], None
        return _run_in_turn(modules, values, memory_format)


def _run_in_turn(
    modules: tuple[nn.Module, ...], values: Tensor, memory_format: torch.memory_format
) -> tuple[Tensor, BlockCall | None]:
    made_by = None
    for module in modules:
        if isinstance(module, DenseBlock):
            values = module(values)
            made_by = None if has_hooks(module) else call_that_made(values)
        else:
            seen_by_others = type(module) is not Transition or has_hooks(module)
            values = module(values) if made_by is None or seen_by_others else module(values, made_by)
            # Blocks with shared storage return channels_last; dropout draws its masks in the model's own order.
            values, made_by = values.contiguous(memory_format=memory_format), None
    return values, made_by


class DenseNet(ZooModel):
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
        in_chans: channels of the images.

    Input (N, in_chans, H, W), any floating dtype; output (N, num_classes).

    Raises:
        TypeError, ValueError: naming the argument, what came and what is needed.

    Example:
        >>> model = DenseNet(growth_rate=12, block_config=(2, 2, 2), efficient=True)
        >>> model(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    canonical_name = staticmethod(canonical_densenet_name)

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
        in_chans: int = 3,
    ) -> None:
        super().__init__()
        shape = (growth_rate, block_config, compression, num_init_features, bn_size, drop_rate, num_classes)
        self.spec = DenseNetConfig(*shape, small_inputs, flavour, in_chans)  # type: ignore[arg-type]
        self.policy = MemoryPolicy(efficient, keep_bottleneck, opt_memory, compressed)
        self.spec.check_policy(self.policy)
        self.features = Features(self.spec, self.policy, NoiseSeeds())
        self.classifier = nn.Linear(self.spec.block_widths()[-1], num_classes)
        self._initialise()
        give_configs(self)

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, images: Tensor) -> Tensor:
        """(N, in_chans, H, W) -> (N, num_classes) scores."""
        channels = getattr(getattr(self.features, "conv0", None), "in_channels", self.spec.in_chans)
        check_images("DenseNet", images, channels)
        features_are_ours = type(self.features) is Features and "forward" not in vars(self.features)
        if self.policy.recompute_activations and features_are_ours and not has_hooks(self.features):
            values, made_by = self.features.before_last_norm(images)
            head = (self.features.norm5, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
            keeping = InputKeeping.of(self.policy, self.features.seeds, made_by)
            pooled = norm_act_then(values, *head, keeping=keeping)
        else:
            pooled = F.adaptive_avg_pool2d(F.relu(self.features(images)), 1).flatten(1)
        return self.classifier(pooled)

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        """What each dense block gives, from the largest map to the smallest; the last is normalised and activated."""
        *maps, last = self.features.block_outputs(images)
        return [*maps, F.relu(self.features.norm5(last))]
