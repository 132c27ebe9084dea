"""How a block takes over the gradient of its output from the one module that reads it, instead of copying it.

Autograd may show a gradient to others, so a block that accumulates into it would have to copy it first: the largest
tensor of a backward pass would exist twice. Where a block and its only reader belong to one model and nobody else can
see what passes between them, the reader leaves the gradient here and gives autograd a placeholder of zeros that takes
no memory.
"""

from __future__ import annotations

import torch
from torch import Tensor


class GradientSink:
    """Between one call of a block and one call of its reader."""

    def __init__(self) -> None:
        self._left: Tensor | None = None
        self._placeholder: Tensor | None = None

    def leave(self, gradient: Tensor) -> Tensor:
        """Hand a gradient over; returns what to give to autograd in its place."""
        self._left = gradient
        self._placeholder = torch.zeros((), dtype=gradient.dtype, device=gradient.device).expand_as(gradient)
        return self._placeholder

    def take(self, given: Tensor) -> Tensor | None:
        """The gradient left here, now the caller's own; None if there is none.

        Args:
            given: what autograd gave; added unless it is the placeholder.
        """
        left, placeholder = self._left, self._placeholder
        self._left = self._placeholder = None
        if left is None or placeholder is None:
            return None
        is_placeholder = given.untyped_storage()._cdata == placeholder.untyped_storage()._cdata
        return left if is_placeholder else left.add_(given)
