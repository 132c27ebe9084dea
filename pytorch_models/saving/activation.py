"""The activations that a fused Function applies and differentiates itself, in place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ACTIVATIONS: tuple[type[nn.Module], ...] = (
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.PReLU,
    nn.SiLU,
    nn.Hardswish,
    nn.Identity,
)
_aten = torch.ops.aten


@dataclass(frozen=True)
class Activation:
    """One activation as seen by one call; PReLU's weight, (C,) or (1,), is given at each use.

    Args:
        kind: one of `ACTIVATIONS`.
        slope: of a LeakyReLU.
    """

    kind: type[nn.Module]
    slope: float = 0.0

    @classmethod
    def of(cls, module: nn.Module) -> Activation:
        """Read it off a module of one of the `ACTIVATIONS`, or of a class derived from one."""
        kind = next(kind for kind in ACTIVATIONS if isinstance(module, kind))
        return cls(kind, cast(nn.LeakyReLU, module).negative_slope if kind is nn.LeakyReLU else 0.0)

    @property
    def by_output(self) -> bool:
        """Whether the gradient can be told from the activation's output alone."""
        return self.kind in (nn.ReLU, nn.ReLU6, nn.Identity) or (self.kind is nn.LeakyReLU and self.slope > 0)

    @property
    def mask_bits(self) -> int:
        """Bits an element of the exact mask that replaces its input and output, 0 for an identity.

        Of the others there is none.
        """
        return {nn.ReLU: 1, nn.ReLU6: 2}.get(self.kind, 0)

    @property
    def may_be_coded(self) -> bool:
        """Whether its input may be kept in codes: it is piecewise linear, and a mask says which piece."""
        return self.kind in (nn.ReLU, nn.ReLU6, nn.Identity)

    @property
    def mask_name(self) -> str:
        """What the kernels call it, if `may_be_coded`."""
        return self.kind.__name__.lower()

    def apply_(self, values: Tensor, weight: Tensor | None = None) -> Tensor:
        """Overwrite `values`, (N, C, H, W), with their activation."""
        if self.kind is nn.ReLU:
            return values.relu_()
        if self.kind is nn.ReLU6:
            return F.hardtanh_(values, 0.0, 6.0)
        if self.kind is nn.LeakyReLU:
            return F.leaky_relu_(values, self.slope)
        if self.kind is nn.SiLU:
            return F.silu(values, inplace=True)
        if self.kind is nn.Hardswish:
            return F.hardswish(values, inplace=True)
        if self.kind is nn.PReLU:
            assert weight is not None, "a PReLU has a weight"
            return values.copy_(F.prelu(values, weight.to(values.dtype)))
        return values

    def gradient_into(self, out: Tensor, gradient: Tensor, values: Tensor, weight: Tensor | None = None) -> Tensor:
        """out = the gradient of the activation's input.

        Args:
            out: may be `gradient` itself.
            gradient: of the activation's output.
            values: the activation's output where `by_output`, else its input.
        """
        if self.kind is nn.ReLU:
            return _aten.threshold_backward.grad_input(gradient, values, 0, grad_input=out)
        if self.kind is nn.ReLU6:
            return _aten.hardtanh_backward.grad_input(gradient, values, 0.0, 6.0, grad_input=out)
        if self.kind is nn.LeakyReLU:
            # A non-negative slope keeps signs, so that input and output tell the same.
            return _aten.leaky_relu_backward.grad_input(gradient, values, self.slope, False, grad_input=out)
        if self.kind is nn.SiLU:
            return _aten.silu_backward.grad_input(gradient, values, grad_input=out)
        if self.kind is nn.Hardswish:
            return out.copy_(_aten.hardswish_backward(gradient, values))
        if self.kind is nn.PReLU:
            assert weight is not None, "a PReLU has a weight"
            slopes = weight.to(gradient.dtype).view(1, -1, 1, 1)
            return torch.mul(gradient, torch.where(values > 0, torch.ones_like(slopes), slopes), out=out)
        return out if out is gradient else out.copy_(gradient)


RELU = Activation(nn.ReLU)


def negative_part(gradient: Tensor, values: Tensor) -> Tensor:
    """What a PReLU's weight gradient sums: gradient * values where values are not positive, else 0."""
    return gradient * values.clamp(max=0)
