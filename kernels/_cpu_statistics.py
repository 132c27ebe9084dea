"""Mean and variance of every channel, in numba."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from kernels import norm_arguments
from kernels._cpu_formats import load, window
from kernels._cpu_layout import in_units
from kernels._cpu_memory import rows_ahead
from kernels._cpu_rows import constants, fetch, row_at, spread, total, unit_place
from kernels._cpu_threads import jit, jit_parallel, most_threads, run
from kernels.formats import compute_type, widen


@jit
def moments(x: np.ndarray, pivot: np.ndarray, first: np.ndarray, second: np.ndarray) -> None:
    """Add x - pivot and its square, in float64."""
    for j in range(x.size):
        d = np.float64(x[j]) - pivot[j]
        first[j] += d
        second[j] += d * d


@jit
def statistics_part(t: int, parts: int, args: tuple[Any, ...], scratch: np.ndarray) -> None:
    """First and second moments of part t of the units, about the pivots."""
    places, like, units, length, channels, inner, all_values, pivot, sums, wide = args
    about = wide[t, 0]
    part_1, part_2 = (sums[t, 0], sums[t, 1]) if inner == 1 else (wide[t, 1], wide[t, 2])
    constants(pivot, inner, about)
    room = scratch[t]
    ahead = rows_ahead(length)
    for unit in range(t * units // parts, (t + 1) * units // parts):
        i, c = unit_place(unit, channels, inner)
        row = row_at(places, 0, i, like)
        fetch(0, i + ahead, c * inner, length, places, like)
        if inner > 1:
            spread(pivot, c, about)
            part_1[:] = 0
            part_2[:] = 0
        size = min(length, all_values - unit * length)
        place = 0
        while place < size:
            count, at = min(room.size, size - place), c * inner + place
            load(row, at, count, room)
            moments(window(row, at, count, room), about, part_1, part_2)
            place += count
        if inner > 1:
            sums[t, 0, c] += total(part_1)
            sums[t, 1, c] += total(part_2)


@jit_parallel
def statistics_parts(parts: int, args: tuple[Any, ...], scratch: np.ndarray) -> None:
    for t in numba.prange(parts):
        statistics_part(np.int64(t), parts, args, scratch)


def channel_statistics(values: np.ndarray, *, dtype: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """As `kernels.reference.channel_statistics`."""
    rows = norm_arguments.statistics("channel_statistics", values, dtype)
    first = values[:1] if values.ndim == 2 else values[:1, :, :1]
    # About the first values, so that squares stay small where the mean is many deviations.
    pivot = widen(first, rows.name).reshape(-1).astype(np.float64)
    kind, layout, threads = compute_type(rows.name), in_units(rows, values), most_threads()
    by_thread = layout.no_sums(threads)
    args = (*layout.args, pivot, by_thread, np.empty((threads, 3, layout.length)))
    run(statistics_parts, statistics_part, values.size, args, np.empty((threads, layout.length), kind))
    off, square = layout.summed(by_thread) / (rows.outer * rows.inner)
    return (pivot + off).astype(kind), np.maximum(square - off * off, 0).astype(kind)
