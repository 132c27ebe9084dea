"""norm, activation, convolution, forward and backward, in tiles of the batch: the arithmetic of the fused blocks.

A tile of activations is rebuilt, used and overwritten while it is still in a CPU's cache; no more than one tile of
them exists at a time unless they are to be kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from pytorch_models.channels import statistics_dtype
from pytorch_models.saving.masks import TileMasks
from pytorch_models.saving.norm import Affine
from pytorch_models.saving.passes import NormGradient, activate_into, normalise_into, rebuild_into
from pytorch_models.saving.tiles import Workspace, as_images, empty_in_order_of, laid_out_like, tiles
from pytorch_models.saving.unit_call import Unit

Parameters = Sequence[Tensor | None]  # in the order of unit_call.UNIT_PARAMETERS


class ReadInTiles(Protocol):
    """A tensor, or what gives a tensor's parts of the batch when they are asked for; each is asked for once."""

    def __getitem__(self, tile: slice, /) -> Tensor:
        """(n, C, ...) of this part of the batch."""
        ...


def forward_unit(
    values: Tensor,
    unit: Unit,
    norm: Affine | None,
    parameters: Parameters,
    dtype: torch.dtype,
    workspace: Workspace,
    *,
    keep_activations: bool = False,
    masks: TileMasks | None = None,
    scratch_outputs: str | None = None,
    channels_last: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Convolve activation(norm(values)) tile by tile; the values themselves where there is no norm.

    `masks` are written where given. With `scratch_outputs` the outputs may lie in the workspace, under that name; with
    `channels_last` the weight is laid out so, which makes the outputs so.

    Returns:
        The convolution's outputs in `dtype`, and the activations if `keep_activations`, else None.
    """
    weight, bias = (None if p is None else p.to(dtype) for p in parameters[2:4])
    assert weight is not None, "a convolution has a weight"
    assert unit.convolution is not None, "asked for by its caller"
    if channels_last and weight.dim() == 4:
        weight = weight.contiguous(memory_format=torch.channels_last)
    # Without a norm nothing is rebuilt: there is no scratch to keep small.
    slices = [slice(0, len(values))] if norm is None else tiles(values.shape, values.dtype, values.device)
    rebuilt = RebuiltTiles(values, unit, norm, parameters, dtype, workspace)
    kept = empty_in_order_of(values, values.shape, dtype) if keep_activations else None
    outputs: Tensor | None = None
    for tile in slices:
        activation = rebuilt.activation(
            tile, None if kept is None else kept[tile], write=None if masks is None else masks.of(tile)
        )
        convolved = unit.convolution.forward(activation, weight, bias)
        if len(slices) == 1:
            outputs = convolved
            break
        if outputs is None:
            shape = (len(values), *convolved.shape[1:])
            if scratch_outputs is None:
                outputs = empty_in_order_of(convolved, shape, convolved.dtype)
            else:
                outputs = workspace.take(scratch_outputs, shape, convolved.dtype, convolved)
        outputs[tile] = convolved
    assert outputs is not None, "a batch has at least one tile"
    return outputs, kept


class RebuiltTiles:
    """Activations of one unit, a tile at a time, in scratch of the workspace."""

    def __init__(
        self,
        values: Tensor,
        unit: Unit,
        norm: Affine | None,
        parameters: Parameters,
        dtype: torch.dtype,
        workspace: Workspace,
    ) -> None:
        self.values, self.unit, self.norm, self.dtype = values, unit, norm, dtype
        self.weight = parameters[4]
        self.workspace = workspace

    def scratch(self, tile: slice) -> Tensor:
        """A tile of uninitialised values, the same memory every time."""
        values = self.values[tile]
        return self.workspace.take("tile", values.shape, self.dtype, values)

    def activation(
        self, tile: slice, out: Tensor | None = None, *, write: Tensor | None = None, read: Tensor | None = None
    ) -> Tensor:
        """activation(norm(values)) in `out` or in scratch; the values themselves where there is no norm.

        Args:
            write: where to note the activations' mask.
            read: their mask, where the values come from codes.
        """
        values = self.values[tile]
        if self.norm is None:
            return values.to(self.dtype)
        out = self.scratch(tile) if out is None else out
        images, given = as_images(out), as_images(values)
        if read is not None:
            rebuild_into(images, given, self.norm, read, self.unit.activation)
        else:
            activate_into(images, given, self.norm, self.unit.activation, self.weight, write)
        return out

    def pre_activation(self, tile: slice) -> Tensor:
        """norm(values) in scratch."""
        assert self.norm is not None, "asked for by its caller"
        out = self.scratch(tile)
        normalise_into(as_images(out), as_images(self.values[tile]), self.norm)
        return out


class UnitBackward:
    """Gradients of one unit.

    Args:
        workspace: scratch shared by the layers of a block.
        gradient: of the convolution's outputs.
        values: the norm's input, (N, C, ...).
        activations: activation(norm(values)) if the forward pass kept it, else None to rebuild it.
        masks: of the activations, for values that come from codes; None = the values tell.
        needs: which of the parameters need a gradient.
        needs_values: whether `values` needs one.
    """

    def __init__(
        self,
        unit: Unit,
        norm: Affine | None,
        parameters: Parameters,
        workspace: Workspace,
        *,
        gradient: ReadInTiles,
        dtype: torch.dtype,
        values: Tensor,
        activations: Tensor | None,
        masks: TileMasks | None = None,
        needs: Sequence[bool],
        needs_values: bool,
    ) -> None:
        self.unit, self.parameters, self.workspace = unit, parameters, workspace
        self.gradient, self.values, self.activations, self.dtype = gradient, values, activations, dtype
        self.masks, self.needs, self.needs_values = masks, needs, needs_values
        self.norm_gradient = None if norm is None else NormGradient(norm, unit.activation, parameters[4])
        self.rebuilt = RebuiltTiles(values, unit, norm, parameters, dtype, workspace)

    def run(self, target: Tensor | None, *, accumulate: bool) -> tuple[Tensor | None, ...]:
        """Write (or add) the values' gradient into `target`, tile by tile; return the parameters' gradients.

        Where there is a norm, `target` gets scale * d(norm output), which with batch statistics still lacks
        `norm_gradient.corrections`.
        """
        weight = self.parameters[2]
        assert weight is not None, "a convolution has a weight"
        assert self.unit.convolution is not None, "asked for by its caller"
        weight = weight.to(self.dtype)
        needs_activations = self.needs_values or any(self.needs[i] for i in (0, 1, 4))
        totals: list[Tensor | None] = [None, None]
        for tile in tiles(self.values.shape, self.values.dtype, self.values.device):
            mask = None if self.masks is None else self.masks.of(tile)
            kept = self.activations
            activation = self.rebuilt.activation(tile, read=mask) if kept is None else kept[tile]
            d_activation, *d_parameters = self.unit.convolution.backward(
                self.gradient[tile], activation, weight, needs=(needs_activations, self.needs[2], self.needs[3])
            )
            for position, part in enumerate(d_parameters):
                totals[position] = _add(totals[position], part, statistics_dtype(self.dtype))
            if d_activation is not None:
                d_activation = laid_out_like(self.values[tile], d_activation)
                into = None if target is None else target[tile]
                self._through_norm(tile, activation, d_activation, into, mask, accumulate=accumulate)
        return self._in_their_dtypes(totals)

    def corrections(self, count: int | Tensor, group: Any = None) -> tuple[Tensor, Tensor]:
        """See `NormGradient.corrections`; for a unit with a norm, after `run`."""
        assert self.norm_gradient is not None, "asked for by its caller"
        return self.norm_gradient.corrections(count, group)

    def _through_norm(
        self,
        tile: slice,
        activation: Tensor,
        gradient: Tensor,
        into: Tensor | None,
        mask: Tensor | None,
        *,
        accumulate: bool,
    ) -> None:
        if self.norm_gradient is None:
            if into is not None:
                _ = into.add_(gradient) if accumulate else into.copy_(gradient)
            return
        if mask is None and not self.unit.activation.by_output:
            activation = self.rebuilt.pre_activation(tile)
        values, gradient, activation = as_images(self.values[tile]), as_images(gradient), as_images(activation)
        target = None if into is None else as_images(into)
        scratch = as_images(self.rebuilt.scratch(tile))
        self.norm_gradient.add(gradient, activation, values, target, scratch=scratch, accumulate=accumulate, mask=mask)

    def _in_their_dtypes(self, totals: list[Tensor | None]) -> tuple[Tensor | None, ...]:
        norm = self.norm_gradient
        of_norm = (None, None) if norm is None else (norm.d_weight, norm.d_bias)
        gradients = (*of_norm, *totals, None if norm is None else norm.d_activation_weight)
        return tuple(
            None if gradient is None or not needed or parameter is None else gradient.to(parameter.dtype)
            for gradient, needed, parameter in zip(gradients, self.needs, self.parameters, strict=True)
        )


def _add(total: Tensor | None, part: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    if part is None or total is None:
        return None if part is None else part.to(dtype)
    return total.add_(part)
