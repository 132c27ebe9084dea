"""Activations, pools and dropout that keep exact bits or nothing, and smooth activations that keep their derivative."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pytorch_models import kernel_ops
from pytorch_models.compressed import codes, dense
from pytorch_models.compressed.codes import Kept, MaskCode
from pytorch_models.compressed.sites import Packed
from pytorch_models.compressed.swapping import to_device, to_host
from pytorch_models.kernel_arrays import TORCH, layout_of, norm_path
from pytorch_models.saving.activation import RELU
from pytorch_models.saving.dropout import drop, drop_gradient
from pytorch_models.saving.eligibility import refuse_second_derivative
from pytorch_models.saving.pool_codes import Pool


class ReluFunction(torch.autograd.Function):
    """ReLU that keeps one bit a value; `left` receives what was kept, for the layers that read the output."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, inplace: bool, left: list[Kept], swap: bool) -> Tensor:
        if inplace:
            outputs = inputs.relu_()
            ctx.mark_dirty(inputs)
        else:
            outputs = inputs.relu()
        kept = codes.pack_mask(outputs)
        left.append(kept)
        ctx.code, ctx.dims = kept.code, inputs.dim()
        ctx.save_for_backward(*(to_host(kept.parts) if swap else kept.parts))
        return outputs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative("a ReLU that keeps one bit a value")
        (mask,) = to_device(ctx.saved_tensors, gradient.device)
        code: MaskCode = ctx.code
        gradient = _laid_out_like(gradient, code)
        if ctx.dims > 2 and layout_of(gradient) is not None and norm_path(gradient) != TORCH:
            kind = torch.float64 if gradient.dtype == torch.float64 else torch.float32
            channels = gradient.shape[1]
            one, zero = (torch.full((channels,), v, dtype=kind, device=gradient.device) for v in (1.0, 0.0))
            out = torch.empty_like(gradient)
            kernel_ops.rebuild_activation_(gradient, one, zero, mask, out, RELU.mask_name)
            return out, None, None, None
        return torch.where(code.unpack((mask,)) > 0, gradient, 0), None, None, None


def _laid_out_like(gradient: Tensor, code: MaskCode) -> Tensor:
    """The gradient in the order of memory that the mask was packed in."""
    if dense.like_or_none(gradient) == code.like.memory_order:
        return gradient
    return code.like.empty().to(gradient.dtype).copy_(gradient)


class DropoutFunction(torch.autograd.Function):
    """Dropout that keeps the generator's state, and draws the mask again."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, rate: float) -> Tensor:
        outputs, state = drop(inputs, rate)
        ctx.rate, ctx.like = rate, dense.like(dense.dense(outputs))
        ctx.save_for_backward(state)
        return outputs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative("a dropout that keeps no mask")
        gradient = ctx.like.empty().to(gradient.dtype).copy_(gradient)
        return drop_gradient(gradient, ctx.rate, ctx.saved_tensors[0]), None


class MaxPoolFunction(torch.autograd.Function):
    """Max-pooling that keeps where each maximum was, in ceil(log2(window)) bits an output."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, pool: Pool, swap: bool) -> Tensor:
        outputs, positions = pool.forward(inputs)
        ctx.pool, ctx.shape = pool, inputs.shape
        ctx.save_for_backward(*(to_host((positions,)) if swap else (positions,)))
        return outputs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative("a max-pool that keeps positions")
        (positions,) = to_device(ctx.saved_tensors, gradient.device)
        return ctx.pool.backward(gradient, positions, gradient.new_empty(1).expand(ctx.shape)), None, None


class AveragePoolFunction(torch.autograd.Function):
    """Average-pooling that keeps nothing."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, options: tuple[Any, ...]) -> Tensor:
        ctx.options, ctx.like = options, dense.like(dense.dense(inputs))
        return F.avg_pool2d(inputs, *options)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative("a pool that keeps nothing")
        kernel, stride, *others = ctx.options
        inputs = ctx.like.empty().to(gradient.dtype)
        both = [[side, side] if isinstance(side, int) else list(side) for side in (kernel, stride or kernel, others[0])]
        return torch.ops.aten.avg_pool2d_backward(gradient, inputs, *both, *others[1:]), None


class SmoothFunction(torch.autograd.Function):
    """A smooth activation that keeps its derivative in few bits, which its gradient is linear in.

    The output is coded by whoever reads it, with noise of its own.
    """

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, activation: Callable[..., Tensor], derivative: Callable[..., Tensor],
        pack: Callable[[Tensor], Packed],
    ) -> Tensor:  # fmt: skip
        packed = pack(derivative(torch.ones_like(inputs), inputs))
        ctx.code, ctx.swap = packed.kept.code, packed.site.scheme.swap
        ctx.save_for_backward(*(to_host(packed.kept.parts) if ctx.swap else packed.kept.parts))
        return activation(inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative("an activation that keeps its derivative in few bits")
        slope = ctx.code.unpack(to_device(ctx.saved_tensors, gradient.device))
        return gradient * slope, None, None, None


def masked(packed: Packed, mask: Kept) -> Packed:
    """What stands for a ReLU's output, where its input's values are kept already."""
    assert isinstance(mask.code, MaskCode)
    code = codes.MaskedCode(packed.kept.code, mask.code)
    gain = torch.ones((), device=mask.parts[0].device) if packed.gain is None else packed.gain
    kept = Kept(code, (*packed.kept.parts, *mask.parts), packed.kept.energy)
    return replace(packed, kept=kept, gain=gain / 2)
