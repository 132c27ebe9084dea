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
def candidates(x: np.ndarray, geometry: np.ndarray, a: int, b: int, out: np.ndarray) -> None:
    """For every output of a plane, the value at position (a, b) of its window; -inf outside the plane."""
    height, width, _, _, sh, sw, ph, pw, dh, dw, oh, ow = geometry
    lowest = x.dtype.type(-np.inf)
    offset = b * dw - pw
    first, last = inside(offset, sw, ow, width)
    for i in range(oh):
        line_out = out[i * ow : (i + 1) * ow]
        row = i * sh - ph + a * dh
        if row < 0 or row >= height:
            for j in range(ow):
                line_out[j] = lowest
            continue
        for j in range(first):
            line_out[j] = lowest
        for j in range(last, ow):
            line_out[j] = lowest
        line = x[row * width + first * sw + offset : (row + 1) * width]
        part = line_out[first:last]
        # Strides that the compiler knows become vectors.
        if sw == 1:
            for j in range(part.size):
                part[j] = line[j]
        elif sw == 2:
            for j in range(part.size):
                part[j] = line[2 * j]
        else:
            for j in range(part.size):
                part[j] = line[sw * j]


@jit
def pool_plane(
    x: np.ndarray, geometry: np.ndarray, best: np.ndarray, position: np.ndarray, room: np.ndarray, better: np.ndarray
) -> None:
    """Maximum and its position in the window for every output of one plane, a position of all windows at a time."""
    _, _, kh, kw, sh, sw, ph, pw, dh, dw, oh, ow = geometry
    for i in range(oh):
        # A window of nothing but -inf has its maximum where it begins.
        start = first_inside(i * sh - ph, dh) * kw
        for j in range(ow):
            best[i * ow + j] = x.dtype.type(-np.inf)
            position[i * ow + j] = np.uint16(start + first_inside(j * sw - pw, dw))
    for place in range(kh * kw):
        candidates(x, geometry, place // kw, place % kw, room)
        here = np.uint16(place)
        for j in range(best.size):
            better[j] = np.uint8((room[j] > best[j]) | (room[j] != room[j]))
        for j in range(best.size):
            value, top = room[j], best[j]  # both read first, for else the choice becomes a branch
            best[j] = value if better[j] else top
        for j in range(best.size):
            position[j] = here if better[j] else position[j]


@jit
def pool_part(t: int, parts: int, args: tuple[Any, ...], scratch: np.ndarray) -> None:
    """Pool part t of the planes; `together` of them make whole bytes of codes."""
    values, geometry, bits, together, pooled, codes, positions, flags = args
    size, outputs = geometry[0] * geometry[1], geometry[10] * geometry[11]
    planes = values.size // size
    blocks = (planes + together - 1) // together
    position = positions[t]
    for block in range(t * blocks // parts, (t + 1) * blocks // parts):
        first, last = block * together, min(planes, (block + 1) * together)
        for plane in range(first, last):
            load(values, plane * size, size, scratch[t, 0])
            x = window(values, plane * size, size, scratch[t, 0])
            best = window(pooled, plane * outputs, outputs, scratch[t, 1])
            at = (plane - first) * outputs
            pool_plane(x, geometry, best, position[at : at + outputs], scratch[t, 2], flags[t])
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
            load(d_out, plane * outputs, outputs, scratch[t, 1])
            d = window(d_out, plane * outputs, outputs, scratch[t, 1])
            into = window(out, plane * size, size, scratch[t, 0])
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
    """Planes whose positions are whole bytes together; room for as many positions, and three planes a thread."""
    outputs = pooling.size[0] * pooling.size[1]
    together = 8 // gcd(8, outputs)
    room = -(-together * outputs // 8) * 8 + SPAN
    positions = np.empty((most_threads(), room), np.uint16)
    # Planes that are computed with as they lie need no room.
    planes = outputs if name in ("float32", "float64") else max(shape[2] * shape[3], outputs)
    return together, positions, np.empty((most_threads(), 3, planes), compute_type(name))


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
        np.empty((most_threads(), pooled.shape[2] * pooled.shape[3]), np.uint8),
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
