"""Arrays of channels, (rows, C) or (N, C, P), as the CUDA kernels take them."""

from __future__ import annotations

from typing import Any

from kernels import checks
from kernels._cuda_group import i32, i64
from kernels.norm_arguments import Rows


def number(activation: str) -> Any:
    """An activation as the kernels take it."""
    return i32(checks.ACTIVATIONS.index(activation))


def last(array: Any) -> bool:
    """Whether channels are the last dimension."""
    return len(array.shape) == 2


def stride_of(where: str, array: Any) -> Any:
    """Elements from one row or sample to the next."""
    stride, rest = divmod(array.strides[0], array.itemsize)
    if rest:
        raise ValueError(f"{where}: rows lie {array.strides[0]} bytes apart, which is no multiple of {array.itemsize}")
    return i64(stride)


def shape_of(rows: Rows) -> list[Any]:
    return [i64(rows.outer), i64(rows.channels), i64(rows.inner)]
