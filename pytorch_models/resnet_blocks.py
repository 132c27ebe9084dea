"""The blocks of a ResNet in PyTorch: basic blocks and bottlenecks, plain, saving, and compressing."""

from __future__ import annotations

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
from zoo.policy import MemoryPolicy
from zoo.resnet import BlockShape, ResNetConfig


def conv(into: int, out: int, size: int, config: ResNetConfig, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution that keeps the image's size, divided by the stride."""
    return nn.Conv2d(into, out, size, stride, padding=size // 2, groups=groups, bias=config.has_biases)


class ResidualBlock(nn.Module):
    """What basic blocks and bottlenecks share: convolutions with norms, a shortcut, and what is kept of them."""

    def __init__(self, shape: BlockShape, config: ResNetConfig, policy: MemoryPolicy, keeping: NetworkKeeping) -> None:
        super().__init__()
        self.policy, self.keeping, self.pre_activation = policy, keeping, config.pre_activation
        self.pads = config.shortcut == "padding"
        self.stride, self.out_channels = shape.stride, shape.out_channels
        sizes = self._convolutions(shape, config)
        for number, module in enumerate(sizes, start=1):
            channels = module.in_channels if config.pre_activation else module.out_channels
            self.add_module(f"conv{number}", module)
            self.add_module(f"bn{number}", nn.BatchNorm2d(channels, eps=config.norm_epsilon))
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Sequential | nn.Conv2d | None = None
        if shape.changes_shape and not self.pads:
            projection = conv(shape.in_channels, shape.out_channels, 1, config, shape.stride)
            norm = nn.BatchNorm2d(shape.out_channels, eps=config.norm_epsilon)
            self.downsample = projection if config.pre_activation else nn.Sequential(projection, norm)

    def _convolutions(self, shape: BlockShape, config: ResNetConfig) -> list[nn.Conv2d]:
        raise NotImplementedError

    @property
    def units(self) -> list[tuple[nn.Module, nn.Module]]:
        """(convolution, norm) pairs in order."""
        count = sum(name.startswith("conv") for name, _ in self.named_children())
        return [(self.get_submodule(f"conv{i}"), self.get_submodule(f"bn{i}")) for i in range(1, count + 1)]

    def how_kept(self) -> str:
        """In words, what this block keeps for the backward pass."""
        if not self.policy.recompute_activations:
            return "inputs of convolutions and norms"
        reason = why_chain_is_plain(self._steps(), self, True)
        if reason is not None:
            return f"the plain way: {reason}"
        if self.keeping.codes_at(self):
            return f"inputs of norms and of the block as codes ({self.policy.codec}), masks"
        if self.pre_activation or not self.policy.recompute_bottleneck:
            return "inputs of norms"
        return "inputs of norms but the last, whose convolution is computed again"

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, out_channels, H / stride, W / stride)."""
        if self.policy.recompute_activations:
            return self._saving_pre_activation(inputs) if self.pre_activation else self._saving(inputs)
        return self._plain_pre_activation(inputs) if self.pre_activation else self._plain(inputs)

    def _plain(self, inputs: Tensor) -> Tensor:
        values = inputs
        for convolution, norm in self.units[:-1]:
            values = self.relu(norm(convolution(values)))
        convolution, norm = self.units[-1]
        values = norm(convolution(values))
        values += self._shortcut(inputs)
        return self.relu(values)

    def _plain_pre_activation(self, inputs: Tensor) -> Tensor:
        (first, norm), *others = self.units
        activation = self.relu(norm(inputs))
        values = first(activation)
        for convolution, norm in others:
            values = convolution(self.relu(norm(values)))
        return values + (inputs if self.downsample is None else self.downsample(activation))

    def _shortcut(self, inputs: Tensor) -> Tensor:
        if self.downsample is not None:
            return self.downsample(inputs)
        missing = self.out_channels - inputs.shape[1]
        if self.stride == 1 and not missing:
            return inputs
        return F.pad(inputs[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, missing // 2, missing - missing // 2))

    def _steps(self) -> list[Step]:
        """The block as a chain: conv, (norm, ReLU, conv)..., (norm, ReLU); pre-activation: (norm, ReLU, conv)..."""
        if self.pre_activation:
            return [Step(norm, self.relu, convolution) for convolution, norm in self.units]
        convolutions, norms = zip(*self.units, strict=True)
        steps = [Step(None, None, convolutions[0])]
        steps += [Step(n, self.relu, c) for n, c in zip(norms, convolutions[1:], strict=False)]
        return [*steps, Step(norms[-1], self.relu, None, keep_input=not self.policy.recompute_bottleneck)]

    def _saving(self, inputs: Tensor) -> Tensor:
        shared = SharedCodes.of(inputs, self.keeping.of(self))
        shortcut = self._saving_shortcut(inputs, shared)
        keeping = self.keeping.of(self)
        return chain(inputs, self._steps(), shortcut=shortcut, owner=self, keeping=keeping, shared=shared)

    def _saving_shortcut(self, inputs: Tensor, shared: SharedCodes | None) -> Tensor:
        if self.downsample is None:
            return self._shortcut(inputs)
        reason = "it is not a convolution and a norm"
        if type(self.downsample) is nn.Sequential and len(self.downsample) == 2:
            reason = why_containers_are_needed(self, "downsample") or ""
        if reason:
            warn_plain(f"{type(self).__name__}'s downsample", reason)
            return self.downsample(inputs)
        convolution, norm = self.downsample  # type: ignore[misc]
        end = Step(norm, nn.Identity(), None, keep_input=not self.policy.recompute_bottleneck)
        steps = [Step(None, None, convolution), end]
        return chain(inputs, steps, owner=self, keeping=self.keeping.of(self), shared=shared)

    def _saving_pre_activation(self, inputs: Tensor) -> Tensor:
        steps = self._steps()
        if self.downsample is None:
            return chain(inputs, steps, shortcut=inputs, owner=self, keeping=self.keeping.of(self))
        # Two convolutions read this activation: it is kept once, instead of being rebuilt for each.
        activation = chain(inputs, [Step(self.units[0][1], self.relu, None)], owner=self, keeping=self.keeping.of(self))
        shared = SharedCodes.of(activation, self.keeping.of(self))
        shortcut = chain(
            activation, [Step(None, None, self.downsample)], owner=self, keeping=self.keeping.of(self), shared=shared
        )
        steps[0] = Step(None, None, steps[0].convolution)
        return chain(activation, steps, shortcut=shortcut, owner=self, keeping=self.keeping.of(self), shared=shared)


class BasicBlock(ResidualBlock):
    """Two 3x3 convolutions."""

    def _convolutions(self, shape: BlockShape, config: ResNetConfig) -> list[nn.Conv2d]:
        return [
            conv(shape.in_channels, shape.inner_channels, 3, config, shape.stride),
            conv(shape.inner_channels, shape.out_channels, 3, config),
        ]


class Bottleneck(ResidualBlock):
    """1x1, 3x3 and 1x1 convolutions."""

    def _convolutions(self, shape: BlockShape, config: ResNetConfig) -> list[nn.Conv2d]:
        inner, first = shape.inner_channels, config.strides_first_convolution
        return [
            conv(shape.in_channels, inner, 1, config, shape.stride if first else 1),
            conv(inner, inner, 3, config, 1 if first else shape.stride, config.groups),
            conv(inner, shape.out_channels, 1, config),
        ]
