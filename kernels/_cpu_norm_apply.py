"""Rebuilding an activation from codes or values, and the statistics' share of a norm's gradient, in numba."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from kernels import norm_arguments
from kernels._cpu_codes import SPAN, unpack_span
from kernels._cpu_formats import bf16_value, load, store, window
from kernels._cpu_group import NO_CODES, decode_group, group_minimum, split_minima
from kernels._cpu_layout import in_order, in_units
from kernels._cpu_loops import IDENTITY, RELU6, SIX, activate, activation_number, choose, subtract
from kernels._cpu_memory import rows_ahead
from kernels._cpu_rows import (
    constants,
    fetch,
    read,
    row_at,
    spread,
    spread_span,
    unit_place,
    window_if,
    write,
)
from kernels._cpu_threads import jit, jit_inline, jit_parallel, most_threads, run
from kernels.formats import compute_type


@jit_inline
def rebuild_span(
    first: int, size: int, args: tuple[Any, ...], coded: bool, z: np.ndarray, flags: np.ndarray, rooms: np.ndarray
) -> None:
    """Rebuild `size` values from flat index `first` on, given their flags, and zhat as z if `coded`."""
    layout, weight, bias, kind, slope = args[:5], args[5][0], args[5][1], args[6], args[7]
    places, like, channels, inner, dense = layout
    if inner > 1:
        spread_span(weight, first, size, channels, inner, rooms[2])
        spread_span(bias, first, size, channels, inner, rooms[3])
    c = first % channels if inner == 1 else 0
    factor, offset = window_if(inner == 1, weight, c, size, rooms[2]), window_if(inner == 1, bias, c, size, rooms[3])
    if coded:
        load(z, 0, size, rooms[1])
    else:
        read(0, first, size, layout, rooms[1])
    given = window_if(dense and not coded, row_at(places, 0, 0, like), first, size, rooms[1])
    activate(window_if(coded, z, 0, size, given), factor, offset, IDENTITY, slope, rooms[0])
    into = window_if(dense, row_at(places, 1, 0, like), first, size, rooms[1])
    choose(rooms[0][:size], flags, kind, slope, weight.dtype.type(SIX), into)
    write(1, first, size, layout, rooms[1])


@jit
def rebuild_part(t: int, parts: int, args: tuple[Any, ...], scratch: np.ndarray) -> None:
    """Rebuild part t of the groups, from codes (`bits` > 0) or from values."""
    layout, total = args[:8], args[8]
    codes, minima, wide_minima, steps, bits, group = args[9:15]
    mask, q, flags, z = args[15], args[16][t], args[17][t], args[18][t]
    groups, each = (total + group - 1) // group, 2 if layout[6] == RELU6 else 1
    for g in range(t * groups // parts, (t + 1) * groups // parts):
        end = min(total, (g + 1) * group)
        for first in range(g * group, end, SPAN):
            size = min(SPAN, end - first)
            if bits > 0:
                minimum, step = group_minimum(g, minima, wide_minima), bf16_value(steps[g])
                decode_group(codes[first * bits // 8 :], minimum, step, bits, size, q, z)
            if mask.size > 0:
                unpack_span(mask[first * each // 8 :], size, each, flags)
            rebuild_span(first, size, layout, bits > 0, z, flags, scratch[t])


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
    coding = (codes.reshape(-1), *split_minima(minima), steps.reshape(-1), one.bits, one.group)
    _rebuild(rows, out, out, weight, bias, (activation, slope, mask), coding)
    return out


def rebuild_activation(
    values: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    mask: np.ndarray | None,
    out: np.ndarray,
    *,
    activation: str = "relu",
    slope: float = 0.0,
    dtype: str | None = None,
) -> np.ndarray:
    """As `kernels.reference.rebuild_activation`."""
    where = "rebuild_activation"
    rows = norm_arguments.rows(where, "values", values, dtype, {"out": out}, weight=weight, bias=bias)
    norm_arguments.mask(where, activation, mask, values.size, needed=True)
    _rebuild(rows, values, out, weight, bias, (activation, slope, mask), NO_CODES)
    return out


def _rebuild(
    rows: norm_arguments.Rows,
    values: np.ndarray,
    out: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    how: tuple[str, float, np.ndarray | None],
    coding: tuple[Any, ...],
) -> None:
    """Run the kernel that rebuilds `out`, from codes or from values."""
    (activation, slope, mask), kind, threads = how, compute_type(rows.name), most_threads()
    layout = in_order(rows, values, out)
    args = (
        *layout.args,
        layout.repeated(weight, bias),
        *(activation_number(activation), kind(slope), out.size),
        *coding,
        np.empty(0, np.uint8) if mask is None else mask.reshape(-1),
        np.empty((threads, SPAN), np.uint8),
        np.ones((threads, SPAN), np.uint8),
        np.empty((threads, SPAN), np.float32),
    )
    run(rebuild_parts, rebuild_part, out.size, args, np.empty((threads, 4, SPAN), kind))


@jit
def subtract_part(t: int, parts: int, args: tuple[Any, ...], scratch: np.ndarray) -> None:
    """Part t of the units."""
    places, like, units, length, channels, inner, total, mean, constant, slope = args
    rooms = scratch[t]
    about, offset, factor = rooms[2], rooms[3], rooms[4]
    constants(mean, inner, about)
    constants(constant, inner, offset)
    constants(slope, inner, factor)
    ahead = rows_ahead(length)
    for unit in range(t * units // parts, (t + 1) * units // parts):
        i, c = unit_place(unit, channels, inner)
        if inner > 1:
            spread(mean, c, about)
            spread(constant, c, offset)
            spread(slope, c, factor)
        fetch(0, i + ahead, c * inner, length, places, like)
        fetch(1, i + ahead, c * inner, length, places, like)
        row, into_row, size = row_at(places, 0, i, like), row_at(places, 1, i, like), min(length, total - unit * length)
        place = 0
        while place < size:
            count, at = min(rooms.shape[1], size - place), c * inner + place
            load(row, at, count, rooms[0])
            load(into_row, at, count, rooms[1])
            into = window(into_row, at, count, rooms[1])
            subtract(window(row, at, count, rooms[0]), about, offset, factor, into)
            store(into_row, at, count, into, False)
            place += count


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
    layout = in_units(rows, values, target)
    scratch: np.ndarray = np.empty((most_threads(), 5, layout.length), compute_type(rows.name))
    args = (*layout.args, mean, constant, slope)
    run(subtract_parts, subtract_part, values.size, args, scratch)
    return target
