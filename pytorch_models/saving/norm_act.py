"""norm, ReLU and what follows (a convolution, a pool), keeping the norm's input alone.

Autograd would also keep the activation and what the following modules save. Here only the norm's input, as it is or
normalised and coded with the activation's exact mask, and two vectors stay; the backward pass rebuilds the rest for one
tile of the batch at a time.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pytorch_models.kernel_arrays import dense_like, layout_of
from pytorch_models.saving.eligibility import (
    graph_is_being_exported,
    refuse_second_derivative,
    warn_plain,
    why_call_is_plain,
    why_norm_act_is_plain,
)
from pytorch_models.saving.keeping import InputKeeping
from pytorch_models.saving.masks import TileMasks
from pytorch_models.saving.norm import affine, uses_batch_statistics
from pytorch_models.saving.norm_act_tail import TailBackward, TailCall, run_forward
from pytorch_models.saving.own import mark_own
from pytorch_models.saving.pool_codes import coded_pool
from pytorch_models.saving.statistics import take_statistics
from pytorch_models.saving.sync import group_of
from pytorch_models.saving.tiles import tiles
from pytorch_models.saving.unit_call import autocast_dtype_of


def norm_act_then(
    inputs: Tensor,
    norm: nn.Module,
    relu: nn.Module,
    *tail: nn.Module,
    keeping: InputKeeping = InputKeeping(),  # noqa: B008 - frozen
) -> Tensor:
    """tail(relu(norm(inputs))), keeping `inputs` alone for the backward pass.

    Args:
        inputs: (N, C, H, W).
        norm, relu: a BatchNorm2d or SyncBatchNorm, and a ReLU.
        tail: convolutions and pools, in order; they run again in the backward pass. Where any module has hooks or
            is of another type, all run the plain way and a warning says so.
        keeping: `inputs` as they are, or coded.

    Raises:
        ValueError: a single value per channel in training.
        RuntimeError: in the backward pass, when gradients of gradients are asked for.
    """
    reason = why_call_is_plain() or why_norm_act_is_plain(norm, relu, *tail)
    if reason is not None:
        warn_plain("norm+ReLU", reason)
    if reason is not None or graph_is_being_exported():
        for module in (norm, relu, *tail):
            inputs = module(inputs)
        return inputs
    assert isinstance(norm, _BatchNorm), "checked by eligibility"
    return _apply(inputs, norm, tail, keeping)


@torch.compiler.disable(reason="norm+ReLU+tail is one autograd Function that recomputes in its backward pass")
def _apply(inputs: Tensor, norm: _BatchNorm, tail: tuple[nn.Module, ...], keeping: InputKeeping) -> Tensor:
    if keeping.codec is not None and layout_of(inputs) is None:
        inputs = inputs.contiguous()
    pool = None if keeping.codec is None else coded_pool(tail)
    autocast_dtype = autocast_dtype_of(inputs.device)
    batch, group = uses_batch_statistics(norm), group_of(norm)
    call = TailCall(norm, batch, tail, autocast_dtype, torch.is_grad_enabled(), keeping, group, pool)
    convolutions = [module for module in tail if isinstance(module, nn.Conv2d)]
    parameters = [p for module in convolutions for p in (module.weight, module.bias)]
    return NormActFunction.apply(inputs, call, norm.weight, norm.bias, *parameters)


class NormActFunction(torch.autograd.Function):
    """See the module's docstring."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, call: TailCall, weight: Tensor | None, bias: Tensor | None, *parameters: Tensor | None
    ) -> Tensor:
        moves = not call.keeping.plain_order  # there the norm moves its running statistics itself
        mean, variance, count = take_statistics(call.norm, call.batch_statistics, call.group, inputs, moves=moves)
        norm = affine(mean, variance, call.norm.eps, weight, bias)
        masks = None if call.keeping.codec is None else TileMasks(inputs.shape, inputs.dtype, inputs.device)
        outputs, positions = run_forward(call, inputs, norm, masks, parameters)
        if call.keeps_graph:
            kept: tuple[Tensor, ...] = (inputs,)
            if call.keeping.codec is not None and masks is not None:
                codes = call.keeping.codec.encode(inputs, mean, norm.inv_std, call.keeping.noise_seed)
                kept = (masks.bits, *positions, *codes)
                ctx.like = dense_like(inputs)
            ctx.call, ctx.parameters, ctx.positions = call, len(parameters), len(positions)
            mark_own(kept)
            ctx.save_for_backward(mean, variance, count, weight, bias, *parameters, *kept)
        return outputs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative("a norm+ReLU that recomputes")
        mean, variance, count, weight, bias, *rest = ctx.saved_tensors
        parameters, kept = rest[: ctx.parameters], rest[ctx.parameters :]
        norm = affine(mean, variance, ctx.call.norm.eps, weight, bias)
        needs_inputs, _, *needs = ctx.needs_input_grad
        positions: list[Tensor] = []
        if ctx.call.keeping.codec is None:
            inputs, masks = kept[0], None
        else:
            bits, positions, parts = kept[0], kept[1 : 1 + ctx.positions], kept[1 + ctx.positions :]
            inputs = ctx.call.keeping.codec.decode_into(ctx.like.empty(), tuple(parts), mean, norm.inv_std)
            masks = TileMasks(inputs.shape, inputs.dtype, inputs.device, bits)
        run = TailBackward(ctx.call, norm, inputs, masks, parameters, needs_inputs, needs[2:])
        for index, tile in enumerate(tiles(inputs.shape, inputs.dtype, inputs.device)):
            run.add(tile, gradient[tile], positions[index] if positions else None)
        d_norm = (
            total.to(parameter.dtype) if need and parameter is not None else None
            for total, parameter, need in zip(
                (run.norm_gradient.d_weight, run.norm_gradient.d_bias), (weight, bias), needs, strict=False
            )
        )
        d_inputs, sink = run.finished_inputs(count), ctx.call.keeping.sink
        if d_inputs is not None and sink is not None:
            d_inputs = sink.leave(d_inputs)
        return d_inputs, None, *d_norm, *run.parameter_gradients
