"""Rebuilding an activation from codes, and the statistics' share of a norm's gradient, in numba."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from kernels import norm_arguments
from kernels._cpu_codes import SPAN, unpack_span
from kernels._cpu_formats import bf16_value, load, store, window
from kernels._cpu_group import decode_group, group_minimum, split_minima
from kernels._cpu_rows import (
    RELU6,
    SIX,
    activation_number,
    choose,
    places_of,
    row_at,
    segment,
    spread,
    unit_length,
    unit_place,
    unit_range,
)
from kernels._cpu_threads import jit, jit_parallel, most_threads, run
from kernels.formats import compute_type


@jit
def affine_span(z: np.ndarray, weight: np.ndarray, bias: np.ndarray, out: np.ndarray) -> None:
    """out = weight * z + bias."""
    for j in range(z.size):
        a = weight[j] * z[j]
        out[j] = a + bias[j]


@jit
def rebuild_part(t: int, parts: int, args: tuple[Any, ...], scratch: np.ndarray) -> None:
    """Rebuild part t of the groups."""
    places, like, count, channels, inner, weight, bias, kind, slope = args[:9]
    codes, minima, wide_minima, steps, bits, group = args[9:15]
    mask, q_rows, flag_rows, z_rows = args[15:]
    q, flags, z, rooms = q_rows[t], flag_rows[t], z_rows[t], scratch[t]
    groups, each, six = (count + group - 1) // group, 2 if kind == RELU6 else 1, weight.dtype.type(SIX)
    for g in range(t * groups // parts, (t + 1) * groups // parts):
        end = min(count, (g + 1) * group)
        for first in range(g * group, end, SPAN):
            size = min(SPAN, end - first)
            minimum, step = group_minimum(g, minima, wide_minima), bf16_value(steps[g])
            decode_group(codes[first * bits // 8 :], minimum, step, bits, size, q, z)
            if mask.size > 0:
                unpack_span(mask[first * each // 8 :], size, each, flags)
            done = 0
            while done < size:
                i, at, c, m = segment(first + done, size - done, channels, inner)
                if inner > 1:
                    spread(weight, c, rooms[0][:m])
                    spread(bias, c, rooms[1][:m])
                factor = weight[c : c + m] if inner == 1 else rooms[0][:m]
                offset = bias[c : c + m] if inner == 1 else rooms[1][:m]
                affine_span(z[done : done + m], factor, offset, rooms[2][:m])
                row = row_at(places, 0, i, like)
                into = window(row, at, m, rooms[3])
                choose(rooms[2][:m], flags[done : done + m], kind, slope, six, into)
                store(row, at, m, into, False)
                done += m


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
        out.size,
        rows.channels,
        rows.inner,
        weight,
        bias,
        activation_number(activation),
        kind(slope),
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
        into[j] -= constant[j] + (x[j] - mean[j]) * slope[j]


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
