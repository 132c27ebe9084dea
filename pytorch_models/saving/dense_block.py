"""A dense block as one autograd Function: one feature buffer, one gradient buffer, nothing concatenated.

Every layer of a DenseNet block reads all features before it. Autograd would keep a concatenation and a normalised
copy per layer, which grows with the square of the depth. Here (design: Pleiss et al. 2017, arXiv:1707.06990, taken
further):

* one channels_last buffer holds all features; a layer writes its new channels into its slice;
* a channel's batch mean and variance are taken once, when it is written, and shared by all later layers;
* activations are rebuilt tile by tile in the backward pass; the 1x1 outputs are kept or computed again;
* one gradient buffer is accumulated in place. The part of a norm's input gradient that needs sums over the batch is
  linear in the features, so it is collected per channel and applied once, when the channel's gradient is read.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from pytorch_models.compression import NoiseSeeds
from pytorch_models.saving.dense_backward import BlockBackward
from pytorch_models.saving.dense_call import BlockCall, read_block
from pytorch_models.saving.dense_forward import run_in_plain_order, run_in_shared_buffer
from pytorch_models.saving.eligibility import (
    graph_is_being_exported,
    refuse_second_derivative,
    warn_plain,
    why_block_is_plain,
    why_call_is_plain,
)
from pytorch_models.saving.saved import SavedTensors
from pytorch_models.saving.unit_call import autocast_to
from zoo.policy import MemoryPolicy


def dense_block(block: nn.ModuleDict, inputs: Tensor, policy: MemoryPolicy, seeds: NoiseSeeds) -> Tensor:
    """Run a dense block with shared storage.

    Args:
        block: layers in order, each with norm1, relu1, conv1 and, with a bottleneck, norm2, relu2, conv2.
        inputs: (N, C, H, W), any floating dtype and memory format.
        policy: what to keep; `policy.share_features` must hold.
        seeds: of the rounding noise, if the policy compresses.

    Returns:
        (N, C + layers * growth_rate, H, W) in channels_last, the same values as the plain block's.

    Raises:
        ValueError: wrong number of channels, or a single value per channel in training.
        RuntimeError: in the backward pass, when gradients of gradients are asked for.
    """
    reason = why_call_is_plain() or why_block_is_plain(block, block.layer_type)  # type: ignore[arg-type]
    if reason is not None:
        warn_plain("dense block", reason)
    if reason is not None or graph_is_being_exported():
        return block.plain_forward(inputs)  # type: ignore[operator]
    layers: Any = block.values()
    first = next(iter(layers)).norm1
    if inputs.dim() != 4 or inputs.shape[1] != first.num_features:
        raise ValueError(f"a dense block of (N, {first.num_features}, H, W) inputs got {tuple(inputs.shape)}")
    return _apply(block, inputs, policy, seeds)


@torch.compiler.disable(reason="a dense block with shared storage is one autograd Function writing into its buffer")
def _apply(block: nn.ModuleDict, inputs: Tensor, policy: MemoryPolicy, seeds: NoiseSeeds) -> Tensor:
    call, parameters = read_block(block, inputs, policy, seeds)
    block.storage = call.storage  # type: ignore[assignment]
    outputs: Any = DenseBlockFunction.apply(inputs, call, *parameters)
    outputs.made_by = call  # on this tensor and not on the block, which may run in several threads
    return outputs


@torch.compiler.disable(reason="reads an attribute of a tensor")
def call_that_made(values: Tensor) -> BlockCall | None:
    """The call of a dense block that returned this very tensor, if one did."""
    return getattr(values, "made_by", None)


class DenseBlockFunction(torch.autograd.Function):
    """See the module's docstring; arguments are the inputs, the call's facts and the parameters in order."""

    @staticmethod
    def forward(ctx: FunctionCtx, inputs: Tensor, call: BlockCall, *parameters: Tensor | None) -> Tensor:
        if call.plain_order:
            features, saved = run_in_plain_order(call, inputs, parameters)
        else:
            with autocast_to(inputs.device, None):
                features, saved = run_in_shared_buffer(call, inputs, parameters)
        if call.keeps_graph:
            saved.store(ctx, features=None if call.storage.features_coded else features, parameters=parameters)
            ctx.call = call  # type: ignore[attr-defined]
            ctx.input_dtype = inputs.dtype  # type: ignore[attr-defined]
        return features

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative("DenseNet with shared storage")
        with autocast_to(gradient.device, None):
            needs = ctx.needs_input_grad  # type: ignore[attr-defined]
            run = BlockBackward(ctx.call, SavedTensors.restore(ctx), gradient, needs[2:], needs[0])  # type: ignore[attr-defined]
            inputs_gradient = run.run()
        if inputs_gradient is not None:
            inputs_gradient = inputs_gradient.to(ctx.input_dtype)  # type: ignore[attr-defined]
        return inputs_gradient, None, *run.parameter_gradients
