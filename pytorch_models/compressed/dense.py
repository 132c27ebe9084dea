"""Tensors of any shape as rows without gaps, in the order of memory, which is what the kernels take."""

from __future__ import annotations

import torch
from torch import Tensor

from pytorch_models.kernel_arrays import DTYPES, DenseLike


def can_be_coded(tensor: Tensor) -> bool:
    """Whether the quantisers know the dtype."""
    return tensor.dtype in DTYPES


def dense(tensor: Tensor) -> Tensor:
    """The tensor itself where its elements lie without gaps (in any order of dimensions), else a contiguous copy."""
    return tensor if _order(tensor) is not None else tensor.contiguous()


def like(tensor: Tensor) -> DenseLike:
    """What it takes to allocate such a tensor; `tensor` as `dense` returns it."""
    order = _order(tensor)
    assert order is not None, "made dense before"
    return DenseLike(tensor.shape, tensor.dtype, tensor.device, order)


def rows(tensor: Tensor, count: int = 1) -> Tensor:
    """The elements in the order of memory, as (count, length): one row, or one a sample where those lie one by one."""
    flat = tensor.detach().as_strided((tensor.numel(),), (1,))
    return flat.view(count, -1) if tensor.numel() else flat.view(count, 0)


def samples_lie_apart(tensor: Tensor) -> bool:
    """Whether the first dimension is the outermost in memory."""
    order = _order(tensor)
    return order is not None and tensor.dim() > 1 and order[0] == 0


def fills_storage(tensor: Tensor) -> bool:
    """Whether a tensor is its whole storage, seen in some order of dimensions."""
    whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return whole and tensor.storage_offset() == 0 and _order(tensor) is not None


def _order(tensor: Tensor) -> tuple[int, ...] | None:
    """Dimensions from the outermost in memory to the innermost; None where there are gaps or overlaps."""
    if tensor.is_contiguous():
        return tuple(range(tensor.dim()))
    strides, sizes = tensor.stride(), tensor.shape
    order = sorted(range(tensor.dim()), key=lambda i: (-strides[i], -sizes[i], i))
    step = 1
    for dimension in reversed(order):
        if sizes[dimension] == 1:
            continue
        if strides[dimension] != step:
            return None
        step *= sizes[dimension]
    return tuple(order)


def nbytes(*tensors: Tensor) -> int:
    """Bytes of all elements."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def gradient_dtype(tensor: Tensor) -> torch.dtype:
    """In which statistics of a gradient are taken."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def like_or_none(tensor: Tensor) -> tuple[int, ...] | None:
    """The order of a tensor's dimensions in memory, or None where there are gaps."""
    return _order(tensor)
