"""LayerNorm whose input is kept normalised, in few bits, and softmax that keeps its output in eight."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pytorch_models.compressed import codes
from pytorch_models.compressed.codes import Code, Kept, Parts
from pytorch_models.compressed.session import Compression
from pytorch_models.compressed.sites import Packed, Site
from pytorch_models.compressed.swapping import to_device, to_host
from pytorch_models.saving.eligibility import refuse_second_derivative


@dataclass(frozen=True)
class ScaledRowsCode:
    """weight * zhat + bias along the last dimensions, with zhat by another code; the last two parts are those."""

    inner: Code
    dtype: torch.dtype

    def unpack(self, parts: Parts) -> Tensor:
        *inner, weight, bias = parts
        return torch.addcmul(bias, self.inner.unpack(tuple(inner)), weight).to(self.dtype)


@dataclass
class RowNormCall:
    """What one call of a LayerNorm needs; `packed` is set by its forward pass, without the parts."""

    shape: tuple[int, ...]
    epsilon: float
    compression: Compression
    site: Site
    packed: Packed | None = None


class LayerNormFunction(torch.autograd.Function):
    """PyTorch's own forward pass; kept are the normalised input's codes and a row's inverse deviation."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor | None, bias: Tensor | None, call: RowNormCall, left: list[Packed]
    ) -> Tensor:
        outputs, mean, inv_std = torch.native_layer_norm(inputs, call.shape, weight, bias, call.epsilon)
        wide = inputs.to(mean.dtype)
        zhat = wide.sub(mean).mul_(inv_std)
        packed = call.site.pack_rows(
            zhat, call.compression.seeds.next(), call.compression.indices, inputs[(0,) * mean.dim()].numel()
        )  # fmt: skip
        swap = call.site.scheme.swap
        ctx.call, ctx.dtypes = call, (inputs.dtype, None if bias is None else bias.dtype)
        call.packed = packed.without_parts
        ctx.save_for_backward(weight, inv_std, *(to_host(packed.kept.parts) if swap else packed.kept.parts))
        left.append(_output_of(packed, outputs.dtype, call.shape, weight, bias))
        return outputs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative("a LayerNorm that keeps its input in few bits")
        call: RowNormCall = ctx.call
        weight, inv_std, *parts = ctx.saved_tensors
        assert call.packed is not None, "set in the forward pass"
        zhat = call.packed.kept.code.unpack(to_device(tuple(parts), gradient.device))
        # Of inputs that are normalised already: mean 0, deviation 1; their own deviation is divided by afterwards.
        zeros, ones = torch.zeros_like(inv_std), torch.ones_like(inv_std)
        needs = [ctx.needs_input_grad[0], weight is not None and ctx.needs_input_grad[1], ctx.needs_input_grad[2]]
        wide = None if weight is None else weight.to(zhat.dtype)
        bias = wide if ctx.dtypes[1] is not None else None  # read for its shape alone
        d_inputs, d_weight, d_bias = torch.ops.aten.native_layer_norm_backward(
            gradient.to(zhat.dtype), zhat, call.shape, zeros, ones, wide, bias, needs
        )
        if call.site.scheme.adaptive:
            rows = max(zhat[0].numel(), 1) if len(zhat) else 1
            call.site.add_cost(call.packed, gradient, lambda energy, square: energy * square / rows)
        return (
            d_inputs.mul_(inv_std).to(ctx.dtypes[0]) if needs[0] else None,
            d_weight.to(weight.dtype) if needs[1] else None,
            d_bias.to(ctx.dtypes[1]) if needs[2] else None,
            None,
            None,
        )


def _output_of(
    packed: Packed, dtype: torch.dtype, shape: tuple[int, ...], weight: Tensor | None, bias: Tensor | None
) -> Packed:
    """How the output follows from the same codes, for the layers that read it."""
    like = packed.kept.parts[0].new_empty(0, dtype=torch.float32)
    scale = like.new_ones(shape) if weight is None else weight.detach().float().clone()
    shift = like.new_zeros(shape) if bias is None else bias.detach().float().clone()
    gain = scale.square().mean() if packed.site.scheme.adaptive else None
    kept = Kept(ScaledRowsCode(packed.kept.code, dtype), (*packed.kept.parts, scale, shift), packed.kept.energy)
    return replace(packed, kept=kept, gain=gain)


class SoftmaxFunction(torch.autograd.Function):
    """Its gradient bends in what it keeps: the output, in 8 bits at least."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, dimension: int, bits: int, seed: int, swap: bool) -> Tensor:
        outputs = torch.softmax(inputs, dimension)
        kept = codes.pack_values(outputs, (max(bits, 8),), seed)
        ctx.code, ctx.dimension, ctx.dtype = kept.code, dimension, inputs.dtype
        ctx.save_for_backward(*(to_host(kept.parts) if swap else kept.parts))
        return outputs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative("a softmax that keeps its output in 8 bits")
        outputs = ctx.code.unpack(to_device(ctx.saved_tensors, gradient.device))
        return torch._softmax_backward_data(gradient, outputs, ctx.dimension, ctx.dtype), None, None, None, None
