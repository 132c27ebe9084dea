"""Rebuilding an activation from codes, and the statistics' share of a norm's gradient, in numba."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from kernels import norm_arguments
from kernels._cpu_codes import SPAN, unpack_span
from kernels._cpu_formats import bf16_value, load, multiply_add, store, window
from kernels._cpu_group import decode_group, group_minimum, split_minima
from kernels._cpu_rows import (
    RELU6,
    SIX,
    activation_number,
    choose,
    copy,
    places_of,
    row_at,
    segment_place,
    spread,
    unit_length,
    unit_length_of,
    unit_place,
    unit_range,
)
from kernels._cpu_threads import jit, jit_inline, jit_parallel, most_threads, run
from kernels.formats import compute_type


@jit_inline
def affine_span(z: np.ndarray, weight: np.ndarray, bias: np.ndarray, out: np.ndarray) -> None:
    """out = weight * z + bias."""
    for j in range(z.size):
        out[j] = multiply_add(z[j], weight[j], bias[j])


@jit_inline
def rebuild_span(
    first: int, size: int, layout: tuple[Any, ...], z: np.ndarray, flags: np.ndarray, rooms: np.ndarray
) -> None:
    """Rebuild `size` values from flat index `first` on, given their zhat and flags."""
    places, like, channels, inner, weight, bias, kind, slope = layout
    made, chosen, length = rooms[2], rooms[3], unit_length_of(channels, inner)
    unit, place, done = first // length, first % length, 0
    while done < size:
        _, _, c = segment_place(unit, place, channels, inner)
        count = min(length - place, size - done)
        if inner == 1:
            factor, offset = weight[c:], bias[c:]
        else:
            factor, offset = rooms[0][:count], rooms[1][:count]
            spread(weight, c, factor)
            spread(bias, c, offset)
        affine_span(z[done : done + count], factor, offset, made[done:])
        unit, place, done = unit + 1, 0, done + count
    choose(made[:size], flags, kind, slope, weight.dtype.type(SIX), chosen)
    unit, place, done = first // length, first % length, 0
    while done < size:
        i, at, _ = segment_place(unit, place, channels, inner)
        count = min(length - place, size - done)
        row, part = row_at(places, 0, i, like), chosen[done : done + count]
        store(row, at, count, part, False)
        copy(part, window(row, at, count, part))
        unit, place, done = unit + 1, 0, done + count


@jit
def rebuild_part(t: int, parts: int, args: tuple[Any, ...], scratch: np.ndarray) -> None:
    """Rebuild part t of the groups."""
    layout, total = args[:8], args[8]
    codes, minima, wide_minima, steps, bits, group = args[9:15]
    mask, q, flags, z = args[15], args[16][t], args[17][t], args[18][t]
    groups, each = (total + group - 1) // group, 2 if layout[6] == RELU6 else 1
    for g in range(t * groups // parts, (t + 1) * groups // parts):
        end = min(total, (g + 1) * group)
        for first in range(g * group, end, SPAN):
            size = min(SPAN, end - first)
            minimum, step = group_minimum(g, minima, wide_minima), bf16_value(steps[g])
            decode_group(codes[first * bits // 8 :], minimum, step, bits, size, q, z)
            if mask.size > 0:
                unpack_span(mask[first * each // 8 :], size, each, flags)
            rebuild_span(first, size, layout, z, flags, scratch[t])


@jit_parallel
def rebuild_parts(parts: int, args: tuple[Any, ...], scratch: np.ndarray) -> None:
    for t in numba.prange(parts):
        rebuild_part(np.int64(t), parts, args, scratch)


def dequantize_affine(
    codes: np.ndarray,
    minima: np.ndarray,
    steps: np.ndarray,
    bits: int,
    weight: np.ndarray,
    bias: np.ndarray,
    out: np.ndarray,
    *,
    group: int = 256,
    activation: str = "relu",
    slope: float = 0.0,
    mask: np.ndarray | None = None,
    dtype: str | None = None,
) -> np.ndarray:
    """As `kernels.reference.dequantize_affine`."""
    where = "dequantize_affine"
    rows = norm_arguments.rows(where, "out", out, dtype, weight=weight, bias=bias)
    one = norm_arguments.coded(where, out, codes, minima, steps, bits, group)
    norm_arguments.mask(where, activation, mask, out.size, needed=True)
    kind, threads = compute_type(rows.name), most_threads()
    args = (
        *places_of(rows, out),
        rows.channels,
        rows.inner,
        weight,
        bias,
        activation_number(activation),
        kind(slope),
        out.size,
        *(codes.reshape(-1), *split_minima(minima), steps.reshape(-1), one.bits, one.group),
        np.empty(0, np.uint8) if mask is None else mask.reshape(-1),
        np.empty((threads, SPAN), np.uint8),
        np.ones((threads, SPAN), np.uint8),
        np.empty((threads, SPAN), np.float32),
    )
    run(rebuild_parts, rebuild_part, out.size, args, np.empty((threads, 4, SPAN), kind))
    return out


@jit
def subtract_span(x: np.ndarray, mean: np.ndarray, constant: np.ndarray, slope: np.ndarray, into: np.ndarray) -> None:
    """into -= constant + (x - mean) * slope."""
    for j in range(x.size):
        into[j] -= multiply_add(x[j] - mean[j], slope[j], constant[j])


@jit
def subtract_part(t: int, parts: int, args: tuple[Any, ...], scratch: np.ndarray) -> None:
    """Part t of the units."""
    places, like, outer, channels, inner, mean, constant, slope = args
    rooms = scratch[t]
    first, last, length = unit_range(t, parts, outer, channels, inner)
    about, offset, factor = (mean, constant, slope) if inner == 1 else (rooms[2], rooms[3], rooms[4])
    for unit in range(first, last):
        i, c = unit_place(unit, channels, inner)
        if inner > 1:
            spread(mean, c, about)
            spread(constant, c, offset)
            spread(slope, c, factor)
        row, into_row = row_at(places, 0, i, like), row_at(places, 1, i, like)
        for place in range(0, length, rooms.shape[1]):
            count, at = min(rooms.shape[1], length - place), c * inner + place
            load(row, at, count, rooms[0])
            load(into_row, at, count, rooms[1])
            into = window(into_row, at, count, rooms[1])
            subtract_span(window(row, at, count, rooms[0]), about, offset, factor, into)
            store(into_row, at, count, into, False)


@jit_parallel
def subtract_parts(parts: int, args: tuple[Any, ...], scratch: np.ndarray) -> None:
    for t in numba.prange(parts):
        subtract_part(np.int64(t), parts, args, scratch)


def subtract_norm_terms(
    target: np.ndarray,
    values: np.ndarray,
    mean: np.ndarray,
    constant: np.ndarray,
    slope: np.ndarray,
    *,
    dtype: str | None = None,
) -> np.ndarray:
    """As `kernels.reference.subtract_norm_terms`."""
    where = "subtract_norm_terms"
    vectors = {"mean": mean, "constant": constant, "slope": slope}
    rows = norm_arguments.rows(where, "values", values, dtype, {"target": target}, **vectors)
    scratch: np.ndarray = np.empty((most_threads(), 5, unit_length(rows)), compute_type(rows.name))
    args = (*places_of(rows, values, target), rows.outer, rows.channels, rows.inner, mean, constant, slope)
    run(subtract_parts, subtract_part, values.size, args, scratch)
    return target
