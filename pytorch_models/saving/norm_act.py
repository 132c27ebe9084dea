"""norm, ReLU and what follows (a convolution, a pool), keeping the norm's input alone.

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

from pytorch_models.saving.dense_call import autocast_dtype_of, autocast_to
from pytorch_models.saving.eligibility import (
    PlainPathWarning,
    graph_is_being_exported,
    why_call_is_plain,
    why_norm_act_is_plain,
)
from pytorch_models.saving.norm import (
    Affine,
    affine,
    check_batch_has_a_variance,
    move_running_statistics,
    running_statistics,
    statistics_dtype,
    uses_batch_statistics,
)
from pytorch_models.saving.passes import NormGradient, activate_into, batch_statistics, subtract_terms
from pytorch_models.saving.tiles import laid_out_like, tiles


@dataclass(frozen=True)
class TailCall:
    """The facts of one call: the norm, the modules after the ReLU, and under which autocast they ran."""

    norm: nn.BatchNorm2d
    batch_statistics: bool
    tail: tuple[nn.Module, ...]
    autocast_dtype: torch.dtype | None
    keeps_graph: bool


def norm_act_then(inputs: Tensor, norm: nn.Module, relu: nn.Module, *tail: nn.Module) -> Tensor:
    """tail(relu(norm(inputs))), keeping `inputs` alone for the backward pass.

    Args:
        inputs: (N, C, H, W).
        norm, relu: a BatchNorm2d and a ReLU.
        tail: convolutions and pools, in order; they run again in the backward pass. Where any module has hooks or
            is of another type, all run the plain way and a warning says so.

    Raises:
        ValueError: a single value per channel in training.
        RuntimeError: in the backward pass, when gradients of gradients are asked for.
    """
    reason = why_call_is_plain() or why_norm_act_is_plain(norm, relu, *tail)
    if reason is not None:
        warnings.warn(f"norm+ReLU runs the plain way and saves no memory: {reason}", PlainPathWarning, stacklevel=3)
    if reason is not None or graph_is_being_exported():
        for module in (norm, relu, *tail):
            inputs = module(inputs)
        return inputs
    assert isinstance(norm, nn.BatchNorm2d), "checked by eligibility"
    return _apply(inputs, norm, tail)


@torch.compiler.disable(reason="norm+ReLU+tail is one autograd Function that recomputes in its backward pass")
def _apply(inputs: Tensor, norm: nn.BatchNorm2d, tail: tuple[nn.Module, ...]) -> Tensor:
    call = TailCall(norm, uses_batch_statistics(norm), tail, autocast_dtype_of(inputs.device), torch.is_grad_enabled())
    convolutions = [module for module in tail if isinstance(module, nn.Conv2d)]
    parameters = [p for module in convolutions for p in (module.weight, module.bias)]
    return NormActFunction.apply(inputs, call, norm.weight, norm.bias, *parameters)


class NormActFunction(torch.autograd.Function):
    """See the module's docstring."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, call: TailCall, weight: Tensor | None, bias: Tensor | None, *parameters: Tensor | None
    ) -> Tensor:
        if call.batch_statistics:
            check_batch_has_a_variance(inputs.shape)
            mean, variance = batch_statistics(inputs)
            move_running_statistics(call.norm, mean, variance, inputs.numel() // inputs.shape[1])
        else:
            mean, variance = running_statistics(call.norm, statistics_dtype(inputs.dtype))
        if call.keeps_graph:
            ctx.call = call
            ctx.save_for_backward(inputs, mean, variance, weight, bias, *parameters)
        norm = affine(mean, variance, call.norm.eps, weight, bias)
        parts = [
            _run_tail(call, _activation(inputs[tile], norm), parameters)
            for tile in tiles(inputs.shape, inputs.dtype, inputs.device)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "a norm+ReLU that recomputes cannot be differentiated twice (create_graph=True): "
                "build the model with efficient=False where gradients of gradients are needed"
            )
        inputs, mean, variance, weight, bias, *parameters = ctx.saved_tensors
        norm = affine(mean, variance, ctx.call.norm.eps, weight, bias)
        needs_inputs, _, *needs = ctx.needs_input_grad
        run = _TailBackward(ctx.call, norm, inputs, parameters, needs_inputs, needs[2:])
        for tile in tiles(inputs.shape, inputs.dtype, inputs.device):
            run.add(tile, gradient[tile])
        d_norm = (
            total.to(parameter.dtype) if need and parameter is not None else None
            for total, parameter, need in zip(
                (run.norm_gradient.d_weight, run.norm_gradient.d_bias), (weight, bias), needs, strict=False
            )
        )
        return run.finished_inputs(), None, *d_norm, *run.parameter_gradients


class _TailBackward:
    """Gradients summed over tiles."""

    def __init__(
        self,
        call: TailCall,
        norm: Affine,
        inputs: Tensor,
        parameters: list[Tensor | None],
        needs_inputs: bool,
        needs: list[bool],
    ) -> None:
        self.call, self.norm, self.inputs = call, norm, inputs
        self.parameters = [
            None if p is None else p.detach().requires_grad_(need) for p, need in zip(parameters, needs, strict=True)
        ]
        self.parameter_gradients: list[Tensor | None] = [None] * len(parameters)
        self.norm_gradient = NormGradient(norm)
        self.d_inputs = torch.empty_like(inputs) if needs_inputs else None

    def add(self, tile: slice, gradient: Tensor) -> None:
        """Rebuild one tile, run the tail on it and take in its gradients."""
        values = self.inputs[tile]
        activation = _activation(values, self.norm).requires_grad_()
        wanted = {i: p for i, p in enumerate(self.parameters) if p is not None and p.requires_grad}
        with torch.enable_grad():
            outputs = _run_tail(self.call, activation, self.parameters)
        found = torch.autograd.grad(outputs, [activation, *wanted.values()], gradient)
        for i, part in zip(wanted, found[1:], strict=True):
            total = self.parameter_gradients[i]
            self.parameter_gradients[i] = part if total is None else total.add_(part)
        into = None if self.d_inputs is None else self.d_inputs[tile]
        activation = activation.detach()
        self.norm_gradient.add(laid_out_like(values, found[0]), activation, values, into, scratch=activation)

    def finished_inputs(self) -> Tensor | None:
        """The gradient of the inputs, with what it owes to the batch statistics."""
        if self.d_inputs is not None and self.call.batch_statistics:
            count = self.inputs.numel() // self.inputs.shape[1]
            constant, slope = self.norm_gradient.corrections(count)
            for tile in tiles(self.inputs.shape, self.inputs.dtype, self.inputs.device):
                subtract_terms(self.d_inputs[tile], self.inputs[tile], self.norm.mean, constant, slope)
        return self.d_inputs


def _activation(values: Tensor, norm: Affine) -> Tensor:
    return activate_into(torch.empty_like(values), values, norm)


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
