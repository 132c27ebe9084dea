"""Gradients that are made when a part of the batch is asked for: the terms of a norm are added tile by tile."""

from __future__ import annotations

import torch
from torch import Tensor

from pytorch_models.saving.norm import Affine
from pytorch_models.saving.passes import finish_into, subtract_terms
from pytorch_models.saving.tiles import Workspace, as_images
from pytorch_models.saving.units import ReadInTiles


class FinishedTiles:
    """The gradient of a norm's input, finished when a tile of it is asked for, which is once.

    Args:
        gradient: of the norm's output; or, `scaled`, already times the norm's scale, and then it is finished in place.
        terms: `NormGradient.corrections`, or None for a norm that does not use the batch's statistics.
        dtype: of tiles that are not finished in place.
    """

    def __init__(
        self,
        gradient: Tensor,
        values: Tensor,
        norm: Affine,
        terms: tuple[Tensor, Tensor] | None,
        *,
        scaled: bool,
        dtype: torch.dtype,
        workspace: Workspace,
    ) -> None:
        self.gradient, self.values, self.norm, self.terms, self.scaled = gradient, values, norm, terms, scaled
        self.dtype, self.workspace = dtype, workspace

    def __getitem__(self, tile: slice, /) -> Tensor:
        values, part = self.values[tile], self.gradient[tile]
        if not self.scaled:
            out = self.workspace.take("finished", values.shape, self.dtype, values)
            finish_into(as_images(out), as_images(part), as_images(values), self.norm, self.terms)
            return out
        if self.terms is not None:
            subtract_terms(as_images(part), as_images(values), self.norm.mean, *self.terms)
        return part


class InDtype:
    """Tiles of a gradient in the dtype the convolutions compute in."""

    def __init__(self, source: ReadInTiles, dtype: torch.dtype) -> None:
        self.source, self.dtype = source, dtype

    def __getitem__(self, tile: slice, /) -> Tensor:
        return self.source[tile].to(self.dtype)


class MeasuredTiles:
    """Tiles of a gradient, asked for in order, with the squared norm of each sample on the side."""

    def __init__(self, source: ReadInTiles) -> None:
        self.source, self.shape = source, torch.Size()
        self._squares: list[Tensor] = []

    def __getitem__(self, tile: slice, /) -> Tensor:
        part = self.source[tile]
        self.shape = part.shape
        self._squares.append(torch.linalg.vector_norm(part.flatten(1).float(), dim=1).square())
        return part

    def squares(self) -> Tensor:
        """(N,), when all tiles were asked for."""
        return torch.cat(self._squares)
