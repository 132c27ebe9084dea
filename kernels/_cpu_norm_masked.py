"""The gradient of normalisation by a kept mask, with values as they are or from codes, in numba."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from kernels import norm_arguments
from kernels._cpu_codes import SPAN, unpack_span
from kernels._cpu_formats import bf16_value, load, multiply_add, store, window
from kernels._cpu_group import decode_group, group_minimum
from kernels._cpu_rows import (
    RELU6,
    ROWS_IN_FLOAT32,
    choose,
    collect,
    copy,
    flush,
    places_of,
    row_at,
    segment_place,
    spread,
    total,
    unit_length_of,
)
from kernels._cpu_threads import jit, jit_inline, jit_parallel, most_threads, run
from kernels.formats import compute_type


@jit_inline
def add_terms(
    d: np.ndarray,
    x: np.ndarray,
    mean: np.ndarray,
    scale: np.ndarray,
    accumulate: bool,
    into: np.ndarray,
    sum_d: np.ndarray,
    sum_dx: np.ndarray,
) -> None:
    """Add d and d * (x - mean) to the sums, and d * scale to the target, or put it there."""
    for j in range(d.size):
        sum_d[j] += d[j]
        sum_dx[j] = multiply_add(d[j], x[j] - mean[j], sum_dx[j])
    if accumulate:
        for j in range(d.size):
            into[j] = multiply_add(d[j], scale[j], into[j])
    else:
        for j in range(d.size):
            into[j] = d[j] * scale[j]


@jit_inline
def masked_span(
    first: int,
    size: int,
    layout: tuple[Any, ...],
    coded: bool,
    how: tuple[int, float, bool],
    z: np.ndarray,
    flags: np.ndarray,
    near: np.ndarray,
    sums: np.ndarray,
    rooms: np.ndarray,
) -> None:
    """`size` values from flat index `first` on, with their flags, and with z in place of values if `coded`.

    Sums of (rows, C) go into `near`, which is to be moved into `sums` now and then.
    """
    places, like, channels, inner, mean, scale = layout
    kind, slope, accumulate = how
    gated, length = rooms[3], unit_length_of(channels, inner)
    collect(1, first, size, places, like, channels, inner, rooms[1])
    choose(rooms[1][:size], flags, kind, slope, gated.dtype.type(0), gated)
    unit, place, done = first // length, first % length, 0
    while done < size:
        i, at, c = segment_place(unit, place, channels, inner)
        count = min(length - place, size - done)
        row, into_row, x = row_at(places, 0, i, like), row_at(places, 2, i, like), rooms[0]
        if accumulate:
            load(into_row, at, count, rooms[2])
        into = window(into_row, at, count, rooms[2])
        if coded:
            copy(z[done : done + count], x)
        else:
            load(row, at, count, rooms[0])
            x = window(row, at, count, rooms[0])
        if inner == 1:
            about, factor, sum_d, sum_dx = mean[c:], scale[c:], near[0, c:], near[1, c:]
        else:
            about, factor, sum_d, sum_dx = rooms[4][:count], rooms[5][:count], rooms[6][:count], rooms[7][:count]
            spread(mean, c, about)
            spread(scale, c, factor)
            sum_d[:] = 0
            sum_dx[:] = 0
        add_terms(gated[done : done + count], x, about, factor, accumulate, into, sum_d, sum_dx)
        if inner > 1:
            sums[0, c] += total(sum_d)
            sums[1, c] += total(sum_dx)
        store(into_row, at, count, into, False)
        unit, place, done = unit + 1, 0, done + count


@jit
def masked_part(t: int, parts: int, args: tuple[Any, ...], scratch: np.ndarray) -> None:
    """Part t of the groups: gradient by the mask, values as they are or (`bits` > 0) from codes."""
    layout, how = args[:6], args[6:9]
    codes, minima, wide_minima, steps, bits, group = args[9:15]
    total_count, sums, near, mask, q, flags, z = args[15:]
    groups, each = (total_count + group - 1) // group, 2 if how[0] == RELU6 else 1
    pending = 0
    for g in range(t * groups // parts, (t + 1) * groups // parts):
        end = min(total_count, (g + 1) * group)
        for first in range(g * group, end, SPAN):
            size = min(SPAN, end - first)
            if bits > 0:
                minimum, step = group_minimum(g, minima, wide_minima), bf16_value(steps[g])
                decode_group(codes[first * bits // 8 :], minimum, step, bits, size, q[t], z[t])
            if mask.size > 0:
                unpack_span(mask[first * each // 8 :], size, each, flags[t])
            masked_span(first, size, layout, bits > 0, how, z[t], flags[t], near[t], sums[t], scratch[t])
            pending += size
            if pending >= ROWS_IN_FLOAT32 * near.shape[2]:
                flush(near[t], sums[t])
                pending = 0
    flush(near[t], sums[t])


@jit_parallel
def masked_parts(parts: int, args: tuple[Any, ...], scratch: np.ndarray) -> None:
    for t in numba.prange(parts):
        masked_part(np.int64(t), parts, args, scratch)


def masked_sums(
    d_out: np.ndarray,
    values: np.ndarray,
    rows: norm_arguments.Rows,
    mean: np.ndarray,
    scale: np.ndarray,
    target: np.ndarray,
    how: tuple[int, float, bool],
    coding: tuple[Any, ...],
    mask: np.ndarray | None,
) -> np.ndarray:
    """Run the kernel that takes flags from a mask; returns the two sums, (2, C) float64."""
    threads, kind = most_threads(), compute_type(rows.name)
    sums = np.zeros((threads, 2, rows.channels))
    args = (
        *places_of(rows, values, d_out, target),
        *(rows.channels, rows.inner, mean, scale),
        *how,
        *coding,
        d_out.size,
        sums,
        np.zeros(sums.shape, kind),
        np.empty(0, np.uint8) if mask is None else mask.reshape(-1),
        np.empty((threads, SPAN), np.uint8),
        np.ones((threads, SPAN), np.uint8),
        np.empty((threads, SPAN), np.float32),
    )
    run(masked_parts, masked_part, d_out.size, args, np.empty((threads, 8, SPAN), kind))
    return sums.sum(axis=0)
