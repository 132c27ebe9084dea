"""The forward pass of a chain, in one of two orders, with a record of what the backward pass will need.

In tiles, activations are computed for a part of the batch and dropped. Where a model compresses without recomputing, an
output must not change by a bit: there the plain model's operators run one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pytorch_models.compression import derived_seed
from pytorch_models.kernel_arrays import dense_like, layout_of
from pytorch_models.saving.chain_call import ChainCall
from pytorch_models.saving.chain_saved import CodedValues, SavedChain, SharedCodes
from pytorch_models.saving.masks import TileMasks, write_mask
from pytorch_models.saving.norm import Affine, affine
from pytorch_models.saving.passes import normalise_into
from pytorch_models.saving.statistics import Statistics, normalise_as_module, take_statistics
from pytorch_models.saving.tiles import Workspace, as_images, batch_outermost, laid_out_like, tiles
from pytorch_models.saving.unit_call import Unit
from pytorch_models.saving.units import forward_unit

Parameters = Sequence[Tensor | None]


def run_forward(
    call: ChainCall, inputs: Tensor, shortcut: Tensor | None, shared: SharedCodes | None, parameters: Parameters
) -> tuple[Tensor, SavedChain]:
    """The chain's outputs, with `shortcut` added, and what to keep."""
    forward = (_PlainOrder if call.plain_order else _Tiled)(call, inputs, shared, parameters)
    return forward.run(shortcut), forward.saved


class _Forward:
    def __init__(self, call: ChainCall, inputs: Tensor, shared: SharedCodes | None, parameters: Parameters) -> None:
        self.call, self.inputs, self.shared, self.parameters = call, inputs, shared, parameters
        self.saved = SavedChain(len(call.units))

    def run(self, shortcut: Tensor | None) -> Tensor:
        """The chain's outputs."""
        raise NotImplementedError

    def _keep(self, index: int, values: Tensor, norm: Affine | None) -> TileMasks | None:
        """Keep a unit's input as the call says; returns room for its activation's mask where that is kept too."""
        call, unit = self.call, self.call.units[index]
        if not call.keeps_graph:
            return None
        if not call.coded[index]:
            self.saved.values[index] = values if call.kept[index] else None
            return None
        if norm is None:
            assert self.shared is not None, "codes of the inputs are shared"
            parts = self.shared.parts() if call.needs_values[index] else ()
            self.saved.coded[index] = CodedValues(self.shared.like, parts, None, self.shared.block if parts else None)
            return None
        assert call.codec is not None, "coded by something"
        like = dense_like(values)
        parts = ()
        if call.needs_values[index]:
            parts = call.codec.encode(values, norm.mean, norm.inv_std, derived_seed(call.noise_seed, index + 1))
        masks = None
        if unit.activation.mask_bits:
            masks = TileMasks(values.shape, values.dtype, values.device, None, unit.activation)
        self.saved.coded[index] = CodedValues(like, parts, None if masks is None else masks.bits)
        return masks

    def _set_outputs(self, index: int, unit: Unit, shortcut: Tensor | None) -> None:
        """Whether the last activation's gradient is read off the chain's outputs."""
        tells = unit.activation.by_output and unit.activation.kind is not nn.Identity and not self.call.coded[index]
        self.saved.has_outputs = tells and (shortcut is not None or not self.call.kept[index])

    def _keep_statistics(self, index: int, statistics: Statistics) -> Affine:
        if self.call.keeps_graph:
            self.saved.statistics[index] = statistics
        unit = self.call.units[index]
        weight, bias, *_ = self.parameters[unit.parameters]
        return affine(statistics[0], statistics[1], unit.norm.eps, weight, bias)


class _Tiled(_Forward):
    def __init__(self, call: ChainCall, inputs: Tensor, shared: SharedCodes | None, parameters: Parameters) -> None:
        super().__init__(call, batch_outermost(inputs), shared, parameters)
        self.workspace = Workspace(inputs.device)

    def run(self, shortcut: Tensor | None) -> Tensor:
        call, values = self.call, self.inputs
        for index, unit in enumerate(call.units):
            norm = None
            if unit.norm is not None:
                if call.coded[index] and layout_of(values) is None:
                    values = values.contiguous()
                statistics = take_statistics(unit.norm, unit.batch_statistics, unit.group, values)
                norm = self._keep_statistics(index, statistics)
            masks = self._keep(index, values, norm)
            if unit.convolution is None:
                return self._finish(index, unit, norm, values, shortcut, masks)
            values, _ = forward_unit(
                values,
                unit,
                norm,
                self.parameters[unit.parameters],
                call.compute_dtype,
                self.workspace,
                masks=masks,
                channels_last=call.channels_last and index == 0,
            )
        if shortcut is None:
            return values
        _check_same_shape(shortcut, values)
        return values.add_(shortcut) if shortcut.dtype == values.dtype else values + shortcut

    def _finish(
        self,
        index: int,
        unit: Unit,
        norm: Affine | None,
        values: Tensor,
        shortcut: Tensor | None,
        masks: TileMasks | None,
    ) -> Tensor:
        """activation(norm(values) + shortcut); in place where nobody else holds the values."""
        assert norm is not None, "a step without a convolution has a norm"
        dtype = values.dtype
        if shortcut is not None:
            _check_same_shape(shortcut, values)
            dtype = torch.promote_types(values.dtype, shortcut.dtype)
        ours = index > 0 and self.saved.values[index] is None and dtype == values.dtype
        outputs = values if ours else torch.empty_like(values, dtype=dtype)
        weight = self.parameters[unit.parameters][4]
        for tile in tiles(values.shape, values.dtype, values.device):
            out = normalise_into(as_images(outputs[tile]), as_images(values[tile]), norm)
            if shortcut is not None:
                out.add_(as_images(shortcut[tile]))
            unit.activation.apply_(out, weight)
            if masks is not None:
                write_mask(out, unit.activation, masks.of(tile))
        self._set_outputs(index, unit, shortcut)
        return outputs


class _PlainOrder(_Forward):
    def run(self, shortcut: Tensor | None) -> Tensor:
        values = self.inputs
        for index, unit in enumerate(self.call.units):
            if unit.norm is None:
                self._keep(index, values, None)
            else:
                values = self._activated(index, unit, values, shortcut)
            if unit.convolution is not None:
                values = self._convolved(unit, values)
        if shortcut is None or self.call.units[-1].convolution is None:
            return values
        _check_same_shape(shortcut, values)
        return values + shortcut

    def _activated(self, index: int, unit: Unit, values: Tensor, shortcut: Tensor | None) -> Tensor:
        """activation(norm(values)), of a last step activation(norm(values) + shortcut)."""
        weight, bias, _, _, slopes = self.parameters[unit.parameters]
        outputs, statistics = normalise_as_module(unit.norm, unit.group, values, weight, bias)
        norm = self._keep_statistics(index, statistics)
        if self.call.coded[index] and layout_of(values) is None:
            values = values.contiguous()
        masks = self._keep(index, values, norm)
        if unit.convolution is None:
            self._set_outputs(index, unit, shortcut)
            if shortcut is not None:
                _check_same_shape(shortcut, outputs)
                outputs = outputs + shortcut if unit.activation.kind is nn.Identity else outputs.add_(shortcut)
        unit.activation.apply_(outputs, slopes)
        if masks is not None:
            for tile in tiles(values.shape, values.dtype, values.device):
                write_mask(laid_out_like(values, outputs[tile]), unit.activation, masks.of(tile))
        return outputs

    def _convolved(self, unit: Unit, values: Tensor) -> Tensor:
        dtype = self.call.compute_dtype
        weight, bias = (None if p is None else p.to(dtype) for p in self.parameters[unit.parameters][2:4])
        assert weight is not None, "a convolution has a weight"
        assert unit.convolution is not None, "asked for by its caller"
        return unit.convolution.forward(values.to(dtype), weight, bias)


def _check_same_shape(shortcut: Tensor, values: Tensor) -> None:
    if shortcut.shape != values.shape:
        raise ValueError(f"a shortcut of shape {tuple(shortcut.shape)} cannot be added to {tuple(values.shape)}")
