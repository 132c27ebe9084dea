"""What one call needs to know of a unit, read off its modules: convolution(activation(norm(values)))."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from pytorch_models.saving.activation import RELU, Activation

UNIT_PARAMETERS = 5  # norm weight, norm bias, convolution weight, convolution bias, activation weight


def sampled(values: Tensor, stride: tuple[int, ...]) -> Tensor:
    """The positions that a 1x1 convolution of this stride reads."""
    return values[(slice(None), slice(None), *(slice(None, None, step) for step in stride))]


@dataclass(frozen=True)
class Convolution:
    """Geometry of one convolution, 1d, 2d or 3d; weight and bias are given at each call."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    @classmethod
    def of(cls, module: _ConvNd) -> Convolution:
        """Read the geometry off a module."""
        assert not isinstance(module.padding, str), "checked by eligibility"
        return cls(module.stride, module.padding, module.dilation, module.groups)

    def forward(self, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The convolution itself."""
        no_output_padding = [0] * len(self.stride)
        return torch.ops.aten.convolution(
            inputs, weight, bias, self.stride, self.padding, self.dilation, False, no_output_padding, self.groups
        )

    def backward(
        self, gradient: Tensor, inputs: Tensor, weight: Tensor, *, needs: tuple[bool, bool, bool]
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Gradients of (inputs, weight, bias); those not in `needs` are None."""
        if needs[0] and any(needs[1:]):
            # Two calls are faster than one: on a CPU by a fifth of a whole step.
            d_inputs, _, _ = self.backward(gradient, inputs, weight, needs=(True, False, False))
            _, d_weight, d_bias = self.backward(gradient, inputs, weight, needs=(False, *needs[1:]))
            return d_inputs, d_weight, d_bias
        stride = self.stride
        if needs[1] and self._overruns(inputs, weight):
            inputs, stride = sampled(inputs, stride), (1,) * len(stride)
        return torch.ops.aten.convolution_backward(
            gradient,
            inputs,
            weight,
            [weight.shape[0]],
            stride,
            self.padding,
            self.dilation,
            False,
            [0] * len(self.stride),
            self.groups,
            needs,
        )

    def _overruns(self, inputs: Tensor, weight: Tensor) -> bool:
        """Whether oneDNN would write past its scratch in the weight's gradient (its issue 6035): memory is corrupted.

        So it is for strided 1x1 convolutions of channels_last images of fewer channels than it has lanes: 16 with
        AVX-512. Their gradient reads every stride-th pixel alone, and so is that of a convolution of those pixels.
        """
        is_pointwise = max(weight.shape[2:]) == 1 and not any(self.padding) and self.groups == 1
        small = inputs.shape[1] < 16 and inputs.stride(1) == 1 and inputs.device.type == "cpu"
        return is_pointwise and small and max(self.stride) > 1


@dataclass(frozen=True)
class Unit:
    """norm, activation, convolution: the modules' facts, and where their parameters stand among the tensors."""

    norm: Any  # a torch.nn batch norm, or None
    batch_statistics: bool
    convolution: Convolution | None
    parameters: slice  # UNIT_PARAMETERS of them
    activation: Activation = RELU
    group: Any = None  # the processes that share the norm's batch statistics; None = this one alone


def unit_parameters(norm: nn.Module | None, convolution: nn.Module | None, activation: nn.Module | None = None) -> Any:
    """The UNIT_PARAMETERS tensors of these modules; each is read once, which moves a parametrised weight's state."""
    own: list[Tensor | None] = []
    for module in (norm, convolution):
        own += [getattr(module, "weight", None), getattr(module, "bias", None)]
    return [*own, activation.weight if isinstance(activation, nn.PReLU) else None]


def autocast_dtype_of(device: torch.device) -> torch.dtype | None:
    """The dtype autocast uses on this device now, or None where it is off or does not exist."""
    if not torch.amp.is_autocast_available(device.type) or not torch.is_autocast_enabled(device.type):
        return None
    return torch.get_autocast_dtype(device.type)


def autocast_to(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
    """Autocast to `dtype`, or none for None, whatever surrounds it; nothing on a device that has no autocast."""
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)
