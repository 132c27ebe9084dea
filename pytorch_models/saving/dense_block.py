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

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from pytorch_models.saving.dense_backward import BlockBackward
from pytorch_models.saving.dense_call import BlockCall, read_block
from pytorch_models.saving.dropout import drop
from pytorch_models.saving.eligibility import PlainPathWarning, graph_is_being_exported, why_block_is_plain
from pytorch_models.saving.norm import (
    affine,
    check_batch_has_a_variance,
    move_running_statistics,
    running_statistics,
    statistics_dtype,
)
from pytorch_models.saving.passes import batch_statistics
from pytorch_models.saving.saved import SavedTensors
from pytorch_models.saving.tiles import empty_channels_last
from pytorch_models.saving.unit_call import autocast_to
from pytorch_models.saving.units import forward_unit
from zoo.policy import MemoryPolicy


def dense_block(block: nn.ModuleDict, inputs: Tensor, policy: MemoryPolicy) -> Tensor:
    """Run a dense block with shared storage.

    Args:
        block: layers in order, each with norm1, relu1, conv1 and, with a bottleneck, norm2, relu2, conv2.
        inputs: (N, C, H, W), any floating dtype and memory format.
        policy: what to keep; `policy.share_features` must hold.

    Returns:
        (N, C + layers * growth_rate, H, W) in channels_last, the same values as the plain block's.

    Raises:
        ValueError: wrong number of channels, or a single value per channel in training.
        RuntimeError: in the backward pass, when gradients of gradients are asked for.
    """
    reason = why_block_is_plain(block, block.layer_type)  # type: ignore[arg-type]
    if reason is not None:
        warnings.warn(f"dense block runs the plain way and saves no memory: {reason}", PlainPathWarning, stacklevel=3)
    if reason is not None or graph_is_being_exported():
        return block.plain_forward(inputs)  # type: ignore[operator]
    layers: Any = block.values()
    first = next(iter(layers)).norm1
    if inputs.dim() != 4 or inputs.shape[1] != first.num_features:
        raise ValueError(f"a dense block of (N, {first.num_features}, H, W) inputs got {tuple(inputs.shape)}")
    return _apply(block, inputs, policy)


@torch.compiler.disable(reason="a dense block with shared storage is one autograd Function writing into its buffer")
def _apply(block: nn.ModuleDict, inputs: Tensor, policy: MemoryPolicy) -> Tensor:
    call, parameters = read_block(block, inputs, policy)
    return DenseBlockFunction.apply(inputs, call, *parameters)


class DenseBlockFunction(torch.autograd.Function):
    """See the module's docstring; arguments are the inputs, the call's facts and the parameters in order."""

    @staticmethod
    def forward(ctx: FunctionCtx, inputs: Tensor, call: BlockCall, *parameters: Tensor | None) -> Tensor:
        with autocast_to(inputs.device, None):
            forward = BlockForward(call, inputs, parameters)
            for index in range(len(call.layers)):
                forward.run_layer(index)
        if call.keeps_graph:
            forward.saved.store(ctx, features=forward.features, parameters=parameters)
            ctx.call = call  # type: ignore[attr-defined]
            ctx.input_dtype = inputs.dtype  # type: ignore[attr-defined]
        return forward.features

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "DenseNet with shared storage cannot be differentiated twice (create_graph=True): "
                "build the model with efficient=False where gradients of gradients are needed"
            )
        with autocast_to(gradient.device, None):
            needs = ctx.needs_input_grad  # type: ignore[attr-defined]
            run = BlockBackward(ctx.call, SavedTensors.restore(ctx), gradient, needs[2:], needs[0])  # type: ignore[attr-defined]
            inputs_gradient = run.run()
        if inputs_gradient is not None:
            inputs_gradient = inputs_gradient.to(ctx.input_dtype)  # type: ignore[attr-defined]
        return inputs_gradient, None, *run.parameter_gradients


class BlockForward:
    """The forward pass: fills the feature buffer layer by layer and notes what the backward pass will need."""

    def __init__(self, call: BlockCall, inputs: Tensor, parameters: tuple[Tensor | None, ...]) -> None:
        self.call = call
        self.parameters = parameters
        self.saved = SavedTensors(len(call.layers))
        self.workspace = call.workspace(inputs.shape, inputs.device)
        samples, width, height, columns = inputs.shape
        self.features = empty_channels_last(
            (samples, call.out_features, height, columns), call.feature_dtype, inputs.device
        )
        self.count = samples * height * columns
        dtype = statistics_dtype(call.feature_dtype)
        if any(unit.batch_statistics for layer in call.layers for unit in layer.units):
            check_batch_has_a_variance(inputs.shape)
        if any(layer.units[0].batch_statistics for layer in call.layers):
            self.saved.mean = torch.empty(call.out_features, dtype=dtype, device=inputs.device)
            self.saved.variance = torch.empty_like(self.saved.mean)
        self._write(slice(0, width), inputs)

    def _write(self, channels: slice, values: Tensor) -> None:
        written = self.features[:, channels].copy_(values)
        if self.saved.mean is not None and self.saved.variance is not None:
            dense = values if values.dtype == written.dtype else written
            self.saved.mean[channels], self.saved.variance[channels] = batch_statistics(dense)

    def run_layer(self, index: int) -> None:
        """Compute one layer's new features from the features before it, and write them into their slice."""
        layer = self.call.layers[index]
        outputs = self._run_unit(index, 0, self.features[:, : layer.in_features])
        if len(layer.units) == 2:
            self._keep(index, bottleneck=None if self.call.policy.recompute_bottleneck else outputs)
            outputs = self._run_unit(index, 1, outputs)
        if layer.drop_rate > 0:
            outputs = outputs.contiguous(memory_format=self.call.dropout_format)
            outputs, state = drop(outputs, layer.drop_rate)
            self._keep(index, random_state=state)
        self._write(layer.channels, outputs)

    def _run_unit(self, index: int, position: int, values: Tensor) -> Tensor:
        call, unit = self.call, self.call.layers[index].units[position]
        parameters = self.parameters[unit.parameters]
        mean, variance = self._statistics(index, position, values)
        keeps_outputs = position == 0 and call.keeps_graph and not call.policy.recompute_bottleneck
        outputs, activations = forward_unit(
            values,
            unit,
            affine(mean, variance, unit.norm.eps, parameters[0], parameters[1]),
            parameters,
            call.compute_dtype,
            self.workspace,
            keep_activations=call.keeps_graph and not call.policy.recompute_activations,
            scratch_outputs=None if keeps_outputs else f"outputs{position + 1}",
        )
        self._keep(index, **{f"activation{position + 1}": activations})
        return outputs

    def _statistics(self, index: int, position: int, values: Tensor) -> tuple[Tensor, Tensor]:
        """The (mean, variance) one norm uses; those the block does not share are kept for the backward pass."""
        unit = self.call.layers[index].units[position]
        if not unit.batch_statistics:
            mean, variance = running_statistics(unit.norm, statistics_dtype(values.dtype))
        elif position == 0:
            width = self.call.layers[index].in_features
            assert self.saved.mean is not None, "taken when the features were written"
            assert self.saved.variance is not None, "taken when the features were written"
            mean, variance = self.saved.mean[:width], self.saved.variance[:width]
        else:
            mean, variance = batch_statistics(values)
        if unit.batch_statistics:
            move_running_statistics(unit.norm, mean, variance, self.count)
        if position == 1 or not unit.batch_statistics:
            self._keep(index, **{f"mean{position + 1}": mean, f"variance{position + 1}": variance})
        return mean, variance

    def _keep(self, index: int, **tensors: Tensor | None) -> None:
        if self.call.keeps_graph:
            self.saved.layers[index].update({name: t for name, t in tensors.items() if t is not None})
