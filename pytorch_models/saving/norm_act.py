"""norm, activation and what follows (a convolution, a pool), keeping the norm's input alone.

Autograd would also keep the activation and what the following modules save. Here only the norm's input and two
vectors stay; the backward pass rebuilds the rest for one tile of the batch at a time.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pytorch_models.saving.activation import Activation
from pytorch_models.saving.eligibility import PlainPathWarning, graph_is_being_exported, why_norm_act_is_plain
from pytorch_models.saving.norm import Affine, affine, uses_batch_statistics
from pytorch_models.saving.passes import NormGradient, activate_into, normalise_into, subtract_terms
from pytorch_models.saving.statistics import take_statistics
from pytorch_models.saving.sync import group_of
from pytorch_models.saving.tiles import laid_out_like, tiles
from pytorch_models.saving.unit_call import autocast_dtype_of, autocast_to, unit_parameters


@dataclass(frozen=True)
class TailCall:
    """The facts of one call: norm and activation, the modules after them, and under which autocast they ran."""

    norm: _BatchNorm
    batch_statistics: bool
    activation: Activation
    tail: tuple[nn.Module, ...]
    autocast_dtype: torch.dtype | None
    keeps_graph: bool
    group: Any


def norm_act_then(inputs: Tensor, norm: nn.Module, activation: nn.Module, *tail: nn.Module) -> Tensor:
    """tail(activation(norm(inputs))), keeping `inputs` alone for the backward pass.

    Args:
        inputs: (N, C, H, W).
        norm: BatchNorm2d or SyncBatchNorm.
        activation: one of `activation.ACTIVATIONS`.
        tail: convolutions and pools, in order; they run again in the backward pass. Where any module has hooks or
            is of another type, all run the plain way and a warning says so.

    Raises:
        ValueError: a single value per channel in training.
        RuntimeError: in the backward pass, when gradients of gradients are asked for.
    """
    reason = why_norm_act_is_plain(norm, activation, *tail)
    if reason is not None:
        warnings.warn(f"norm+act runs the plain way and saves no memory: {reason}", PlainPathWarning, stacklevel=3)
    if reason is not None or graph_is_being_exported():
        for module in (norm, activation, *tail):
            inputs = module(inputs)
        return inputs
    assert isinstance(norm, _BatchNorm), "checked by eligibility"
    return _apply(inputs, norm, activation, tail)


@torch.compiler.disable(reason="norm+activation+tail is one autograd Function that recomputes in its backward pass")
def _apply(inputs: Tensor, norm: _BatchNorm, activation: nn.Module, tail: tuple[nn.Module, ...]) -> Tensor:
    norm._check_input_dim(inputs)
    call = TailCall(
        norm,
        uses_batch_statistics(norm),
        Activation.of(activation),
        tail,
        autocast_dtype_of(inputs.device),
        torch.is_grad_enabled(),
        group_of(norm),
    )
    weight, bias, _, _, slopes = unit_parameters(norm, None, activation)
    parameters = [p for module in tail if isinstance(module, nn.Conv2d) for p in (module.weight, module.bias)]
    return NormActFunction.apply(inputs, call, weight, bias, slopes, *parameters)


class NormActFunction(torch.autograd.Function):
    """See the module's docstring."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        call: TailCall,
        weight: Tensor | None,
        bias: Tensor | None,
        slopes: Tensor | None,
        *parameters: Tensor | None,
    ) -> Tensor:
        mean, variance, count = take_statistics(call.norm, call.batch_statistics, call.group, inputs)
        if call.keeps_graph:
            ctx.call = call
            ctx.save_for_backward(inputs, mean, variance, count, weight, bias, slopes, *parameters)
        norm = affine(mean, variance, call.norm.eps, weight, bias)
        parts = [
            _run_tail(call, _activation(inputs[tile], norm, call.activation, slopes), parameters)
            for tile in tiles(inputs.shape, inputs.dtype, inputs.device)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "a norm+activation that recomputes cannot be differentiated twice (create_graph=True): "
                "build the model with efficient=False where gradients of gradients are needed"
            )
        inputs, mean, variance, count, weight, bias, slopes, *parameters = ctx.saved_tensors
        norm = affine(mean, variance, ctx.call.norm.eps, weight, bias)
        needs_inputs, _, *needs = ctx.needs_input_grad
        run = _TailBackward(ctx.call, norm, slopes, inputs, parameters, needs_inputs, needs[3:])
        for tile in tiles(inputs.shape, inputs.dtype, inputs.device):
            run.add(tile, gradient[tile])
        gradients = run.norm_gradient
        d_norm = (
            total.to(parameter.dtype) if need and parameter is not None and total is not None else None
            for total, parameter, need in zip(
                (gradients.d_weight, gradients.d_bias, gradients.d_activation_weight),
                (weight, bias, slopes),
                needs,
                strict=False,
            )
        )
        return run.finished_inputs(count), None, *d_norm, *run.parameter_gradients


class _TailBackward:
    """Gradients summed over tiles."""

    def __init__(
        self,
        call: TailCall,
        norm: Affine,
        slopes: Tensor | None,
        inputs: Tensor,
        parameters: list[Tensor | None],
        needs_inputs: bool,
        needs: list[bool],
    ) -> None:
        self.call, self.norm, self.slopes, self.inputs = call, norm, slopes, inputs
        self.parameters = [
            None if p is None else p.detach().requires_grad_(need) for p, need in zip(parameters, needs, strict=True)
        ]
        self.parameter_gradients: list[Tensor | None] = [None] * len(parameters)
        self.norm_gradient = NormGradient(norm, call.activation, slopes)
        self.d_inputs = torch.empty_like(inputs) if needs_inputs else None

    def add(self, tile: slice, gradient: Tensor) -> None:
        """Rebuild one tile, run the tail on it and take in its gradients."""
        values = self.inputs[tile]
        activation = _activation(values, self.norm, self.call.activation, self.slopes).requires_grad_()
        wanted = {i: p for i, p in enumerate(self.parameters) if p is not None and p.requires_grad}
        with torch.enable_grad():
            outputs = _run_tail(self.call, activation, self.parameters)
        found = torch.autograd.grad(outputs, [activation, *wanted.values()], gradient)
        for i, part in zip(wanted, found[1:], strict=True):
            total = self.parameter_gradients[i]
            self.parameter_gradients[i] = part if total is None else total.add_(part)
        into = None if self.d_inputs is None else self.d_inputs[tile]
        activation = activation.detach()
        if not self.call.activation.by_output:
            activation = normalise_into(activation, values, self.norm)
        self.norm_gradient.add(laid_out_like(values, found[0]), activation, values, into, scratch=activation)

    def finished_inputs(self, joint_count: Tensor | None) -> Tensor | None:
        """The gradient of the inputs, with what it owes to the batch statistics."""
        if self.d_inputs is not None and self.call.batch_statistics:
            count = self.inputs.numel() // self.inputs.shape[1] if joint_count is None else joint_count
            constant, slope = self.norm_gradient.corrections(count, self.call.group)
            for tile in tiles(self.inputs.shape, self.inputs.dtype, self.inputs.device):
                subtract_terms(self.d_inputs[tile], self.inputs[tile], self.norm.mean, constant, slope)
        return self.d_inputs


def _activation(values: Tensor, norm: Affine, activation: Activation, slopes: Tensor | None) -> Tensor:
    return activate_into(torch.empty_like(values), values, norm, activation, slopes)


def _run_tail(call: TailCall, values: Tensor, parameters: Sequence[Tensor | None]) -> Tensor:
    remaining = iter(parameters)
    with autocast_to(values.device, call.autocast_dtype):
        for module in call.tail:
            if isinstance(module, nn.Conv2d):
                weight, bias = next(remaining), next(remaining)
                assert weight is not None, "a convolution has a weight"
                values = module._conv_forward(values, weight, bias)
            else:
                values = module(values)
    return values
