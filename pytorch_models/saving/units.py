"""norm, ReLU, convolution, forward and backward, in tiles of the batch: the arithmetic of the fused blocks.

A tile of activations is rebuilt, used and overwritten while it is still in a CPU's cache; no more than one tile of
them exists at a time unless they are to be kept.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pytorch_models.saving.dense_call import Unit
from pytorch_models.saving.norm import Affine
from pytorch_models.saving.passes import NormGradient, TileMasks, activate_into, rebuild_into
from pytorch_models.saving.tiles import Workspace, empty_channels_last, laid_out_like, tiles

Parameters = Sequence[Tensor | None]  # norm weight, norm bias, convolution weight, convolution bias


def forward_unit(
    values: Tensor,
    unit: Unit,
    norm: Affine,
    parameters: Parameters,
    dtype: torch.dtype,
    workspace: Workspace,
    *,
    keep_activations: bool = False,
    masks: TileMasks | None = None,
    scratch_outputs: str | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Convolve relu(norm(values)) tile by tile.

    With `scratch_outputs` the outputs may lie in the workspace, under that name; `masks` are written where given.

    Returns:
        The convolution's outputs in `dtype`, and the activations if `keep_activations`, else None.
    """
    weight, bias = (None if p is None else p.to(dtype) for p in parameters[2:])
    assert weight is not None, "a convolution has a weight"
    slices = tiles(values.shape, values.dtype, values.device)
    if keep_activations:
        scratch = empty_channels_last(values.shape, dtype, values.device)
    else:
        scratch = workspace.take("tile", (slices[0].stop, *values.shape[1:]), dtype)
    outputs: Tensor | None = None
    for tile in slices:
        activation = scratch[tile] if keep_activations else scratch[: tile.stop - tile.start]
        activate_into(activation, values[tile], norm, None if masks is None else masks.of(tile))
        convolved = unit.convolution.forward(activation, weight, bias)
        if len(slices) == 1:
            outputs = convolved
            break
        if outputs is None:
            shape = (len(values), *convolved.shape[1:])
            if scratch_outputs is None:
                outputs = empty_channels_last(shape, convolved.dtype, values.device)
            else:
                outputs = workspace.take(scratch_outputs, shape, convolved.dtype)
        outputs[tile] = convolved
    assert outputs is not None, "a batch has at least one tile"
    return outputs, scratch if keep_activations else None


class UnitBackward:
    """Gradients of one unit.

    Args:
        workspace: scratch shared by the layers of a block.
        gradient: of the convolution's outputs.
        values: the norm's input, (N, C, H, W).
        activations: relu(norm(values)) if the forward pass kept it, else None to rebuild it.
        masks: where the activations were positive, for values that come from codes; None = the values tell.
        needs: which of the four parameters need a gradient.
        needs_values: whether `values` needs one.
    """

    def __init__(
        self,
        unit: Unit,
        norm: Affine,
        parameters: Parameters,
        workspace: Workspace,
        *,
        gradient: Tensor,
        values: Tensor,
        activations: Tensor | None,
        masks: TileMasks | None,
        needs: Sequence[bool],
        needs_values: bool,
    ) -> None:
        self.unit, self.norm, self.parameters, self.workspace = unit, norm, parameters, workspace
        self.gradient, self.values, self.activations, self.masks = gradient, values, activations, masks
        self.needs, self.needs_values = needs, needs_values
        self.norm_gradient = NormGradient(norm)

    def run(self, target: Tensor | None, *, accumulate: bool) -> tuple[Tensor | None, ...]:
        """Write (or add) scale * d(norm output) into `target`, tile by tile; return the parameters' gradients.

        With batch statistics `target` still lacks `norm_gradient.corrections`.
        """
        dtype = self.gradient.dtype
        weight = self.parameters[2]
        assert weight is not None, "a convolution has a weight"
        weight = weight.to(dtype)
        needs_activations = self.needs_values or self.needs[0] or self.needs[1]
        totals: list[Tensor | None] = [None, None]
        slices = tiles(self.values.shape, self.values.dtype, self.values.device)
        self.scratch = self.workspace.take("tile", (slices[0].stop, *self.values.shape[1:]), dtype)
        for tile in slices:
            mask = None if self.masks is None else self.masks.of(tile)
            activation = self._activation(tile, mask)
            d_activation, *d_parameters = self.unit.convolution.backward(
                self.gradient[tile], activation, weight, needs=(needs_activations, self.needs[2], self.needs[3])
            )
            for position, part in enumerate(d_parameters):
                totals[position] = _add(totals[position], part, self.norm.mean.dtype)
            if d_activation is not None:
                values, into = self.values[tile], None if target is None else target[tile]
                scratch = self.scratch[: tile.stop - tile.start]
                d_activation = laid_out_like(values, d_activation)
                self.norm_gradient.add(
                    d_activation, activation, values, into, scratch=scratch, accumulate=accumulate, mask=mask
                )
        gradients = (self.norm_gradient.d_weight, self.norm_gradient.d_bias, *totals)
        return tuple(
            None if gradient is None or not needed or parameter is None else gradient.to(parameter.dtype)
            for gradient, needed, parameter in zip(gradients, self.needs, self.parameters, strict=True)
        )

    def _activation(self, tile: slice, mask: Tensor | None) -> Tensor:
        if self.activations is not None:
            return self.activations[tile]
        scratch = self.scratch[: tile.stop - tile.start]
        if mask is not None:
            return rebuild_into(scratch, self.values[tile], self.norm, mask)
        return activate_into(scratch, self.values[tile], self.norm)


def _add(total: Tensor | None, part: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    if part is None or total is None:
        return None if part is None else part.to(dtype)
    return total.add_(part)
