"""Tensors that the zoo's own Functions keep are marked, so that hooks which pack saved tensors skip them."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

_MARK = "_kept_by_the_zoo"


def mark_own(tensors: Iterable[Tensor | None]) -> None:
    """Mark what a Function of the zoo is about to save: it is as small as it should be, or has to be exact."""
    for tensor in tensors:
        if tensor is not None:
            setattr(tensor, _MARK, True)


def is_own(tensor: Tensor) -> bool:
    """Whether `mark_own` was told of it."""
    return getattr(tensor, _MARK, False)
