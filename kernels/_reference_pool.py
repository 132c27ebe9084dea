"""Max pooling in NumPy that keeps the position of each maximum in a few bits, with PyTorch's tie rule."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from kernels import arguments, norm_arguments
from kernels._reference_exact import pack_integers, unpack_integers
from kernels.formats import narrow, widen


def max_pool_positions(
    values: np.ndarray, kernel: Any, stride: Any, padding: Any, dilation: Any, *, dtype: str | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Max pooling of (N, C, H, W), and where in its window each maximum was.

    Of equal values the first in row-major order of the window wins; of NaNs the last, as in PyTorch.

    Returns:
        the pooled values in the dtype of `values`, and the positions, ceil(log2(window)) bits each, at least 1.

    Raises:
        TypeError, ValueError: arguments that do not fit.

    Example:
        >>> pooled, codes = max_pool_positions(np.float32([[[[1, 9], [2, 3]]]]), (2, 2), (2, 2), (0, 0), (1, 1))
        >>> pooled.tolist(), codes.tolist()
        ([[[[9.0]]]], [1])
    """
    where = "max_pool_positions"
    window = norm_arguments.pooling(where, values.shape, kernel, stride, padding, dilation)
    name = arguments.compared(where, values, dtype, None, 1)
    x = widen(values, name)
    best = np.full((*values.shape[:2], *window.size), -np.inf, x.dtype)
    position = np.full(best.shape, -1, np.int32)
    for p, rows, columns in _places(window):
        inside = (rows[:, None] >= 0) & (columns[None, :] >= 0)
        found = x[:, :, np.maximum(rows, 0)[:, None], np.maximum(columns, 0)[None, :]]
        better = inside & ((found > best) | np.isnan(found) | (position < 0))
        best, position = np.where(better, found, best), np.where(better, np.int32(p), position)
    return narrow(best, name).view(values.dtype), pack_integers(position.astype(np.uint16), window.bits)


def _places(window: norm_arguments.Pooling) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """For every position of the window: its number, and the input row and column of each output, -1 outside."""
    for p in range(window.kernel[0] * window.kernel[1]):
        rows, columns = (
            np.arange(window.size[axis]) * window.stride[axis] - window.padding[axis] + step * window.dilation[axis]
            for axis, step in enumerate(divmod(p, window.kernel[1]))
        )
        yield p, _or_outside(rows, window.height), _or_outside(columns, window.width)


def _or_outside(index: np.ndarray, length: int) -> np.ndarray:
    return np.where((index < 0) | (index >= length), -1, index)


def max_pool_gradient(
    d_out: np.ndarray,
    codes: np.ndarray,
    shape: Sequence[int],
    kernel: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    *,
    dtype: str | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """The gradient of max pooling's input, of `shape`: every output's gradient goes to its maximum.

    Gradients that meet are added in float32 (float64 for float64) in row-major order of the outputs, then rounded.
    """
    where = "max_pool_gradient"
    window = norm_arguments.pooling(where, shape, kernel, stride, padding, dilation)
    name = norm_arguments.pool_gradient(where, d_out, codes, shape, window, dtype, out)
    planes = shape[0] * shape[1]
    p = unpack_integers(codes, window.bits, d_out.size).astype(np.int64).reshape(planes, *window.size)
    (sh, sw), (ph, pw), (dh, dw) = window.stride, window.padding, window.dilation
    rows = np.arange(window.size[0])[:, None] * sh - ph + p // window.kernel[1] * dh
    columns = np.arange(window.size[1])[None, :] * sw - pw + p % window.kernel[1] * dw
    d = widen(d_out, name)
    gradient = np.zeros((planes, window.height * window.width), d.dtype)
    np.add.at(gradient, (np.arange(planes)[:, None, None], rows * window.width + columns), d.reshape(p.shape))
    made: np.ndarray = narrow(gradient, name)
    if out is None:
        return made.view(d_out.dtype).reshape(tuple(shape))
    out.reshape(gradient.shape)[...] = made.view(out.dtype)
    return out
