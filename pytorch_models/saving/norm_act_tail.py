"""norm, ReLU and the modules after them, tile by tile: the arithmetic of `norm_act_then`, forward and backward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from pytorch_models.saving.activation import RELU
from pytorch_models.saving.keeping import InputKeeping
from pytorch_models.saving.masks import TileMasks, write_mask
from pytorch_models.saving.norm import Affine
from pytorch_models.saving.passes import (
    NormGradient,
    activate_into,
    rebuild_into,
    subtract_terms,
)
from pytorch_models.saving.pool_codes import Pool
from pytorch_models.saving.tiles import laid_out_like, tiles
from pytorch_models.saving.unit_call import autocast_to


@dataclass(frozen=True)
class TailCall:
    """The facts of one call: the norm, the modules after the ReLU, and under which autocast they ran."""

    norm: _BatchNorm
    batch_statistics: bool
    tail: tuple[nn.Module, ...]
    autocast_dtype: torch.dtype | None
    keeps_graph: bool
    keeping: InputKeeping
    group: Any  # the processes that share the batch statistics
    pool: Pool | None  # where the tail is a max-pool whose positions are kept: codes cannot tell where maxima were


def run_forward(
    call: TailCall, inputs: Tensor, norm: Affine, masks: TileMasks | None, parameters: Sequence[Tensor | None]
) -> tuple[Tensor, list[Tensor]]:
    """The tail's outputs, and the pool's packed positions, tile by tile, where they are kept; fills `masks`."""
    slices = tiles(inputs.shape, inputs.dtype, inputs.device)
    if call.keeping.plain_order:
        with autocast_to(inputs.device, call.autocast_dtype):
            activations = F.relu(call.norm(inputs), inplace=True)
        for tile in slices if masks is not None else ():
            write_mask(laid_out_like(inputs, activations[tile]), RELU, masks.of(tile))  # type: ignore[union-attr]
        if call.pool is None:
            return _run_tail(call, activations, parameters), []
    outputs, positions = [], []
    for tile in slices:
        if call.keeping.plain_order:
            activation = activations[tile]
        else:
            mask = None if masks is None else masks.of(tile)
            activation = activate_into(torch.empty_like(inputs[tile]), inputs[tile], norm, mask=mask)
        if call.pool is None:
            outputs.append(_run_tail(call, activation, parameters))
        else:
            pooled, codes = call.pool.forward(activation)
            outputs.append(laid_out_like(activation, pooled))
            positions.append(codes)
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs), positions


class TailBackward:
    """Gradients summed over tiles."""

    def __init__(
        self,
        call: TailCall,
        norm: Affine,
        inputs: Tensor,
        masks: TileMasks | None,
        parameters: list[Tensor | None],
        needs_inputs: bool,
        needs: list[bool],
    ) -> None:
        self.call, self.norm, self.inputs, self.masks = call, norm, inputs, masks
        self.parameters = [
            None if p is None else p.detach().requires_grad_(need) for p, need in zip(parameters, needs, strict=True)
        ]
        self.parameter_gradients: list[Tensor | None] = [None] * len(parameters)
        self.norm_gradient = NormGradient(norm)
        self.d_inputs = torch.empty_like(inputs) if needs_inputs else None

    def add(self, tile: slice, gradient: Tensor, positions: Tensor | None) -> None:
        """Rebuild one tile, run the tail on it and take in its gradients."""
        values, mask = self.inputs[tile], None if self.masks is None else self.masks.of(tile)
        if mask is None:
            activation = activate_into(torch.empty_like(values), values, self.norm)
        else:
            activation = rebuild_into(torch.empty_like(values), values, self.norm, mask)
        if positions is not None and self.call.pool is not None:
            d_activation = self.call.pool.backward(gradient, positions, values)
        else:
            d_activation = self._through_tail(activation.requires_grad_(), gradient)
            activation = activation.detach()
        into = None if self.d_inputs is None else self.d_inputs[tile]
        d_activation = laid_out_like(values, d_activation)
        self.norm_gradient.add(d_activation, activation, values, into, scratch=activation, mask=mask)

    def _through_tail(self, activation: Tensor, gradient: Tensor) -> Tensor:
        wanted = {i: p for i, p in enumerate(self.parameters) if p is not None and p.requires_grad}
        with torch.enable_grad():
            outputs = _run_tail(self.call, activation, self.parameters)
        d_activation, *found = torch.autograd.grad(outputs, [activation, *wanted.values()], gradient)
        for i, part in zip(wanted, found, strict=True):
            total = self.parameter_gradients[i]
            self.parameter_gradients[i] = part if total is None else total.add_(part)
        return d_activation

    def finished_inputs(self, joint_count: Tensor | None) -> Tensor | None:
        """The gradient of the inputs, with what it owes to the batch statistics."""
        if self.d_inputs is not None and self.call.batch_statistics:
            count = self.inputs.numel() // self.inputs.shape[1] if joint_count is None else joint_count
            constant, slope = self.norm_gradient.corrections(count, self.call.group)
            for tile in tiles(self.inputs.shape, self.inputs.dtype, self.inputs.device):
                subtract_terms(self.d_inputs[tile], self.inputs[tile], self.norm.mean, constant, slope)
        return self.d_inputs


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
