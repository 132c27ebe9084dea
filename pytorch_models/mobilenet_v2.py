"""MobileNetV2 in PyTorch: reads like table 2 of the paper; parameter names and shapes are torchvision's."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from pytorch_models.saving import (
    NetworkKeeping,
    SharedCodes,
    Step,
    chain,
    warn_plain,
    why_chain_is_plain,
    why_containers_are_needed,
)
from pytorch_models.segments import give_configs
from pytorch_models.zoo_model import ZooModel, check_images
from zoo.mobilenet_v2 import InvertedShape, MobileNetV2Config
from zoo.policy import MemoryPolicy


class PadsAfterConv2d(nn.Conv2d):
    """A strided 3x3 convolution that pads even sizes at the bottom and right alone, as Keras's networks do."""

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H / 2, W / 2), rounded up."""
        height, width = (size % 2 for size in inputs.shape[2:])
        return super().forward(F.pad(inputs, (width, 1, height, 1)))


def norm(channels: int, config: MobileNetV2Config) -> nn.BatchNorm2d:
    """With the flavour's constants."""
    return nn.BatchNorm2d(channels, eps=config.norm_epsilon, momentum=config.norm_momentum)


class ConvNormActivation(nn.Sequential):
    """Convolution, norm, ReLU6."""

    def __init__(
        self,
        into: int,
        out: int,
        size: int,
        config: MobileNetV2Config,
        policy: MemoryPolicy,
        keeping: NetworkKeeping,
        stride: int = 1,
        groups: int = 1,
        reads_images: bool = False,
    ) -> None:
        kind, padding = (PadsAfterConv2d, 0) if config.pads_after and stride > 1 else (nn.Conv2d, size // 2)
        convolution = kind(into, out, size, stride, padding, groups=groups, bias=False)
        super().__init__(convolution, norm(out, config), nn.ReLU6(inplace=True))
        self.policy, self.keeping, self.reads_images = policy, keeping, reads_images

    def steps(self) -> list[Step]:
        """This layer as a chain."""
        return [
            Step(None, None, self[0]),
            Step(self[1], self[2], None, keep_input=not self.policy.recompute_bottleneck),
        ]

    def how_kept(self) -> str:
        """In words, what this layer keeps for the backward pass."""
        if not self.policy.recompute_activations:
            return "inputs of convolution and norm"
        reason = why_chain_is_plain(self.steps(), self, False)
        if reason is not None:
            return f"the plain way: {reason}"
        if self.keeping.codes_at(self):
            return f"the norm's input as codes ({self.policy.codec}), masks"
        return "outputs, the convolution is computed again" if self.policy.recompute_bottleneck else "the norm's input"

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H / stride, W / stride)."""
        if not self.policy.recompute_activations:
            return super().forward(inputs)
        # Depthwise convolutions of a CPU are three times as fast in channels_last; the blocks hand the layout on.
        fast = inputs.device.type == "cpu" and self.policy.recomputes
        keeping = self.keeping.of(self)
        # Images are alive anyway: codes of them would be bytes on top.
        shared = None if self.reads_images else SharedCodes.of(inputs, self.keeping.of(self))
        return chain(inputs, self.steps(), owner=self, channels_last=fast, keeping=keeping, shared=shared)


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise convolution, 1x1 projection without an activation."""

    def __init__(
        self, shape: InvertedShape, config: MobileNetV2Config, policy: MemoryPolicy, keeping: NetworkKeeping
    ) -> None:
        super().__init__()
        self.policy, self.keeping, self.adds_inputs = policy, keeping, shape.adds_inputs
        hidden = shape.hidden_channels
        layers: list[nn.Module] = []
        if shape.expansion != 1:
            layers.append(ConvNormActivation(shape.in_channels, hidden, 1, config, policy, keeping))
        layers.append(ConvNormActivation(hidden, hidden, 3, config, policy, keeping, shape.stride, groups=hidden))
        layers += [nn.Conv2d(hidden, shape.out_channels, 1, bias=False), norm(shape.out_channels, config)]
        self.conv = nn.Sequential(*layers)

    def how_kept(self) -> str:
        """In words, what this block keeps for the backward pass."""
        if not self.policy.recompute_activations:
            return "inputs of convolutions and norms"
        steps = self._steps()
        reason = self._why_changed() or why_chain_is_plain(steps, self, self.adds_inputs)
        if reason is not None:
            return f"the plain way: {reason}"
        if self.keeping.codes_at(self):
            return f"inputs of norms and of the block as codes ({self.policy.codec}), masks"
        if self.policy.recompute_bottleneck and len(self.conv) == 4:
            return "inputs of norms but the first, whose convolution (the expansion) is computed again"
        return "inputs of norms"

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H / stride, W / stride)."""
        if self.policy.recompute_activations:
            reason = self._why_changed()
            if reason is None:
                return self._saving(inputs)
            warn_plain("InvertedResidual", reason)
        outputs = self.conv(inputs)
        return inputs + outputs if self.adds_inputs else outputs

    def _saving(self, inputs: Tensor) -> Tensor:
        keeping, shared = (self.keeping.of(self) for _ in range(2))
        return chain(
            inputs,
            self._steps(),
            shortcut=inputs if self.adds_inputs else None,
            owner=self,
            keeping=keeping,
            shared=SharedCodes.of(inputs, shared),
        )

    def _why_changed(self) -> str | None:
        """None if the layers are those that were built, else what is another."""
        *layers, _, _ = self.conv
        if not layers or not all(type(layer) is ConvNormActivation and len(layer) == 3 for layer in layers):
            return "its layers are not convolutions with norm and ReLU6"
        return why_containers_are_needed(self, "conv", *(f"conv.{index}" for index in range(len(layers))))

    def _steps(self) -> list[Step]:
        """The block as a chain: conv, (norm, ReLU6, conv)..., (norm)."""
        modules: list[Any] = list(self.conv)
        *layers, projection, last = modules
        convolutions = [layer[0] for layer in layers] + [projection]
        steps = [Step(None, None, convolutions[0])]
        for position, (layer, convolution) in enumerate(zip(layers, convolutions[1:], strict=True)):
            expands = position == 0 and len(layers) == 2
            keep = not (expands and self.policy.recompute_bottleneck)
            steps.append(Step(layer[1], layer[2], convolution, keep_input=keep))
        return [*steps, Step(last, nn.Identity(), None)]


class MobileNetV2(ZooModel):
    """MobileNetV2 (Sandler et al. 2018, arXiv:1801.04381), with exact memory saving.

    Args:
        width_mult, num_classes, in_chans, drop_rate, flavour: see `zoo.mobilenet_v2.MobileNetV2Config`.
        efficient: keep the inputs of the narrow layers' and the depthwise convolutions' norms, and compute the
            expansions again; same outputs, gradients and running statistics as without, see README.
        keep_bottleneck: with `efficient`, keep the expansions too: only elementwise work is done again.
        compressed: what is kept is coded in few bits, lossy but unbiased; see `zoo.policy.MemoryPolicy`.

    Input (N, in_chans, H, W), any floating dtype; output (N, num_classes).

    Raises:
        TypeError, ValueError: naming the argument, what came and what is needed.

    Example:
        >>> import torch
        >>> MobileNetV2(width_mult=0.35, num_classes=10, efficient=True)(torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 10])
    """

    segments: ClassVar[tuple[str, ...]] = ("features.*",)

    def __init__(
        self,
        width_mult: float = 1.0,
        num_classes: int = 1000,
        in_chans: int = 3,
        drop_rate: float = 0.2,
        flavour: str = "torchvision",
        efficient: bool = False,
        keep_bottleneck: bool = False,
        opt_memory: int | None = None,
        compressed: int | str | None = None,
    ) -> None:
        super().__init__()
        self.spec = config = MobileNetV2Config(width_mult, num_classes, in_chans, drop_rate, flavour)
        self.policy = policy = MemoryPolicy(efficient, keep_bottleneck, opt_memory, compressed)
        config.check_policy(policy)
        how = (config, policy, NetworkKeeping(policy, config.kept_values()))
        stem = ConvNormActivation(in_chans, config.stem_channels, 3, *how, stride=2, reads_images=True)
        *_, last = config.blocks()
        head = ConvNormActivation(last.out_channels, config.head_channels, 1, *how)
        layers: list[nn.Module] = [stem, *(InvertedResidual(shape, *how) for shape in config.blocks()), head]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(drop_rate), nn.Linear(config.head_channels, num_classes))
        self._initialise()
        give_configs(self)

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0, 0.01)
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        """(N, in_chans, H, W) -> (N, num_classes) scores."""
        channels = self.spec.in_chans
        check_images("MobileNetV2", images, channels)
        values = self.features(images)
        return self.classifier(F.adaptive_avg_pool2d(values, 1).flatten(1))

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        """The last map of each size, from the largest to the smallest."""
        maps: list[Tensor] = []
        *layers, head = self.features
        for layer in layers:
            images = layer(images)
            if maps and maps[-1].shape[2:] == images.shape[2:]:
                maps.pop()
            maps.append(images)
        return [*maps[:-1], head(maps[-1])]
