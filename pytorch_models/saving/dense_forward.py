"""The forward pass of a dense block, in one of two orders, with a record of what the backward pass will need.

In the shared buffer nothing is concatenated. Where a block compresses without recomputing, an output must not change by
a bit: there layers run in the plain block's order, by the very operators that autograd would record.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from pytorch_models.saving.activation import RELU
from pytorch_models.saving.dense_call import BlockCall
from pytorch_models.saving.dense_record import ForwardRecord
from pytorch_models.saving.dense_storage import Bottleneck
from pytorch_models.saving.dropout import drop
from pytorch_models.saving.masks import TileMasks, write_mask
from pytorch_models.saving.norm import affine, move_running_statistics
from pytorch_models.saving.saved import SavedTensors
from pytorch_models.saving.tiles import empty_channels_last, tiles
from pytorch_models.saving.unit_call import autocast_to
from pytorch_models.saving.units import forward_unit

Parameters = Sequence[Tensor | None]


def run_in_shared_buffer(call: BlockCall, inputs: Tensor, parameters: Parameters) -> tuple[Tensor, SavedTensors]:
    """Fill the feature buffer layer by layer; returns it, (N, C_out, H, W) in channels_last, and what to keep."""
    forward = _SharedBuffer(call, inputs, parameters)
    for index in range(len(call.layers)):
        forward.run_layer(index)
    return forward.features, forward.record.saved


class _SharedBuffer:
    def __init__(self, call: BlockCall, inputs: Tensor, parameters: Parameters) -> None:
        self.call, self.parameters = call, parameters
        self.record = ForwardRecord(call, inputs.shape, inputs.device)
        self.workspace = call.workspace(inputs.shape, inputs.device)
        samples, width, height, columns = inputs.shape
        shape = (samples, call.out_features, height, columns)
        self.features = empty_channels_last(shape, call.feature_dtype, inputs.device)
        self.count = samples * height * columns
        self._write(len(call.layers), slice(0, width), inputs)

    def _write(self, index: int, channels: slice, values: Tensor) -> None:
        self.record.features_written(index, channels, values, self.features[:, channels].copy_(values))

    def run_layer(self, index: int) -> None:
        """Compute one layer's new features from the features before it, and write them into their slice."""
        layer = self.call.layers[index]
        outputs = self._run_unit(index, 0, self.features[:, : layer.in_features])
        if len(layer.units) == 2:
            self.record.bottleneck_made(index, outputs)
            outputs = self._run_unit(index, 1, outputs)
        if layer.drop_rate > 0:
            outputs = outputs.contiguous(memory_format=self.call.dropout_format)
            outputs, state = drop(outputs, layer.drop_rate)
            self.record.keep(index, random_state=state)
        self._write(index, layer.channels, outputs)

    def _run_unit(self, index: int, position: int, values: Tensor) -> Tensor:
        call, unit = self.call, self.call.layers[index].units[position]
        parameters = self.parameters[unit.parameters]
        mean, variance = self.record.statistics(index, position, values)
        if unit.batch_statistics:
            move_running_statistics(unit.norm, mean, variance, self.count)
        keeps_outputs = position == 0 and call.keeps_graph and call.storage.bottleneck is Bottleneck.KEPT
        outputs, activations = forward_unit(
            values,
            unit,
            affine(mean, variance, unit.norm.eps, parameters[0], parameters[1]),
            parameters,
            call.compute_dtype,
            self.workspace,
            keep_activations=call.keeps_graph and call.storage.activations_kept,
            masks=self.record.masks(index, position, values.shape, values.device),
            scratch_outputs=None if keeps_outputs else f"outputs{position + 1}",
        )
        self.record.keep(index, **{f"activation{position + 1}": activations})
        return outputs


def run_in_plain_order(call: BlockCall, inputs: Tensor, parameters: Parameters) -> tuple[Tensor, SavedTensors]:
    """The plain block's output, to the bit, in its memory format, and what to keep."""
    forward = _PlainOrder(call, inputs, parameters)
    features = inputs
    for index in range(len(call.layers)):
        features = torch.cat([features, forward.new_features(index, features)], 1)
    return features, forward.record.saved


class _PlainOrder:
    def __init__(self, call: BlockCall, inputs: Tensor, parameters: Parameters) -> None:
        self.call, self.parameters = call, parameters
        with autocast_to(inputs.device, None):
            self.record = ForwardRecord(call, inputs.shape, inputs.device)
        self._features_made(len(call.layers), slice(0, inputs.shape[1]), inputs)

    def new_features(self, index: int, features: Tensor) -> Tensor:
        """What one layer adds, (N, growth_rate, H, W)."""
        layer = self.call.layers[index]
        new = self._convolved(index, 0, features)
        if len(layer.units) == 2:
            with autocast_to(new.device, None):
                self.record.bottleneck_made(index, new.contiguous(memory_format=torch.channels_last))
            new = self._convolved(index, 1, new)
        if layer.drop_rate > 0:
            new, state = drop(new, layer.drop_rate)
            self.record.keep(index, random_state=state)
        self._features_made(index, layer.channels, new)
        return new

    def _features_made(self, index: int, channels: slice, values: Tensor) -> None:
        with autocast_to(values.device, None):
            values = values.contiguous(memory_format=torch.channels_last)
            self.record.features_written(index, channels, values, values)

    def _convolved(self, index: int, position: int, values: Tensor) -> Tensor:
        unit = self.call.layers[index].units[position]
        _, _, weight, bias, _ = self.parameters[unit.parameters]
        assert weight is not None, "a convolution has a weight"
        # Autocast would remember a cast made here, where no gradient is recorded, and use it again where one is.
        weight = weight.detach().to(self.call.compute_dtype)
        if not unit.batch_statistics:
            self.record.statistics(index, position, values)
        activations = F.relu(unit.norm(values), inplace=True)
        masks = self.record.masks(index, position, values.shape, values.device)
        if masks is not None:
            self._keep_masks(masks, activations, position)
        geometry = unit.convolution
        assert geometry is not None, "a dense layer's units have one"
        return F.conv2d(
            activations, weight, bias, geometry.stride, geometry.padding, geometry.dilation, geometry.groups
        )

    def _keep_masks(self, masks: TileMasks, activations: Tensor, position: int) -> None:
        for tile in tiles(activations.shape, self.call.dtype_of_unit(position), activations.device):
            write_mask(activations[tile].contiguous(memory_format=torch.channels_last), RELU, masks.of(tile))
