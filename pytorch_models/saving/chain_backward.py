"""The backward pass of a chain of units: walked from the last, one gradient buffer at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pytorch_models.kernel_arrays import DenseLike
from pytorch_models.saving.chain_call import ChainCall
from pytorch_models.saving.chain_saved import CodedValues, SavedChain, as_they_are
from pytorch_models.saving.gradient_tiles import FinishedTiles, InDtype, MeasuredTiles
from pytorch_models.saving.masks import TileMasks
from pytorch_models.saving.norm import Affine, affine
from pytorch_models.saving.passes import NormGradient, activate_into, normalise_into
from pytorch_models.saving.pointwise_tail import PointwiseTail, pays, replace_convolution
from pytorch_models.saving.tiles import (
    Workspace,
    as_images,
    batch_outermost,
    empty_in_order_of,
    laid_out_like,
    tiles,
)
from pytorch_models.saving.unit_call import Unit
from pytorch_models.saving.units import ReadInTiles, RebuiltTiles, UnitBackward, forward_unit


class ChainBackward:
    """One backward pass; it changes none of the saved tensors, so it may run twice.

    Args:
        call, saved: as the forward pass left them.
        gradient: of the chain's outputs.
        needs: which parameters need a gradient, in the order of `saved.parameters`.
        needs_inputs, needs_shortcut: whether these need one.

    After `run`, `d_shortcut` is the shortcut's gradient or None, `parameter_gradients` are in the order of `needs`.
    """

    def __init__(
        self,
        call: ChainCall,
        saved: SavedChain,
        gradient: Tensor,
        needs: Sequence[bool],
        needs_inputs: bool,
        needs_shortcut: bool,
    ) -> None:
        self.call, self.saved, self.gradient = call, saved, gradient
        self.needs, self.needs_inputs, self.needs_shortcut = needs, needs_inputs, needs_shortcut
        self.workspace = Workspace(gradient.device)
        self.parameter_gradients: list[Tensor | None] = [None] * len(saved.parameters)
        self.d_shortcut: Tensor | None = None
        self.d_inputs: Tensor | None = None

    def run(self) -> Tensor | None:
        """Walk the units from the last; the gradient of the inputs, or None where not needed."""
        units = self.call.units
        source: ReadInTiles = self.gradient
        tail: PointwiseTail | None = None
        if units[-1].convolution is not None:
            self._pass_to_shortcut(self.gradient)
        for index in reversed(range(len(units))):
            unit = units[index]
            ends_in_a_sum = unit.convolution is None and self.needs_shortcut
            if not (ends_in_a_sum or self._needs_below(index) or any(self.needs[unit.parameters])):
                break
            if tail is not None:  # the unit before the end, whose own gradient of its weight is known already
                finished = self._run_unit(replace_convolution(unit, tail), index, self._values(index), source)
                self._set_weight(unit, tail)
                tail = None
            elif unit.convolution is not None:
                finished = self._run_unit(unit, index, self._values(index), source)
            elif self._tail_is_pointwise(index):
                tail, source = self._run_pointwise_end(unit, index)
                continue
            else:
                finished = self._run_end(unit, index, self._values(index))
            if finished is not None:
                source = finished
        return self.d_inputs

    def _pass_to_shortcut(self, gradient: Tensor) -> None:
        """What the sum hands to the shortcut; where that is the input, the chain's own gradient is added later."""
        if self.needs_shortcut:
            self.d_shortcut = gradient
        if self.call.adds_inputs and self.needs_inputs:
            self.d_inputs = self._empty_inputs().copy_(gradient)

    @property
    def _inputs(self) -> Tensor | DenseLike:
        """The chain's input, or what its codes say of its shape."""
        values, coded = self.saved.values[0], self.saved.coded[0]
        found = values if coded is None else coded.like
        assert found is not None, "a chain keeps its input"
        return found

    def _empty_inputs(self) -> Tensor:
        """An uninitialised tensor like the chain's input."""
        inputs = self._inputs
        return torch.empty_like(inputs) if isinstance(inputs, Tensor) else inputs.empty()

    def _needs_below(self, index: int) -> bool:
        """Whether the input of unit `index` needs a gradient."""
        return self.needs_inputs or any(self.needs[: self.call.units[index].parameters.start])

    def _values(self, index: int) -> Tensor:
        """The input of unit `index`: kept, decoded, or computed again from the unit before."""
        values, coded = self.saved.values[index], self.saved.coded[index]
        if values is not None:
            return values
        if coded is not None:
            return self._decoded(index, coded)
        before = self.call.units[index - 1]
        outputs, _ = forward_unit(
            self._values(index - 1),
            before,
            self._norm(index - 1),
            self.saved.parameters[before.parameters],
            self.call.compute_dtype,
            self.workspace,
            scratch_outputs=f"values{index}",
            channels_last=self.call.channels_last and index == 1,
        )
        return outputs

    def _decoded(self, index: int, coded: CodedValues) -> Tensor:
        if coded.block is not None:
            return coded.block.unpack(coded.parts)
        # Two buffers in turn: a gradient is finished with the input of the unit after the one that asks for it.
        like, name = coded.like, f"decoded{index % 2}"
        values = like.view(self.workspace.take(name, (like.shape.numel(), 1, 1, 1), like.dtype).flatten())
        if not coded.parts:
            return values.zero_()  # for its shape alone: nothing that is wanted depends on it
        codec, norm = self.call.codec, self._norm(index)
        assert codec is not None, "coded by something"
        mean, inv_std = as_they_are(like) if norm is None else (norm.mean, norm.inv_std)
        return codec.decode_into(values, coded.parts, mean, inv_std)

    def _masks(self, index: int) -> TileMasks | None:
        coded = self.saved.coded[index]
        if coded is None or coded.bits is None:
            return None
        like = coded.like
        return TileMasks(like.shape, like.dtype, like.device, coded.bits, self.call.units[index].activation)

    def _norm(self, index: int) -> Affine | None:
        unit, statistics = self.call.units[index], self.saved.statistics[index]
        if unit.norm is None or statistics is None:
            return None
        weight, bias, *_ = self.saved.parameters[unit.parameters]
        return affine(statistics[0], statistics[1], unit.norm.eps, weight, bias)

    def _run_end(self, unit: Unit, index: int, values: Tensor) -> FinishedTiles:
        """Through the activation, the sum and the norm of a step without a convolution."""
        norm, parameters = self._norm(index), self.saved.parameters[unit.parameters]
        assert norm is not None, "a step without a convolution has a norm"
        gradients = NormGradient(norm, unit.activation, parameters[4])
        gradient, masks = laid_out_like(values, self.gradient), self._masks(index)
        adds_inputs = self.call.adds_inputs and self.needs_inputs
        if adds_inputs or self.needs_shortcut:
            masked = empty_in_order_of(values, values.shape, gradient.dtype)
        else:
            masked = self.workspace.take(f"gradient{index % 2}", values.shape, gradient.dtype, values)
        for tile in tiles(values.shape, values.dtype, values.device):
            part = as_images(values[tile])
            scratch = as_images(self.workspace.take("tile", values[tile].shape, values.dtype, values))
            mask = None if masks is None else masks.of(tile)
            if mask is not None:
                activation = scratch  # not looked at
            elif self.saved.outputs is not None:
                activation = as_images(laid_out_like(values, self.saved.outputs[tile]))
            elif unit.activation.by_output:
                activation = activate_into(scratch, part, norm, unit.activation, parameters[4])
            else:
                activation = normalise_into(scratch, part, norm)
            into, given = as_images(masked[tile]), as_images(gradient[tile])
            gradients.mask_into(into, given, activation, part, scratch=scratch, mask=mask)
        self._pass_to_shortcut_masked(masked, adds_inputs)
        self._set_norm(unit, (gradients.d_weight, gradients.d_bias, None, None, gradients.d_activation_weight))
        return self._finished(unit, index, masked, values, norm, gradients, scaled=False)

    def _tail_is_pointwise(self, index: int) -> bool:
        """Whether the end of the chain can do without the outputs of the convolution before it."""
        unit, exact = self.call.units[index], self.call.compute_dtype in (torch.float32, torch.float64)
        if self.call.kept[index] or not unit.batch_statistics or unit.group is not None or not exact:
            return False
        before = self.call.units[index - 1]
        weight = self.saved.parameters[before.parameters][2]
        told = unit.activation.kind is nn.Identity or self.saved.outputs is not None
        positions = self.gradient.numel() // self.gradient.shape[1]
        return told and self.gradient.dtype == self.call.compute_dtype and pays(before.convolution, weight, positions)

    def _run_pointwise_end(self, unit: Unit, index: int) -> tuple[PointwiseTail, Tensor]:
        """As `_run_end`, from the inputs of the convolution before; the gradient of that norm's outputs."""
        norm, before = self._norm(index), self.call.units[index - 1]
        parameters = self.saved.parameters[before.parameters]
        weight = parameters[2]
        assert norm is not None, "an end has a norm"
        assert weight is not None and before.convolution is not None, "checked before"  # noqa: PT018 - one fact
        gradient, outputs = self.gradient, self.saved.outputs
        if outputs is None:
            masked = gradient = batch_outermost(gradient)
        else:
            masked = empty_in_order_of(outputs, outputs.shape, gradient.dtype)
            gradient = laid_out_like(outputs, gradient)
        inputs = RebuiltTiles(
            self._values(index - 1), before, self._norm(index - 1), parameters, self.call.compute_dtype, self.workspace
        )
        tail = PointwiseTail(norm, before.convolution, weight.to(self.call.compute_dtype))
        tail.gather(masked, gradient, outputs, unit.activation, inputs)
        self._pass_to_shortcut_masked(masked, self.call.adds_inputs and self.needs_inputs)
        d_weight, d_bias = tail.finish()
        self._set_norm(unit, (d_weight, d_bias, None, None, None))
        return tail, masked

    def _set_weight(self, unit: Unit, tail: PointwiseTail) -> None:
        start = unit.parameters.start
        for position, gradient in ((start + 2, tail.d_convolution), (start + 3, torch.zeros_like(tail.norm.mean))):
            parameter = self.saved.parameters[position]
            if self.needs[position] and parameter is not None:
                self.parameter_gradients[position] = gradient.to(parameter.dtype)

    def _pass_to_shortcut_masked(self, masked: Tensor, adds_inputs: bool) -> None:
        if self.needs_shortcut:
            self.d_shortcut = masked
        if adds_inputs:
            self.d_inputs = masked.to(self._inputs.dtype)

    def _run_unit(self, unit: Unit, index: int, values: Tensor, source: ReadInTiles) -> FinishedTiles | None:
        norm, needs_below = self._norm(index), self._needs_below(index)
        block: Any = getattr(self.saved.coded[index], "block", None)
        measured = source if block is None else MeasuredTiles(source)
        backward = UnitBackward(
            unit,
            norm,
            self.saved.parameters[unit.parameters],
            self.workspace,
            gradient=InDtype(measured, self.call.compute_dtype),
            dtype=self.call.compute_dtype,
            values=values,
            activations=None,
            masks=self._masks(index),
            needs=self.needs[unit.parameters],
            needs_values=needs_below,
        )
        if norm is None:
            adds = self.d_inputs is not None
            if self.needs_inputs and self.d_inputs is None:
                self.d_inputs = self._empty_inputs()
            self._set(unit, backward.run(self.d_inputs, accumulate=adds))
            if isinstance(measured, MeasuredTiles):
                block.learn(measured, unit.convolution, self.saved.parameters[unit.parameters][2])
            return None
        masked = None
        if needs_below:
            masked = self.workspace.take(f"gradient{index % 2}", values.shape, self.call.compute_dtype, values)
        self._set(unit, backward.run(masked, accumulate=False))
        if masked is None:
            return None
        return self._finished(unit, index, masked, values, norm, backward, scaled=True)

    def _finished(
        self, unit: Unit, index: int, masked: Tensor, values: Tensor, norm: Affine,
        gradients: NormGradient | UnitBackward, *, scaled: bool,
    ) -> FinishedTiles:  # fmt: skip
        terms = None
        statistics = self.saved.statistics[index]
        assert statistics is not None, "a norm has them"
        if unit.batch_statistics:
            count = values.numel() // values.shape[1] if statistics[2] is None else statistics[2]
            terms = gradients.corrections(count, unit.group)
        dtype = self.call.compute_dtype
        finished = FinishedTiles(masked, values, norm, terms, scaled=scaled, dtype=dtype, workspace=self.workspace)
        if index == 0 and self.needs_inputs:
            self._finish_inputs(finished)
        return finished

    def _finish_inputs(self, finished: FinishedTiles) -> None:
        """The chain begins with a norm: its input's gradient is the chain's."""
        adds = self.d_inputs is not None
        if self.d_inputs is None:
            self.d_inputs = self._empty_inputs()
        for tile in tiles(self.d_inputs.shape, self.d_inputs.dtype, self.d_inputs.device):
            _ = self.d_inputs[tile].add_(finished[tile]) if adds else self.d_inputs[tile].copy_(finished[tile])

    def _set_norm(self, unit: Unit, gradients: Sequence[Tensor | None]) -> None:
        pairs = zip(gradients, self.saved.parameters[unit.parameters], strict=True)
        self._set(unit, [None if g is None or p is None else g.to(p.dtype) for g, p in pairs])

    def _set(self, unit: Unit, gradients: Sequence[Tensor | None]) -> None:
        needs = self.needs[unit.parameters]
        self.parameter_gradients[unit.parameters] = [
            gradient if needed else None for gradient, needed in zip(gradients, needs, strict=True)
        ]
