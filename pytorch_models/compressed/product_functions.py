"""Convolutions and linear layers whose input is kept in few bits; everything else is PyTorch's own."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pytorch_models.compressed import dense
from pytorch_models.compressed.codes import Parts
from pytorch_models.compressed.noise_of import noise_of_convolution
from pytorch_models.compressed.sites import Packed
from pytorch_models.compressed.swapping import to_device, to_host
from pytorch_models.kernel_arrays import DenseLike
from pytorch_models.saving.eligibility import refuse_second_derivative

WHAT = "a layer that keeps its input in few bits"
CHUNKS = 4  # of the batch, where a convolution is to use smaller workspaces


@dataclass(frozen=True)
class ConvolutionCall:
    """One call's geometry, and what is kept.

    Args:
        packed: how the input is kept, without its parts; None where the weight does not train.
        dtype: to compute in: autocast's, or the input's.
        chunks: pieces of the batch that run backward one by one.
    """

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    transposed: bool
    output_padding: tuple[int, ...]
    groups: int
    dtype: torch.dtype
    packed: Packed | None
    chunks: int = 1
    swap: bool = False


class ConvolutionFunction(torch.autograd.Function):
    """conv1d to conv3d and their transposes."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None, call: ConvolutionCall, parts: Parts
    ) -> Tensor:
        cast = call.dtype
        outputs = torch.convolution(
            inputs.to(cast),
            weight.to(cast),
            None if bias is None else bias.to(cast),
            call.stride,
            call.padding,
            call.dilation,
            call.transposed,
            call.output_padding,
            call.groups,
        )
        _keep(ctx, parts, call.swap, inputs, weight, bias)
        ctx.call, ctx.outputs = call, outputs.shape
        return outputs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative(WHAT)
        call: ConvolutionCall = ctx.call
        inputs, weight = _restored(ctx, call.packed, call.dtype)
        needs = (*ctx.needs_input_grad[:2], ctx.bias_dtype is not None and ctx.needs_input_grad[2])
        gradient = gradient.to(call.dtype)
        pieces = min(call.chunks, len(inputs)) if len(inputs) else 1
        found: list[list[Tensor | None]] = []
        for piece in range(pieces):
            part = slice(len(inputs) * piece // pieces, len(inputs) * (piece + 1) // pieces)
            found.append(_convolution_backward(gradient[part], inputs[part], weight.to(call.dtype), call, needs))
        d_inputs = torch.cat([one[0] for one in found]) if pieces > 1 and needs[0] else found[0][0]  # type: ignore[misc]
        d_weight, d_bias = (_total([one[place] for one in found]) for place in (1, 2))
        if call.packed is not None and d_weight is not None:
            _learn(ctx, call, gradient, d_weight)
        return (
            None if d_inputs is None else d_inputs.to(ctx.like.dtype),
            None if d_weight is None else d_weight.to(weight.dtype),
            None if d_bias is None else d_bias.to(ctx.bias_dtype),
            None,
            None,
        )


def _convolution_backward(
    gradient: Tensor, inputs: Tensor, weight: Tensor, call: ConvolutionCall, needs: tuple[bool, ...]
) -> list[Tensor | None]:
    return torch.ops.aten.convolution_backward(
        gradient,
        inputs,
        weight,
        [weight.shape[1] * call.groups if call.transposed else weight.shape[0]],
        call.stride,
        call.padding,
        call.dilation,
        call.transposed,
        call.output_padding,
        call.groups,
        list(needs),
    )


def _total(parts: list[Tensor | None]) -> Tensor | None:
    there = [part for part in parts if part is not None]
    return None if not there else there[0] if len(there) == 1 else torch.stack(there).sum(0)


def _learn(ctx: Any, call: ConvolutionCall, gradient: Tensor, d_weight: Tensor) -> None:
    """Tell the place that packed the input what its rounding cost."""
    assert call.packed is not None
    shape, weight = ctx.like.shape, d_weight.shape
    site = call.packed.site
    site.bound.learn_convolution(
        site.scheme, d_weight, gradient, math.prod(weight[2:]), math.prod(call.stride), shape, call.groups
    )
    if not site.scheme.adaptive:
        return
    one = (1, *shape[1:]) if not call.transposed else (1, *ctx.outputs[1:])
    out = (1, *ctx.outputs[1:]) if not call.transposed else (1, *shape[1:])
    noise = noise_of_convolution(one, weight, out, call.stride, call.padding, call.dilation, call.groups)
    site.add_cost(call.packed, gradient, noise)


class LinearFunction(torch.autograd.Function):
    """inputs @ weight.T + bias, inputs (..., F)."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None, packed: Packed | None, parts: Parts,
        dtype: torch.dtype, swap: bool,
    ) -> Tensor:  # fmt: skip
        outputs = torch.nn.functional.linear(
            inputs.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
        )
        _keep(ctx, parts, swap, inputs, weight, bias)
        ctx.packed, ctx.dtype = packed, dtype
        return outputs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative(WHAT)
        inputs, weight = _restored(ctx, ctx.packed, ctx.dtype)
        gradient = gradient.to(ctx.dtype)
        rows = gradient.reshape(-1, gradient.shape[-1])
        d_inputs = d_weight = d_bias = None
        if ctx.needs_input_grad[0]:
            d_inputs = (gradient @ weight.to(ctx.dtype)).to(ctx.like.dtype)
        if ctx.needs_input_grad[1]:
            d_weight = (rows.T @ inputs.reshape(-1, inputs.shape[-1])).to(weight.dtype)
        if ctx.bias_dtype is not None and ctx.needs_input_grad[2]:
            d_bias = rows.sum(0).to(ctx.bias_dtype)
        if ctx.packed is not None and d_weight is not None:
            site, shape = ctx.packed.site, ctx.like.shape
            site.bound.learn_convolution(site.scheme, d_weight, gradient, 1, 1, torch.Size((len(rows), shape[-1])), 1)
            if site.scheme.adaptive:
                per_sample = len(rows) / max(shape[0], 1)
                site.add_cost(ctx.packed, gradient, lambda energy, square: energy * square / per_sample)
        return d_inputs, d_weight, d_bias, None, None, None, None


def _keep(ctx: Any, parts: Parts, swap: bool, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    ctx.like = dense.like(dense.dense(inputs)) if inputs.numel() else None
    ctx.like = ctx.like or DenseLike(inputs.shape, inputs.dtype, inputs.device, tuple(range(inputs.dim())))
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.save_for_backward(weight, *(to_host(parts) if swap else parts))


def _restored(ctx: Any, packed: Packed | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The input, with rounding noise, in the computing dtype, and the weight."""
    weight, *parts = ctx.saved_tensors
    if packed is None:
        return ctx.like.empty().to(dtype), weight
    inputs = packed.kept.code.unpack(to_device(tuple(parts), ctx.like.device))
    return inputs.view(ctx.like.shape).to(dtype) if inputs.shape != ctx.like.shape else inputs.to(dtype), weight
