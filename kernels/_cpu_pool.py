"""Max pooling with positions in few bits, and its gradient, in numba."""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd
from typing import Any

import numba
import numpy as np

from kernels import arguments, norm_arguments
from kernels._cpu_codes import SPAN, pack_wide_span, unpack_wide_span
from kernels._cpu_formats import computable, load, store, window
from kernels._cpu_threads import jit, jit_parallel, most_threads, run
from kernels.formats import compute_type


@jit
def inside(offset: int, stride: int, outputs: int, length: int) -> tuple[int, int]:
    """First and last (exclusive) output whose input at offset + output * stride lies in [0, length)."""
    first = max(0, (stride - 1 - offset) // stride)
    last = (length - 1 - offset) // stride + 1 if offset < length else 0
    return first, min(outputs, max(last, first))


@jit
def first_inside(start: int, step: int) -> int:
    """Number of the first position start, start + step, ... that is not negative."""
    return 0 if start >= 0 else (-start + step - 1) // step


@jit
def pool_plane(x: np.ndarray, geometry: np.ndarray, best: np.ndarray, position: np.ndarray) -> None:
    """Maximum and its position in the window for every output of one plane, a row of outputs at a time."""
    height, width, kh, kw, sh, sw, ph, pw, dh, dw, oh, ow = geometry
    lowest = x.dtype.type(-np.inf)
    for i in range(oh):
        tops, places = best[i * ow : (i + 1) * ow], position[i * ow : (i + 1) * ow]
        # A window of nothing but -inf has its maximum where it begins.
        start = first_inside(i * sh - ph, dh) * kw
        for j in range(ow):
            tops[j] = lowest
            places[j] = np.uint16(start + first_inside(j * sw - pw, dw))
        for a in range(kh):
            row = i * sh - ph + a * dh
            if row < 0 or row >= height:
                continue
            line = x[row * width : (row + 1) * width]
            for b in range(kw):
                offset, here = b * dw - pw, np.uint16(a * kw + b)
                first, last = inside(offset, sw, ow, width)
                for j in range(first, last):
                    # Unsigned, for else the compiler has to provide for an index from the end.
                    value = line[np.uint64(j * sw + offset)]
                    better = value > tops[j] or value != value
                    tops[j] = value if better else tops[j]
                    places[j] = here if better else places[j]


@jit
def pool_part(t: int, parts: int, args: tuple[Any, ...], scratch: np.ndarray) -> None:
    """Pool part t of the planes; `together` of them make whole bytes of codes."""
    values, geometry, bits, together, pooled, codes, positions = args
    size, outputs = geometry[0] * geometry[1], geometry[10] * geometry[11]
    planes = values.size // size
    blocks = (planes + together - 1) // together
    position = positions[t]
    for block in range(t * blocks // parts, (t + 1) * blocks // parts):
        first, last = block * together, min(planes, (block + 1) * together)
        for plane in range(first, last):
            load(values, plane * size, size, scratch[2 * t])
            x = window(values, plane * size, size, scratch[2 * t])
            best = window(pooled, plane * outputs, outputs, scratch[2 * t + 1])
            at = (plane - first) * outputs
            pool_plane(x, geometry, best, position[at : at + outputs])
            store(pooled, plane * outputs, outputs, best, False)
        total = (last - first) * outputs
        into = codes[first * outputs * bits // 8 :]
        for at in range(0, total, SPAN):
            pack_wide_span(position[at : at + SPAN], min(SPAN, total - at), bits, into[at * bits // 8 :])


@jit_parallel
def pool_parts(parts: int, args: tuple[Any, ...], scratch: np.ndarray) -> None:
    for t in numba.prange(parts):
        pool_part(np.int64(t), parts, args, scratch)


@jit
def gradient_plane(d: np.ndarray, position: np.ndarray, geometry: np.ndarray, out: np.ndarray) -> None:
    """Add every output's gradient where its maximum was."""
    height, width, _, kw, sh, sw, ph, pw, dh, dw, oh, ow = geometry
    for j in range(out.size):
        out[j] = 0
    for i in range(oh):
        for j in range(ow):
            at = np.int64(position[i * ow + j])
            row = i * sh - ph + at // kw * dh
            column = j * sw - pw + at % kw * dw
            # Codes that are not this pooling's may point outside.
            if 0 <= row < height and 0 <= column < width:
                out[row * width + column] += d[i * ow + j]


@jit
def gradient_part(t: int, parts: int, args: tuple[Any, ...], scratch: np.ndarray) -> None:
    """Gradient of part t of the planes."""
    d_out, geometry, bits, together, out, codes, positions = args
    size, outputs = geometry[0] * geometry[1], geometry[10] * geometry[11]
    planes = out.size // size
    blocks = (planes + together - 1) // together
    position = positions[t]
    for block in range(t * blocks // parts, (t + 1) * blocks // parts):
        first, last = block * together, min(planes, (block + 1) * together)
        total = (last - first) * outputs
        source = codes[first * outputs * bits // 8 :]
        for at in range(0, total, SPAN):
            unpack_wide_span(source[at * bits // 8 :], min(SPAN, total - at), bits, position[at : at + SPAN])
        for plane in range(first, last):
            load(d_out, plane * outputs, outputs, scratch[2 * t + 1])
            d = window(d_out, plane * outputs, outputs, scratch[2 * t + 1])
            into = window(out, plane * size, size, scratch[2 * t])
            at = (plane - first) * outputs
            gradient_plane(d, position[at : at + outputs], geometry, into)
            store(out, plane * size, size, into, False)


@jit_parallel
def gradient_parts(parts: int, args: tuple[Any, ...], scratch: np.ndarray) -> None:
    for t in numba.prange(parts):
        gradient_part(np.int64(t), parts, args, scratch)


def _geometry(shape: Sequence[int], pooling: norm_arguments.Pooling) -> np.ndarray:
    pairs = (pooling.kernel, pooling.stride, pooling.padding, pooling.dilation, pooling.size)
    return np.array([shape[2], shape[3], *(part for pair in pairs for part in pair)], np.int64)


def _scratch(name: str, shape: Sequence[int], pooling: norm_arguments.Pooling) -> tuple[int, np.ndarray, np.ndarray]:
    """Planes whose positions are whole bytes together; room for as many positions; two planes a thread."""
    outputs = pooling.size[0] * pooling.size[1]
    together = 8 // gcd(8, outputs)
    room = -(-together * outputs // 8) * 8 + SPAN
    positions = np.empty((most_threads(), room), np.uint16)
    # Planes that are computed with as they lie need no room.
    room = 1 if name in ("float32", "float64") else max(shape[2] * shape[3], outputs)
    return together, positions, np.empty((2 * most_threads(), room), compute_type(name))


def max_pool_positions(
    values: np.ndarray, kernel: Any, stride: Any, padding: Any, dilation: Any, *, dtype: str | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """As `kernels.reference.max_pool_positions`."""
    where = "max_pool_positions"
    pooling = norm_arguments.pooling(where, values.shape, kernel, stride, padding, dilation)
    name = arguments.compared(where, values, dtype, None, 1)
    pooled = np.empty((*values.shape[:2], *pooling.size), values.dtype)
    codes = np.empty((pooled.size * pooling.bits + 7) // 8, np.uint8)
    together, positions, scratch = _scratch(name, values.shape, pooling)
    args = (
        computable(values.reshape(-1), name),
        _geometry(values.shape, pooling),
        pooling.bits,
        together,
        computable(pooled.reshape(-1), name),
        codes,
        positions,
    )
    run(pool_parts, pool_part, values.size, args, scratch)
    return pooled, codes


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
    """As `kernels.reference.max_pool_gradient`."""
    where = "max_pool_gradient"
    pooling = norm_arguments.pooling(where, shape, kernel, stride, padding, dilation)
    name = norm_arguments.pool_gradient(where, d_out, codes, shape, pooling, dtype, out)
    made = np.empty(tuple(shape), d_out.dtype) if out is None else out
    together, positions, scratch = _scratch(name, shape, pooling)
    args = (
        computable(d_out.reshape(-1), name),
        _geometry(shape, pooling),
        pooling.bits,
        together,
        computable(made.reshape(-1), name),
        codes.reshape(-1),
        positions,
    )
    run(gradient_parts, gradient_part, made.size, args, scratch)
    return made
