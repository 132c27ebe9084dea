"""norm, activation, convolution, and chains of them, as one autograd Function that keeps one tensor a convolution.

Autograd keeps a norm's input and the activation that follows. Here the norm's input alone is kept, with the batch's
mean and variance; the backward pass rebuilds the activation by the same affine map, a tile of the batch at a time.
A step may go without even that: its input is then computed again by the convolution before it. A chain may end in a
residual sum; what its activation needs is read off the chain's output, which the next part of a network keeps anyway.

With a codec, kept are codes of the normalised inputs and the activations' exact masks instead, and codes of what enters
the first convolution, made once for all that read it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pytorch_models.saving.chain_backward import ChainBackward
from pytorch_models.saving.chain_call import ChainCall, Step, read_chain
from pytorch_models.saving.chain_forward import run_forward
from pytorch_models.saving.chain_saved import SavedChain, SharedCodes
from pytorch_models.saving.eligibility import (
    graph_is_being_exported,
    refuse_second_derivative,
    warn_plain,
    why_call_is_plain,
    why_chain_is_plain,
)
from pytorch_models.saving.keeping import InputKeeping
from pytorch_models.saving.unit_call import autocast_to


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
    keeping: InputKeeping = InputKeeping(),  # noqa: B008 - frozen
    shared: SharedCodes | None = None,
) -> Tensor:
    """Run the steps one after the other, keeping for the backward pass the inputs of those that ask for it alone.

    Args:
        inputs: (N, C, ...).
        steps: see `chain_call.Step`.
        shortcut: added to the last convolution's outputs or, where the last step has none, before its activation
            (ReLU, ReLU6, Identity, or LeakyReLU with a positive slope); may be `inputs` itself.
        owner: the module the steps belong to, for what a warning says; see also `why_containers_are_needed`.
        channels_last: lay the first convolution's outputs out so; faster on a CPU.
        keeping: norms' inputs as they are, or coded where the activation is a ReLU, a ReLU6 or none (of others they
            are kept as they are); and whether the modules' own outputs are wanted to the bit.
        shared: codes of `inputs` for a first step without a norm; None = it keeps `inputs` as they are.

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
    nothing_kept = keeping.plain_order and not torch.is_grad_enabled()
    if reason is not None or nothing_kept or graph_is_being_exported():
        return _plain(inputs, steps, shortcut)
    return _apply(inputs, steps, shortcut, channels_last, keeping, shared)


def _plain(inputs: Tensor, steps: Sequence[Step], shortcut: Tensor | None) -> Tensor:
    values = inputs
    for step in steps:
        for module in step.modules:
            if module is step.activation and step.convolution is None and shortcut is not None:
                values, shortcut = values + shortcut, None
            values = module(values)
    return values if shortcut is None else values + shortcut


@torch.compiler.disable(reason="a chain of norms and convolutions is one autograd Function that recomputes")
def _apply(
    inputs: Tensor,
    steps: Sequence[Step],
    shortcut: Tensor | None,
    channels_last: bool,
    keeping: InputKeeping,
    shared: SharedCodes | None,
) -> Tensor:
    adds_inputs = shortcut is inputs
    call, parameters = read_chain(
        inputs,
        steps,
        keeping,
        adds_inputs=adds_inputs,
        channels_last=channels_last,
        inputs_coded=shared is not None,
        shortcut_tracked=shortcut is not None and shortcut.requires_grad,
    )
    return ChainFunction.apply(inputs, None if adds_inputs else shortcut, call, shared, *parameters)


class ChainFunction(torch.autograd.Function):
    """See the module's docstring; arguments are inputs, shortcut, the call's facts, codes of the inputs, parameters."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        shortcut: Tensor | None,
        call: ChainCall,
        shared: SharedCodes | None,
        *parameters: Tensor | None,
    ) -> Tensor:
        with autocast_to(inputs.device, None):
            outputs, saved = run_forward(call, inputs, inputs if call.adds_inputs else shortcut, shared, parameters)
        if call.keeps_graph:
            saved.store(ctx, outputs if saved.has_outputs else None, parameters)
            ctx.call = call
            ctx.shortcut_dtype = None if shortcut is None else shortcut.dtype
        return outputs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative("norm+activation+convolution that recomputes")
        with autocast_to(gradient.device, None):
            needs_inputs, needs_shortcut, _, _, *needs = ctx.needs_input_grad
            run = ChainBackward(ctx.call, SavedChain.restore(ctx), gradient, needs, needs_inputs, needs_shortcut)
            d_inputs = run.run()
        d_shortcut = None if run.d_shortcut is None else run.d_shortcut.to(ctx.shortcut_dtype)
        return d_inputs, d_shortcut, None, None, *run.parameter_gradients
