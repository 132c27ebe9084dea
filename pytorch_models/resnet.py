"""ResNet in PyTorch: reads like table 1 of the paper; parameter names and shapes are torchvision's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from pytorch_models.resnet_blocks import BasicBlock, Bottleneck, conv
from pytorch_models.saving import NetworkKeeping, Step, chain, norm_act_then
from pytorch_models.segments import give_configs
from pytorch_models.zoo_model import ZooModel, check_images
from zoo.policy import MemoryPolicy
from zoo.resnet import ResNetConfig


class ResNet(ZooModel):
    """ResNet (He et al. 2015, arXiv:1512.03385) and its descendants, with exact memory saving.

    Args:
        block, layers, width, groups, width_per_group, num_classes, in_chans, small_inputs, pre_activation, shortcut,
            flavour: see `zoo.resnet.ResNetConfig`; the default is the CIFAR ResNet-56 with projections.
        efficient: keep one tensor a convolution, and compute each block's last convolution again; same outputs,
            gradients and running statistics as without, see README for bytes and time.
        keep_bottleneck: with `efficient`, keep every convolution's output: only elementwise work is done again.
        compressed: what is kept is coded in few bits, lossy but unbiased; see `zoo.policy.MemoryPolicy`.

    Input (N, in_chans, H, W), any floating dtype; output (N, num_classes).

    Raises:
        TypeError, ValueError: naming the argument, what came and what is needed.

    Example:
        >>> import torch
        >>> model = ResNet("bottleneck", (1, 1), width=8, efficient=True)
        >>> model(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    segments: ClassVar[tuple[str, ...]] = ("layer*",)

    def __init__(
        self,
        block: str = "basic",
        layers: Sequence[int] = (9, 9, 9),
        width: int = 16,
        groups: int = 1,
        width_per_group: int = 64,
        num_classes: int = 10,
        in_chans: int = 3,
        small_inputs: bool = True,
        pre_activation: bool = False,
        shortcut: str = "projection",
        flavour: str = "torchvision",
        efficient: bool = False,
        keep_bottleneck: bool = False,
        opt_memory: int | None = None,
        compressed: int | str | None = None,
    ) -> None:
        super().__init__()
        self.spec = config = ResNetConfig(
            block,
            layers,  # type: ignore[arg-type]
            width,
            groups,
            width_per_group,
            num_classes,
            in_chans,
            small_inputs,
            pre_activation,
            shortcut,
            flavour,
        )
        self.policy = MemoryPolicy(efficient, keep_bottleneck, opt_memory, compressed)
        config.check_policy(self.policy)
        self.keeping = NetworkKeeping(self.policy, config.kept_values())
        size, stride = (3, 1) if small_inputs else (7, 2)
        self.conv1 = conv(in_chans, width, size, config, stride)
        if not pre_activation:
            self.bn1 = nn.BatchNorm2d(width, eps=config.norm_epsilon)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity() if small_inputs else nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        stages: list[list[nn.Module]] = [[] for _ in config.layers]
        for shape in config.blocks():
            kind = BasicBlock if block == "basic" else Bottleneck
            stages[shape.stage].append(kind(shape, config, self.policy, self.keeping))
        for number, blocks in enumerate(stages, start=1):
            self.add_module(f"layer{number}", nn.Sequential(*blocks))
        if pre_activation:
            self.bn_last = nn.BatchNorm2d(config.out_channels, eps=config.norm_epsilon)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(config.out_channels, num_classes)
        self._initialise()
        give_configs(self)

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    @property
    def stages(self) -> list[nn.Module]:
        """layer1, layer2, ..."""
        return [self.get_submodule(f"layer{number}") for number in range(1, len(self.spec.layers) + 1)]

    def how_kept(self) -> str:
        """In words, what stem and head keep for the backward pass."""
        if self.keeping.codes_at(self):
            pool = "" if self.spec.small_inputs else ", positions of maxima"
            return f"norms' inputs as codes ({self.policy.codec}), masks{pool}"
        return "norms' inputs" if self.policy.recompute_activations else "kept by autograd"

    def forward(self, images: Tensor) -> Tensor:
        """(N, in_chans, H, W) -> (N, num_classes) scores."""
        channels = getattr(self.conv1, "in_channels", self.spec.in_chans)
        check_images("ResNet", images, channels)
        values = self._stem(images)
        for stage in self.stages:
            values = stage(values)
        if not self.spec.pre_activation:
            pooled = self.avgpool(values).flatten(1)
        elif self.policy.recompute_activations:
            head = (self.bn_last, self.relu, self.avgpool, nn.Flatten())
            pooled = norm_act_then(values, *head, keeping=self.keeping.of(self))
        else:
            pooled = self.avgpool(self.relu(self.bn_last(values))).flatten(1)
        return self.fc(pooled)

    def _stem(self, images: Tensor) -> Tensor:
        normed = not self.spec.pre_activation
        if not self.policy.recompute_activations:
            values = self.conv1(images)
            return self.maxpool(self.relu(self.bn1(values)) if normed else values)
        steps = [Step(None, None, self.conv1)]
        if normed and self.spec.small_inputs:
            steps.append(Step(self.bn1, self.relu, None))
        # Convolutions and pools of a CPU are faster in channels_last; the blocks hand the layout on.
        fast = images.device.type == "cpu" and self.policy.recomputes
        keeping = self.keeping.of(self)
        values = chain(images, steps, owner=self, channels_last=fast, keeping=keeping)
        if normed and not self.spec.small_inputs:
            return norm_act_then(values, self.bn1, self.relu, self.maxpool, keeping=self.keeping.of(self))
        return self.maxpool(values)

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        """What each stage gives, from the largest map to the smallest; pre-activation: the last is activated."""
        maps, values = [], self._stem(images)
        for stage in self.stages:
            values = stage(values)
            maps.append(values)
        if self.spec.pre_activation:
            maps[-1] = self.relu(self.bn_last(maps[-1]))
        return maps
