"""Gradients that are made when a part of the batch is asked for: the terms of a norm are added tile by tile."""

from __future__ import annotations

import torch
from torch import Tensor

from pytorch_models.saving.norm import Affine
from pytorch_models.saving.passes import finish_into
from pytorch_models.saving.tiles import Workspace, as_images
from pytorch_models.saving.units import ReadInTiles


class FinishedTiles:
    """The gradient of a norm's input, finished when a tile of it is asked for."""

    def __init__(
        self,
        masked: Tensor,
        values: Tensor,
        norm: Affine,
        terms: tuple[Tensor, Tensor] | None,
        dtype: torch.dtype,
        workspace: Workspace,
    ) -> None:
        self.masked, self.values, self.norm, self.terms = masked, values, norm, terms
        self.dtype, self.workspace = dtype, workspace

    def __getitem__(self, tile: slice, /) -> Tensor:
        values = self.values[tile]
        return self.write(self.workspace.take("finished", values.shape, self.dtype, values), tile)

    def write(self, out: Tensor, tile: slice) -> Tensor:
        """This tile of the gradient in `out`."""
        masked, values = as_images(self.masked[tile]), as_images(self.values[tile])
        finish_into(as_images(out), masked, values, self.norm, self.terms)
        return out


class InDtype:
    """Tiles of a gradient in the dtype the convolutions compute in."""

    def __init__(self, source: ReadInTiles, dtype: torch.dtype) -> None:
        self.source, self.dtype = source, dtype

    def __getitem__(self, tile: slice, /) -> Tensor:
        return self.source[tile].to(self.dtype)
