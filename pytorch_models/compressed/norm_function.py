"""BatchNorm whose input is kept normalised, in few bits, beside its exact statistics."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from pytorch_models.channels import row, statistics_dtype
from pytorch_models.compressed.codes import AffineCode, AsIs, Kept, RowCode
from pytorch_models.compressed.session import Compression
from pytorch_models.compressed.sites import Packed, Site
from pytorch_models.compressed.swapping import to_device, to_host
from pytorch_models.saving.eligibility import refuse_second_derivative
from pytorch_models.saving.norm import affine
from pytorch_models.saving.statistics import take_statistics
from pytorch_models.saving.sync import group_of, join_sums

Left = list[Packed]  # receives the output, as made from the codes of the input


@dataclass
class NormCall:
    """What one call of a norm needs.

    Args:
        factor: of the running statistics' move.
        packed: how the input is kept, without its parts.
    """

    norm: _BatchNorm
    compression: Compression
    site: Site
    batch_statistics: bool
    factor: float
    packed: Packed | None = None


class NormFunction(torch.autograd.Function):
    """Statistics of this process's batch, by PyTorch's own operator."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor | None, bias: Tensor | None, call: NormCall, left: Left
    ) -> Tensor:
        norm, moves = call.norm, call.norm.track_running_stats or not call.norm.training
        mean, variance = (norm.running_mean, norm.running_var) if moves else (None, None)
        outputs, saved_mean, inv_std, reserve, kind = torch._batch_norm_impl_index(
            inputs, weight, bias, mean, variance, call.batch_statistics, call.factor, norm.eps,
            torch.backends.cudnn.enabled,
        )  # fmt: skip
        ctx.kind, ctx.reserve, ctx.call = kind, reserve, call
        if not call.batch_statistics:
            assert mean is not None, "a norm without running statistics uses the batch's"
            assert variance is not None, "a norm without running statistics uses the batch's"
            kind_of = statistics_dtype(inputs.dtype)
            saved_mean = mean.to(kind_of, copy=True)
            inv_std = torch.rsqrt(variance.to(kind_of) + norm.eps)
        _keep(ctx, inputs, weight, bias, saved_mean, inv_std, call, left)
        return outputs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative("a norm that keeps its input in few bits")
        call: NormCall = ctx.call
        mean, inv_std, weight, *parts = ctx.saved_tensors
        if call.packed is None:  # running statistics, and a weight that does not train
            scale = inv_std if weight is None else inv_std * weight
            d_inputs = (gradient * row(scale, gradient.dim())).to(gradient.dtype)
            others = [dimension for dimension in range(gradient.dim()) if dimension != 1]
            return d_inputs, None, gradient.sum(others) if ctx.needs_input_grad[2] else None, None, None
        inputs = call.packed.kept.code.unpack(to_device(tuple(parts), gradient.device))
        running = (None, None) if call.batch_statistics else _as_buffers(call.norm, mean, inv_std)
        d_inputs, d_weight, d_bias = torch.ops.aten._batch_norm_impl_index_backward(
            ctx.kind, inputs, gradient.contiguous() if inputs.is_contiguous() else gradient, weight, *running,
            mean if call.batch_statistics else None, inv_std if call.batch_statistics else None,
            call.batch_statistics, call.norm.eps, list(ctx.needs_input_grad[:3]), ctx.reserve,
        )  # fmt: skip
        _learn(call, inputs, gradient, d_inputs, d_weight, mean, inv_std, weight)
        d_weight, d_bias = (
            d if need else None for d, need in zip((d_weight, d_bias), ctx.needs_input_grad[1:3], strict=True)
        )
        return d_inputs, d_weight, d_bias, None, None


def _as_buffers(norm: _BatchNorm, mean: Tensor, inv_std: Tensor) -> tuple[Tensor, Tensor]:
    """Running mean and variance of the forward pass, in the dtype that PyTorch's operator found them in."""
    assert norm.running_mean is not None, "a norm without running statistics uses the batch's"
    dtype = norm.running_mean.dtype
    return mean.to(dtype), (inv_std.square().reciprocal() - norm.eps).to(dtype)


class JointNormFunction(torch.autograd.Function):
    """Statistics of several processes' joint batch, on any device."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor | None, bias: Tensor | None, call: NormCall, left: Left
    ) -> Tensor:
        ctx.group = group_of(call.norm)
        mean, variance, ctx.joint = take_statistics(call.norm, True, ctx.group, inputs)
        made = affine(mean, variance, call.norm.eps, weight, bias)
        _keep(ctx, inputs, weight, bias, mean, made.inv_std, call, left)
        ctx.call, dims = call, inputs.dim()
        return torch.addcmul(row(made.shift, dims), inputs, row(made.scale, dims)).to(inputs.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative("a norm that keeps its input in few bits")
        call: NormCall = ctx.call
        mean, inv_std, weight, *parts = ctx.saved_tensors
        assert call.packed is not None, "batch statistics need the input"
        inputs = call.packed.kept.code.unpack(to_device(tuple(parts), gradient.device))
        dims, others = gradient.dim(), [dimension for dimension in range(gradient.dim()) if dimension != 1]
        zhat = (inputs - row(mean, dims)) * row(inv_std, dims)
        d_bias, d_weight = gradient.float().sum(others), (gradient * zhat).float().sum(others)
        all_bias, all_weight = join_sums((d_bias, d_weight), ctx.group)
        count = ctx.joint.to(zhat.dtype)
        scale = inv_std if weight is None else inv_std * weight
        d_inputs = (gradient - row(all_bias / count, dims) - zhat * row(all_weight / count, dims)) * row(scale, dims)
        _learn(call, inputs, gradient, d_inputs, d_weight, mean, inv_std, weight)
        d_inputs = d_inputs.to(gradient.dtype)
        if weight is None:
            return d_inputs, None, None, None, None
        return d_inputs, d_weight.to(weight.dtype), d_bias.to(weight.dtype), None, None


def _keep(
    ctx: Any, inputs: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, inv_std: Tensor, call: NormCall,
    left: Left,
) -> None:  # fmt: skip
    """Pack the input where the backward pass needs it, and leave how the output follows from the same codes."""
    scheme, packed = call.compression.scheme, None
    if call.batch_statistics or (weight is not None and ctx.needs_input_grad[1]):
        if not scheme.norms:
            packed = Packed(Kept(AsIs(), (inputs,)), call.site)
        else:
            seed, indices = call.compression.seeds.next(), call.compression.indices
            packed = call.site.pack_normalised(inputs, mean, inv_std, seed, indices)
    parts = () if packed is None else packed.kept.parts
    ctx.save_for_backward(mean, inv_std, weight, *(to_host(parts) if scheme.swap else parts))
    if packed is not None:
        call.packed = packed.without_parts
        if isinstance(packed.kept.code, AffineCode):
            left.append(_output_of(packed, inputs.dtype, weight, bias))


def _output_of(packed: Packed, dtype: torch.dtype, weight: Tensor | None, bias: Tensor | None) -> Packed:
    code = packed.kept.code
    assert isinstance(code, AffineCode)
    *inner, deviation, mean = packed.kept.parts
    scale = torch.ones_like(deviation) if weight is None else weight.detach().to(deviation.dtype).clone()
    shift = torch.zeros_like(mean) if bias is None else bias.detach().to(mean.dtype).clone()
    kept = Kept(
        AffineCode(RowCode(code.inner.like, code.inner.widths), dtype), (*inner, scale, shift), packed.kept.energy
    )
    gain = None if weight is None or not packed.site.scheme.adaptive else scale.square().mean()
    return replace(packed, kept=kept, gain=gain)


def _learn(
    call: NormCall, inputs: Tensor, gradient: Tensor, d_inputs: Tensor | None, d_weight: Tensor | None,
    mean: Tensor, inv_std: Tensor, weight: Tensor | None,
) -> None:  # fmt: skip
    packed, site = call.packed, call.site
    assert packed is not None
    if site.scheme.adaptive and packed.kept.energy is not None:
        values = max(inputs[0].numel(), 1) if len(inputs) else 1

        def noise(energy: Tensor, square: Tensor) -> Tensor:
            return energy * square / values

        site.add_cost(packed, gradient, noise)
    if site.scheme.error is None or not site.bound.is_due or d_inputs is None or d_weight is None:
        return
    dims = inputs.dim()
    others = [dimension for dimension in range(dims) if dimension != 1]
    gain = inv_std if weight is None else inv_std * weight.detach()
    top = ((inputs - row(mean, dims)) * row(inv_std, dims)).abs().amax(others)
    site.bound.learn_norm(site.scheme, gradient, d_inputs, d_weight, gain, top)
