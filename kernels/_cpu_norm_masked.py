"""The gradient of normalisation by a kept mask, with values as they are or from codes, in numba."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from kernels import norm_arguments
from kernels._cpu_codes import SPAN, unpack_span
from kernels._cpu_formats import bf16_value, load
from kernels._cpu_group import decode_group, group_minimum
from kernels._cpu_layout import in_order
from kernels._cpu_loops import RELU6, add_all_terms, choose
from kernels._cpu_rows import ROWS_IN_FLOAT32, flush, read, row_at, spread_span, total_span, window_if, write
from kernels._cpu_threads import jit, jit_inline, jit_parallel, most_threads, run
from kernels.formats import compute_type


@jit_inline
def masked_span(
    first: int,
    size: int,
    args: tuple[Any, ...],
    coded: bool,
    z: np.ndarray,
    flags: np.ndarray,
    near: np.ndarray,
    sums: np.ndarray,
    rooms: np.ndarray,
) -> None:
    """`size` values from flat index `first` on, with their flags, and with z in place of values if `coded`.

    Sums of (rows, C) go into `near`, which is to be moved into `sums` now and then.
    """
    layout, vectors, (kind, slope, accumulate) = args[:5], args[5], args[6:9]
    mean, scale = vectors[0], vectors[1]
    places, like, channels, inner, dense = layout
    read(1, first, size, layout, rooms[1])
    d = window_if(dense, row_at(places, 1, 0, like), first, size, rooms[1])
    gated = rooms[3][:size]
    choose(d, flags, kind, slope, rooms.dtype.type(0), gated)
    if coded:
        load(z, 0, size, rooms[0])
    else:
        read(0, first, size, layout, rooms[0])
    given = window_if(dense and not coded, row_at(places, 0, 0, like), first, size, rooms[0])
    x = window_if(coded, z, 0, size, given)
    if accumulate:
        read(2, first, size, layout, rooms[2])
    into = window_if(dense, row_at(places, 2, 0, like), first, size, rooms[2])
    if inner > 1:
        spread_span(mean, first, size, channels, inner, rooms[4])
        spread_span(scale, first, size, channels, inner, rooms[5])
        rooms[6:8, :size] = 0
    c = first % channels if inner == 1 else 0
    about, factor = window_if(inner == 1, mean, c, size, rooms[4]), window_if(inner == 1, scale, c, size, rooms[5])
    sum_d, sum_dx = window_if(inner == 1, near[0], c, size, rooms[6]), window_if(inner == 1, near[1], c, size, rooms[7])
    add_all_terms(size, accumulate, (gated, x, about, factor, factor, slope, into, sum_d, sum_dx))
    if inner > 1:
        total_span(sum_d, first, channels, inner, sums[0])
        total_span(sum_dx, first, channels, inner, sums[1])
    write(2, first, size, layout, rooms[2])


@jit
def masked_part(t: int, parts: int, args: tuple[Any, ...], scratch: np.ndarray) -> None:
    """Part t of the groups: gradient by the mask, values as they are or (`bits` > 0) from codes."""
    codes, minima, wide_minima, steps, bits, group = args[9:15]
    total_count, sums, near, mask, q, flags, z = args[15:]
    groups, each, spans = (total_count + group - 1) // group, 2 if args[6] == RELU6 else 1, 0
    for g in range(t * groups // parts, (t + 1) * groups // parts):
        end = min(total_count, (g + 1) * group)
        for first in range(g * group, end, SPAN):
            size = min(SPAN, end - first)
            if bits > 0:
                minimum, step = group_minimum(g, minima, wide_minima), bf16_value(steps[g])
                decode_group(codes[first * bits // 8 :], minimum, step, bits, size, q[t], z[t])
            if mask.size > 0:
                unpack_span(mask[first * each // 8 :], size, each, flags[t])
            masked_span(first, size, args[:9], bits > 0, z[t], flags[t], near[t], sums[t], scratch[t])
            spans += 1
            # A span adds at most once to a sum.
            if spans % ROWS_IN_FLOAT32 == 0 and args[3] == 1:
                flush(near[t], sums[t])
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
    layout = in_order(rows, values, d_out, target)
    sums = layout.no_sums(threads)
    args = (
        *layout.args,
        layout.repeated(mean, scale),
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
    return layout.summed(sums)
