"""norm, activation, convolution, and chains of them, as one autograd Function that keeps one tensor a convolution.

Autograd keeps a norm's input and the activation that follows. Here the norm's input alone is kept, with the batch's
mean and variance; the backward pass rebuilds the activation by the same affine map, a tile of the batch at a time.
A step may go without even that: its input is then computed again by the convolution before it. A chain may end in a
residual sum; what its activation needs is read off the chain's output, which the next part of a network keeps anyway.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pytorch_models.saving.chain_backward import ChainBackward
from pytorch_models.saving.chain_call import ChainCall, Step, read_chain
from pytorch_models.saving.chain_saved import SavedChain
from pytorch_models.saving.eligibility import (
    graph_is_being_exported,
    refuse_second_derivative,
    warn_plain,
    why_call_is_plain,
    why_chain_is_plain,
)
from pytorch_models.saving.norm import Affine, affine
from pytorch_models.saving.passes import normalise_into
from pytorch_models.saving.statistics import take_statistics
from pytorch_models.saving.tiles import Workspace, as_images, batch_outermost, tiles
from pytorch_models.saving.unit_call import Unit, autocast_to
from pytorch_models.saving.units import forward_unit


def norm_act_conv(inputs: Tensor, norm: nn.Module, activation: nn.Module, convolution: nn.Module) -> Tensor:
    """convolution(activation(norm(inputs))), keeping `inputs` and the batch's statistics alone.

    Args:
        inputs: (N, C, ...) with one, two or three spatial dimensions, any floating dtype and memory format.
        norm: BatchNorm1d, 2d, 3d or SyncBatchNorm (on any device); its running statistics move once.
        activation: ReLU, ReLU6, LeakyReLU, PReLU, SiLU, Hardswish or Identity.
        convolution: Conv1d, 2d or 3d: strided, dilated, grouped, depthwise, with or without bias.

    Returns:
        What the modules return; gradients and buffers are theirs too, to rounding. Where a module has hooks or is of
        another type, all run the plain way and a `PlainPathWarning` says so.

    Raises:
        ValueError: inputs that the norm refuses, or a single value per channel in training.
        RuntimeError: in the backward pass, when gradients of gradients are asked for.

    Example:
        >>> norm, convolution = nn.BatchNorm2d(4), nn.Conv2d(4, 8, 3, padding=1)
        >>> norm_act_conv(torch.randn(2, 4, 5, 5), norm, nn.ReLU(), convolution).shape
        torch.Size([2, 8, 5, 5])
    """
    return chain(inputs, [Step(norm, activation, convolution)])


def chain(
    inputs: Tensor,
    steps: Sequence[Step],
    *,
    shortcut: Tensor | None = None,
    owner: nn.Module | None = None,
    channels_last: bool = False,
) -> Tensor:
    """Run the steps one after the other, keeping for the backward pass the inputs of those that ask for it alone.

    Args:
        inputs: (N, C, ...).
        steps: see `chain_call.Step`.
        shortcut: added to the last convolution's outputs or, where the last step has none, before its activation
            (ReLU, ReLU6, Identity, or LeakyReLU with a positive slope); may be `inputs` itself.
        owner: the module the steps belong to, for what a warning says; see also `why_containers_are_needed`.
        channels_last: lay the first convolution's outputs out so; faster on a CPU.

    Returns:
        (N, C', ...), what the modules give.

    Raises:
        ValueError: inputs that a norm refuses, or a single value per channel in training.
        RuntimeError: in the backward pass, when gradients of gradients are asked for.
    """
    reason = why_call_is_plain() or why_chain_is_plain(steps, owner, shortcut is not None)
    if reason is not None:
        what = "norm+activation+convolution" if owner is None else type(owner).__name__
        warn_plain(what, reason)
    if reason is not None or graph_is_being_exported():
        return _plain(inputs, steps, shortcut)
    return _apply(inputs, steps, shortcut, channels_last)


def _plain(inputs: Tensor, steps: Sequence[Step], shortcut: Tensor | None) -> Tensor:
    values = inputs
    for step in steps:
        for module in step.modules:
            if module is step.activation and step.convolution is None and shortcut is not None:
                values, shortcut = values + shortcut, None
            values = module(values)
    return values if shortcut is None else values + shortcut


@torch.compiler.disable(reason="a chain of norms and convolutions is one autograd Function that recomputes")
def _apply(inputs: Tensor, steps: Sequence[Step], shortcut: Tensor | None, channels_last: bool) -> Tensor:
    adds_inputs = shortcut is inputs
    call, parameters = read_chain(inputs, steps, adds_inputs=adds_inputs, channels_last=channels_last)
    return ChainFunction.apply(inputs, None if adds_inputs else shortcut, call, *parameters)


class ChainFunction(torch.autograd.Function):
    """See the module's docstring; arguments are inputs, shortcut, the call's facts and the parameters in order."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, shortcut: Tensor | None, call: ChainCall, *parameters: Tensor | None
    ) -> Tensor:
        with autocast_to(inputs.device, None):
            run = ChainForward(call, inputs, parameters)
            outputs = run.run(inputs if call.adds_inputs else shortcut)
        if call.keeps_graph:
            run.saved.store(ctx, outputs if run.saved.has_outputs else None, parameters)
            ctx.call = call
            ctx.shortcut_dtype = None if shortcut is None else shortcut.dtype
        return outputs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative("norm+activation+convolution that recomputes")
        with autocast_to(gradient.device, None):
            needs_inputs, needs_shortcut, _, *needs = ctx.needs_input_grad
            run = ChainBackward(ctx.call, SavedChain.restore(ctx), gradient, needs, needs_inputs, needs_shortcut)
            d_inputs = run.run()
        d_shortcut = None if run.d_shortcut is None else run.d_shortcut.to(ctx.shortcut_dtype)
        return d_inputs, d_shortcut, None, *run.parameter_gradients


class ChainForward:
    """The forward pass: runs unit after unit and notes what the backward pass will need."""

    def __init__(self, call: ChainCall, inputs: Tensor, parameters: tuple[Tensor | None, ...]) -> None:
        self.call, self.parameters = call, parameters
        self.inputs = batch_outermost(inputs)
        self.workspace = Workspace(inputs.device)
        self.saved = SavedChain(len(call.units))

    def run(self, shortcut: Tensor | None) -> Tensor:
        """The chain's outputs, with `shortcut` added."""
        call, values = self.call, self.inputs
        for index, unit in enumerate(call.units):
            if call.kept[index] and call.keeps_graph:
                self.saved.values[index] = values
            norm = self._norm(index, unit, values)
            if unit.convolution is None:
                return self._finish(index, unit, norm, values, shortcut)
            values, _ = forward_unit(
                values,
                unit,
                norm,
                self.parameters[unit.parameters],
                call.compute_dtype,
                self.workspace,
                channels_last=call.channels_last and index == 0,
            )
        if shortcut is None:
            return values
        _check_same_shape(shortcut, values)
        return values.add_(shortcut) if shortcut.dtype == values.dtype else values + shortcut

    def _norm(self, index: int, unit: Unit, values: Tensor) -> Affine | None:
        if unit.norm is None:
            return None
        statistics = take_statistics(unit.norm, unit.batch_statistics, unit.group, values)
        if self.call.keeps_graph:
            self.saved.statistics[index] = statistics
        weight, bias, *_ = self.parameters[unit.parameters]
        return affine(statistics[0], statistics[1], unit.norm.eps, weight, bias)

    def _finish(self, index: int, unit: Unit, norm: Affine | None, values: Tensor, shortcut: Tensor | None) -> Tensor:
        """activation(norm(values) + shortcut); in place where nobody else holds the values."""
        assert norm is not None, "a step without a convolution has a norm"
        dtype = values.dtype
        if shortcut is not None:
            _check_same_shape(shortcut, values)
            dtype = torch.promote_types(values.dtype, shortcut.dtype)
        ours = index > 0 and not (self.call.kept[index] and self.call.keeps_graph) and dtype == values.dtype
        outputs = values if ours else torch.empty_like(values, dtype=dtype)
        weight = self.parameters[unit.parameters][4]
        for tile in tiles(values.shape, values.dtype, values.device):
            out = normalise_into(as_images(outputs[tile]), as_images(values[tile]), norm)
            if shortcut is not None:
                out.add_(as_images(shortcut[tile]))
            unit.activation.apply_(out, weight)
        masks = unit.activation.by_output and unit.activation.kind is not nn.Identity
        self.saved.has_outputs = masks and (shortcut is not None or not self.call.kept[index])
        return outputs


def _check_same_shape(shortcut: Tensor, values: Tensor) -> None:
    if shortcut.shape != values.shape:
        raise ValueError(f"a shortcut of shape {tuple(shortcut.shape)} cannot be added to {tuple(values.shape)}")
