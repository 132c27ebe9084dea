"""Mean and variance of every channel, in numba."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from kernels import norm_arguments
from kernels._cpu_formats import load, window
from kernels._cpu_rows import places_of, row_at, spread, total, unit_length, unit_place, unit_range
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
    places, like, outer, channels, inner, pivot, sums, wide = args
    first, last, length = unit_range(t, parts, outer, channels, inner)
    about, part_1, part_2 = (pivot, sums[t, 0], sums[t, 1]) if inner == 1 else (wide[t, 0], wide[t, 1], wide[t, 2])
    room = scratch[t]
    for unit in range(first, last):
        i, c = unit_place(unit, channels, inner)
        row = row_at(places, 0, i, like)
        if inner > 1:
            spread(pivot, c, about)
            part_1[:] = 0
            part_2[:] = 0
        for place in range(0, length, room.size):
            count, at = min(room.size, length - place), c * inner + place
            load(row, at, count, room)
            moments(window(row, at, count, room), about, part_1, part_2)
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
    length, kind = unit_length(rows), compute_type(rows.name)
    sums = np.zeros((most_threads(), 2, rows.channels))
    wide = np.empty((most_threads(), 3, length))
    args = (*places_of(rows, values), rows.outer, rows.channels, rows.inner, pivot, sums, wide)
    run(statistics_parts, statistics_part, values.size, args, np.empty((most_threads(), length), kind))
    off, square = sums.sum(axis=0) / (rows.outer * rows.inner)
    return (pivot + off).astype(kind), np.maximum(square - off * off, 0).astype(kind)
