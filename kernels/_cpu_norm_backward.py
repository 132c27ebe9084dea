"""The gradient of normalisation with its activation, from exact or coded values, in numba."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from kernels import norm_arguments
from kernels._cpu_formats import load, store, window
from kernels._cpu_group import NO_CODES, split_minima
from kernels._cpu_layout import in_units
from kernels._cpu_loops import activation_number, add_terms
from kernels._cpu_memory import rows_ahead
from kernels._cpu_norm_masked import masked_sums
from kernels._cpu_rows import ROWS_IN_FLOAT32, constants, fetch, flush, row_at, spread, total, unit_place
from kernels._cpu_threads import jit, jit_inline, jit_parallel, most_threads, run
from kernels.formats import compute_type


@jit_inline
def backward_unit(
    layout: tuple[np.ndarray, np.ndarray],
    i: int,
    at: int,
    count: int,
    vectors: tuple[np.ndarray, np.ndarray, np.ndarray],
    how: tuple[int, float, bool],
    rooms: np.ndarray,
) -> None:
    """`count` values of row i from `at` on; their sums go into rooms 3 and 4."""
    (places, like), (mean, scale, shift), (kind, slope, accumulate) = layout, vectors, how
    row, d_row, into_row = row_at(places, 0, i, like), row_at(places, 1, i, like), row_at(places, 2, i, like)
    load(row, at, count, rooms[0])
    load(d_row, at, count, rooms[1])
    if accumulate:
        load(into_row, at, count, rooms[2])
    x, d = window(row, at, count, rooms[0]), window(d_row, at, count, rooms[1])
    into = window(into_row, at, count, rooms[2])
    add_terms(count, kind, accumulate, (d, x, mean, scale, shift, slope, into, rooms[3], rooms[4]))
    store(into_row, at, count, into, False)


@jit
def backward_part(t: int, parts: int, args: tuple[Any, ...], scratch: np.ndarray) -> None:
    """Part t of the units: gradient by the values' own activation."""
    layout, (units, length, channels, inner, all_values), sums = args[:2], args[2:7], args[7]
    vectors, how, rooms = args[8:11], args[11:], scratch[t]
    several = (rooms[5], rooms[6], rooms[7])
    for k in range(3):
        constants(vectors[k], inner, several[k])
    first, last = t * units // parts, (t + 1) * units // parts
    near = rooms[3:5]
    near[:] = 0
    ahead = rows_ahead(length)
    for unit in range(first, last):
        i, c = unit_place(unit, channels, inner)
        if inner > 1:
            for k in range(3):
                spread(vectors[k], c, several[k])
        for k in range(3):
            fetch(k, i + ahead, c * inner, length, layout[0], layout[1])
        size = min(length, all_values - unit * length)
        place = 0
        while place < size:
            count = min(rooms.shape[1], size - place)
            backward_unit(layout, i, c * inner + place, count, several, how, rooms)
            place += count
        if inner > 1:
            for k in range(2):
                sums[t, k, c] += total(near[k])
                near[k, :] = 0
        elif (unit - first) % ROWS_IN_FLOAT32 == ROWS_IN_FLOAT32 - 1 or unit == last - 1:
            flush(near, sums[t])


@jit_parallel
def backward_parts(parts: int, args: tuple[Any, ...], scratch: np.ndarray) -> None:
    for t in numba.prange(parts):
        backward_part(np.int64(t), parts, args, scratch)


def norm_backward(
    d_out: np.ndarray,
    values: np.ndarray,
    mean: np.ndarray,
    inv_std: np.ndarray,
    scale: np.ndarray,
    shift: np.ndarray,
    *,
    target: np.ndarray,
    accumulate: bool,
    activation: str = "relu",
    slope: float = 0.0,
    mask: np.ndarray | None = None,
    dtype: str | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """As `kernels.reference.norm_backward`."""
    where = "norm_backward"
    vectors = {"mean": mean, "inv_std": inv_std, "scale": scale, "shift": shift}
    rows = norm_arguments.rows(where, "values", values, dtype, {"d_out": d_out, "target": target}, **vectors)
    norm_arguments.mask(where, activation, mask, values.size, needed=False)
    kind = compute_type(rows.name)
    how = (activation_number(activation), kind(slope), bool(accumulate))
    if mask is not None:
        sums = masked_sums(d_out, values, rows, mean, scale, target, how, NO_CODES, mask)
    else:
        threads = most_threads()
        layout = in_units(rows, values, d_out, target)
        by_thread = layout.no_sums(threads)
        args = (*layout.args, by_thread, mean, scale, shift, *how)
        run(backward_parts, backward_part, values.size, args, np.empty((threads, 8, layout.length), kind))
        sums = layout.summed(by_thread)
    return sums[0].astype(kind), (sums[1] * inv_std).astype(kind)


def norm_backward_coded(
    d_out: np.ndarray,
    codes: np.ndarray,
    minima: np.ndarray,
    steps: np.ndarray,
    bits: int,
    scale: np.ndarray,
    *,
    target: np.ndarray,
    accumulate: bool,
    group: int = 256,
    activation: str = "relu",
    slope: float = 0.0,
    mask: np.ndarray | None = None,
    dtype: str | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """As `kernels.reference.norm_backward_coded`."""
    where = "norm_backward_coded"
    rows = norm_arguments.rows(where, "d_out", d_out, dtype, {"target": target}, scale=scale)
    one = norm_arguments.coded(where, d_out, codes, minima, steps, bits, group)
    norm_arguments.mask(where, activation, mask, d_out.size, needed=True)
    kind = compute_type(rows.name)
    how = (activation_number(activation), kind(slope), bool(accumulate))
    coding = (codes.reshape(-1), *split_minima(minima), steps.reshape(-1), one.bits, one.group)
    sums = masked_sums(d_out, d_out, rows, np.zeros_like(scale), scale, target, how, coding, mask)
    return sums[0].astype(kind), sums[1].astype(kind)
