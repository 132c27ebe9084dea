"""The backward pass of a dense block with shared storage: one gradient buffer, layers walked from the last."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pytorch_models.saving.dense_call import BlockCall
from pytorch_models.saving.dense_storage import Bottleneck
from pytorch_models.saving.dropout import drop_gradient
from pytorch_models.saving.masks import TileMasks
from pytorch_models.saving.norm import Affine, affine
from pytorch_models.saving.passes import subtract_terms
from pytorch_models.saving.saved import SavedTensors
from pytorch_models.saving.tiles import empty_channels_last
from pytorch_models.saving.unit_call import Unit
from pytorch_models.saving.units import UnitBackward, forward_unit


class BlockBackward:
    """One backward pass; it changes none of the saved tensors, so it may run twice.

    Args:
        call, saved: as the forward pass left them.
        gradient: of the block's output, (N, C_out, H, W).
        needs: which parameters need a gradient, in the order of `saved.parameters`.
        needs_inputs: whether the block's input needs one.
    """

    def __init__(
        self, call: BlockCall, saved: SavedTensors, gradient: Tensor, needs: Sequence[bool], needs_inputs: bool
    ) -> None:
        self.call, self.saved = call, saved
        self.needs, self.needs_inputs = needs, needs_inputs
        if saved.features is None:
            self.features = self._decoded(gradient)
        else:  # a copy only where the block ran in the plain order
            self.features = saved.features.contiguous(memory_format=torch.channels_last)
        samples, _, height, columns = self.features.shape
        self.count = samples * height * columns
        self.workspace = call.workspace(self.features.shape, self.features.device)
        taken = call.sink.take(gradient)
        if taken is not None:
            self.gradient = taken.contiguous(memory_format=torch.channels_last)
        else:  # a copy: the incoming gradient may be seen by others, and this one is written to
            self.gradient = empty_channels_last(self.features.shape, self.features.dtype, self.features.device)
            self.gradient.copy_(gradient)
        self.parameter_gradients: list[Tensor | None] = [None] * len(saved.parameters)
        if saved.mean is not None:
            # What later layers' norms still owe to each channel's gradient: constant + (z - mean) * slope.
            self.constant = torch.zeros_like(saved.mean)
            self.slope = torch.zeros_like(saved.mean)

    def _decoded(self, gradient: Tensor) -> Tensor:
        """All features from their codes, in a buffer as the forward pass had it."""
        saved, codec = self.saved, self.call.storage.codec
        assert codec is not None, "features without codes are kept as they are"
        assert saved.mean is not None, "codes are of normalised features"
        assert saved.variance is not None, "codes are of normalised features"
        features = empty_channels_last(gradient.shape, self.call.feature_dtype, gradient.device)
        inv_std = torch.rsqrt(saved.variance + self.call.code_eps)
        slices = [layer.channels for layer in self.call.layers] + [slice(0, self.call.layers[0].in_features)]
        for index, channels in enumerate(slices):
            parts = saved.parts(index, "features")
            codec.decode_into(features[:, channels], parts, saved.mean[channels], inv_std[channels])
        return features

    def run(self) -> Tensor | None:
        """Fill `parameter_gradients` and return the gradient of the inputs, or None where not needed."""
        for index in reversed(range(len(self.call.layers))):
            if self.needs_inputs or any(self._needs_up_to(index)):
                self._run_layer(index)
        if not self.needs_inputs:
            return None
        width = self.call.layers[0].in_features
        del self.workspace
        return self._finished_gradient(slice(0, width)).clone(memory_format=torch.channels_last)

    def _needs_up_to(self, index: int) -> Sequence[bool]:
        """Needs of the parameters of layers 0..index."""
        return self.needs[: self.call.layers[index].units[-1].parameters.stop]

    def _finished_gradient(self, channels: slice) -> Tensor:
        gradient = self.gradient[:, channels]
        if self.saved.mean is not None:
            subtract_terms(
                gradient,
                self.features[:, channels],
                self.saved.mean[channels],
                self.constant[channels],
                self.slope[channels],
            )
        return gradient

    def _run_layer(self, index: int) -> None:
        layer, kept = self.call.layers[index], self.saved.layers[index]
        gradient = self._finished_gradient(layer.channels).to(self.call.compute_dtype)
        if layer.drop_rate > 0:
            state = kept["random_state"]
            assert state is not None, "the forward pass drew a mask"
            gradient = drop_gradient(
                gradient.contiguous(memory_format=self.call.dropout_format), layer.drop_rate, state
            )
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        features = self.features[:, : layer.in_features]
        first = layer.units[0]
        first_norm = self._affine(first, 1, index)
        needs_below = self.needs_inputs or (index > 0 and any(self._needs_up_to(index - 1)))
        if len(layer.units) == 2:
            needs_first = needs_below or any(self.needs[first.parameters])
            bottleneck = self._bottleneck(index, first_norm, features)
            below = self._second_unit(layer.units[1], index, gradient, bottleneck, needs_first)
            if below is None:
                return
            gradient = below
        backward = UnitBackward(
            first,
            first_norm,
            self.saved.parameters[first.parameters],
            self.workspace,
            gradient=gradient,
            dtype=gradient.dtype,
            values=features,
            activations=kept.get("activation1"),
            masks=self._masks(index, "mask1", features),
            needs=self.needs[first.parameters],
            needs_values=needs_below,
        )
        target = self.gradient[:, : layer.in_features] if needs_below else None
        self.parameter_gradients[first.parameters] = backward.run(target, accumulate=True)
        if needs_below and first.batch_statistics:
            constant, slope = backward.corrections(self.count)
            self.constant[: layer.in_features] += constant
            self.slope[: layer.in_features] += slope

    def _second_unit(
        self, unit: Unit, index: int, gradient: Tensor, bottleneck: Tensor, needs_values: bool
    ) -> Tensor | None:
        norm = self._affine(unit, 2, index)
        target = None
        if needs_values:
            target = self.workspace.take("d_bottleneck", bottleneck.shape, gradient.dtype)
        backward = UnitBackward(
            unit,
            norm,
            self.saved.parameters[unit.parameters],
            self.workspace,
            gradient=gradient,
            dtype=gradient.dtype,
            values=bottleneck,
            activations=self.saved.layers[index].get("activation2"),
            masks=self._masks(index, "mask2", bottleneck),
            needs=self.needs[unit.parameters],
            needs_values=needs_values,
        )
        self.parameter_gradients[unit.parameters] = backward.run(target, accumulate=False)
        if target is not None and unit.batch_statistics:
            subtract_terms(target, bottleneck, norm.mean, *backward.corrections(self.count))
        return target

    def _masks(self, index: int, name: str, values: Tensor) -> TileMasks | None:
        bits = self.saved.layers[index].get(name)
        return None if bits is None else TileMasks(values.shape, values.dtype, values.device, bits)

    def _bottleneck(self, index: int, norm: Affine, features: Tensor) -> Tensor:
        """The 1x1 convolution's outputs: kept, decoded, or computed again."""
        layer, kept, codec = self.call.layers[index], self.saved.layers[index], self.call.storage.codec
        bottleneck = kept.get("bottleneck")
        if bottleneck is not None:
            return bottleneck
        dtype = self.call.compute_dtype
        if self.call.storage.bottleneck is Bottleneck.CODED:
            assert codec is not None, "coded by something"
            shape = (len(features), layer.bottleneck_features, *features.shape[2:])
            outputs = self.workspace.take("bottleneck", shape, dtype)
            second = self._affine(layer.units[1], 2, index)
            return codec.decode_into(outputs, self.saved.parts(index, "bottleneck"), second.mean, second.inv_std)
        unit = layer.units[0]
        parameters = self.saved.parameters[unit.parameters]
        return forward_unit(features, unit, norm, parameters, dtype, self.workspace, scratch_outputs="bottleneck")[0]

    def _affine(self, unit: Unit, position: int, index: int) -> Affine:
        kept = self.saved.layers[index]
        mean, variance = kept.get(f"mean{position}"), kept.get(f"variance{position}")
        if mean is None or variance is None:
            assert self.saved.mean is not None, "a norm with batch statistics shares the block's"
            assert self.saved.variance is not None, "a norm with batch statistics shares the block's"
            width = self.call.layers[index].in_features
            mean, variance = self.saved.mean[:width], self.saved.variance[:width]
        weight, bias, *_ = self.saved.parameters[unit.parameters]
        return affine(mean, variance, unit.norm.eps, weight, bias)
