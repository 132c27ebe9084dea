"""What one call of a dense block needs to know, read off its modules before the Function runs.

Parameters travel as the Function's tensor arguments, so that autograd sees them; everything else (geometry, which
statistics a norm uses, dropout, dtypes) travels in these frozen values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pytorch_models.saving.norm import uses_batch_statistics
from pytorch_models.saving.tiles import Workspace, convolution_format, tile_elements
from zoo.policy import MemoryPolicy


@dataclass(frozen=True)
class Convolution:
    """Geometry of one convolution; weight and bias are given at each call."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    @classmethod
    def of(cls, module: nn.Conv2d) -> Convolution:
        """Read the geometry off a module."""
        assert not isinstance(module.padding, str), "checked by eligibility"
        return cls(module.stride, module.padding, module.dilation, module.groups)

    def forward(self, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The convolution itself."""
        return torch.ops.aten.convolution(
            inputs, weight, bias, self.stride, self.padding, self.dilation, False, [0, 0], self.groups
        )

    def backward(
        self, gradient: Tensor, inputs: Tensor, weight: Tensor, *, needs: tuple[bool, bool, bool]
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Gradients of (inputs, weight, bias); those not in `needs` are None."""
        return torch.ops.aten.convolution_backward(
            gradient,
            inputs,
            weight,
            [weight.shape[0]],
            self.stride,
            self.padding,
            self.dilation,
            False,
            [0, 0],
            self.groups,
            needs,
        )


@dataclass(frozen=True)
class Unit:
    """norm, ReLU, convolution: the modules' facts, and where their parameters stand among the tensors."""

    norm: nn.BatchNorm2d
    batch_statistics: bool
    convolution: Convolution
    parameters: slice  # norm weight, norm bias, convolution weight, convolution bias


@dataclass(frozen=True)
class LayerCall:
    """One dense layer in one call: its units, its input width, its dropout."""

    units: tuple[Unit, ...]
    in_features: int
    bottleneck_features: int  # 0 without a bottleneck
    drop_rate: float


@dataclass(frozen=True)
class BlockCall:
    """One dense block in one call."""

    layers: tuple[LayerCall, ...]
    policy: MemoryPolicy
    growth_rate: int
    feature_dtype: torch.dtype
    compute_dtype: torch.dtype
    dropout_format: torch.memory_format  # in which the plain block would draw its masks
    keeps_graph: bool

    @property
    def out_features(self) -> int:
        """Channels of the block's output."""
        return self.layers[-1].in_features + self.growth_rate

    def workspace(self, shape: torch.Size, device: torch.device) -> Workspace:
        """Scratch for one pass over inputs (or features) of `shape`, sized for the layer that needs most."""
        widths = [width for layer in self.layers for width in (layer.in_features, layer.bottleneck_features)]
        sizes = [tile_elements((shape[0], width, *shape[2:]), self.feature_dtype, device) for width in widths]
        return Workspace(device, {"tile": max(sizes)})


def read_block(block: nn.ModuleDict, inputs: Tensor, policy: MemoryPolicy) -> tuple[BlockCall, list[Tensor | None]]:
    """Facts and parameters of a block whose layers are known to be eligible."""
    parameters: list[Tensor | None] = []
    layers = []
    width = inputs.shape[1]
    growth_rate = 0
    modules: Any = block.values()
    for layer in modules:
        pairs = [(layer.norm1, layer.conv1)] + ([(layer.norm2, layer.conv2)] if layer.bottleneck else [])
        units = []
        for norm, conv in pairs:
            start = len(parameters)
            parameters += [norm.weight, norm.bias, conv.weight, conv.bias]
            units.append(Unit(norm, uses_batch_statistics(norm), Convolution.of(conv), slice(start, start + 4)))
        growth_rate = pairs[-1][1].out_channels
        bottleneck = pairs[0][1].out_channels if layer.bottleneck else 0
        layers.append(LayerCall(tuple(units), width, bottleneck, layer.drop_rate if layer.training else 0.0))
        width += growth_rate
    device_type = inputs.device.type
    compute_dtype = pairs[-1][1].weight.dtype
    if torch.is_autocast_enabled(device_type) and compute_dtype != torch.float64:
        compute_dtype = torch.get_autocast_dtype(device_type)
    call = BlockCall(
        tuple(layers),
        policy,
        growth_rate,
        torch.promote_types(inputs.dtype, compute_dtype),
        compute_dtype,
        convolution_format(inputs, pairs[-1][1].weight),
        torch.is_grad_enabled(),
    )
    return call, parameters
