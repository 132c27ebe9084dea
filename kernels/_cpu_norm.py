"""Affine map and activation, and the coding of what they need later in the same pass, in numba."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from kernels import arguments, checks, norm_arguments
from kernels._cpu_codes import SPAN, pack_span
from kernels._cpu_formats import load, store, window
from kernels._cpu_group import NO_CODES, encode_group, split_minima
from kernels._cpu_noise import seed_stream
from kernels._cpu_rows import (
    RELU6,
    activate,
    activation_number,
    copy,
    flag,
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
from kernels.quantized import Quantized


@jit
def affine_part(t: int, parts: int, args: tuple[Any, ...], scratch: np.ndarray) -> None:
    """Map part t of the units."""
    places, like, outer, channels, inner, scale, shift, kind, slope = args
    rooms = scratch[t]
    first, last, length = unit_range(t, parts, outer, channels, inner)
    weight, bias = (scale, shift) if inner == 1 else (rooms[2], rooms[3])
    for unit in range(first, last):
        i, c = unit_place(unit, channels, inner)
        if inner > 1:
            spread(scale, c, weight)
            spread(shift, c, bias)
        row, target = row_at(places, 0, i, like), row_at(places, 1, i, like)
        for place in range(0, length, rooms.shape[1]):
            count, at = min(rooms.shape[1], length - place), c * inner + place
            load(row, at, count, rooms[0])
            into = window(target, at, count, rooms[1])
            activate(window(row, at, count, rooms[0]), weight, bias, kind, slope, into)
            store(target, at, count, into, False)


@jit_parallel
def affine_parts(parts: int, args: tuple[Any, ...], scratch: np.ndarray) -> None:
    for t in numba.prange(parts):
        affine_part(np.int64(t), parts, args, scratch)


def affine_activation(
    values: np.ndarray,
    scale: np.ndarray,
    shift: np.ndarray,
    out: np.ndarray,
    *,
    activation: str = "relu",
    slope: float = 0.0,
    mask: np.ndarray | None = None,
    dtype: str | None = None,
) -> np.ndarray:
    """As `kernels.reference.affine_activation`."""
    where = "affine_activation"
    rows = norm_arguments.rows(where, "values", values, dtype, {"out": out}, scale=scale, shift=shift)
    norm_arguments.mask(where, activation, mask, values.size, needed=False)
    kind = compute_type(rows.name)
    if mask is not None:
        _encode(values, rows, (scale, shift, scale, shift), activation, slope, mask, out, NO_CODING)
        return out
    args = (
        *places_of(rows, values, out),
        rows.outer,
        rows.channels,
        rows.inner,
        scale,
        shift,
        activation_number(activation),
        kind(slope),
    )
    scratch: np.ndarray = np.empty((most_threads(), 4, unit_length(rows)), kind)
    run(affine_parts, affine_part, values.size, args, scratch)
    return out


@jit_inline
def normalize(x: np.ndarray, mean: np.ndarray, inv_std: np.ndarray, z: np.ndarray) -> None:
    """z = (x - mean) * inv_std, as float32."""
    for j in range(x.size):
        z[j] = np.float32((x[j] - mean[j]) * inv_std[j])


@jit_inline
def encode_segments(
    first: int,
    size: int,
    layout: tuple[Any, ...],
    wanted: tuple[bool, bool],
    z: np.ndarray,
    flags: np.ndarray,
    rooms: np.ndarray,
) -> None:
    """Normalise (if wanted), flag (if wanted) and map (if there is an output) `size` values from flat index `first`."""
    places, like, channels, inner, mean, inv_std, scale, shift, kind, slope = layout
    length = unit_length_of(channels, inner)
    unit, place, done = first // length, first % length, 0
    while done < size:
        i, at, c = segment_place(unit, place, channels, inner)
        count = min(length - place, size - done)
        row, last = row_at(places, 0, i, like), done + count
        load(row, at, count, rooms[0])
        x = window(row, at, count, rooms[0])
        if inner == 1:
            about, factor = mean[c : c + count], inv_std[c : c + count]
            weight, bias = scale[c : c + count], shift[c : c + count]
        else:
            about, factor, weight, bias = rooms[1][:count], rooms[2][:count], rooms[3][:count], rooms[4][:count]
            spread(mean, c, about)
            spread(inv_std, c, factor)
            spread(scale, c, weight)
            spread(shift, c, bias)
        if wanted[0]:
            normalize(x, about, factor, z[done:last])
        if wanted[1]:
            flag(x, weight, bias, kind, flags[done:last])
        if places.size > 2:
            target = row_at(places, 1, i, like)
            into = window(target, at, count, rooms[5])
            activate(x, weight, bias, kind, slope, into)
            store(target, at, count, into, False)
        unit, place, done = unit + 1, 0, last


@jit
def encode_part(t: int, parts: int, args: tuple[Any, ...], scratch: np.ndarray) -> None:
    """Code (if `bits` > 0), flag (if there is a mask) and map (if there is an output) part t of the groups."""
    layout, kind = args[:10], args[8]
    total, bits, group, wide, stream, start = args[10:16]
    codes, minima, wide_minima, steps, energy, mask = args[16:22]
    q, z, flags = args[22][t], args[23][t], args[24][t]
    groups, each, spent = (total + group - 1) // group, 2 if kind == RELU6 else 1, 0.0
    for g in range(t * groups // parts, (t + 1) * groups // parts):
        at, size = g * group, min(group, total - g * group)
        encode_segments(at, size, layout, (bits > 0, mask.size > 0), z, flags, scratch[t])
        if bits > 0:
            into = codes[at * bits // 8 :]
            spent += encode_group(z[:size], bits, wide, stream, start + at, q, into, g, minima, wide_minima, steps)
        if mask.size > 0:
            for first in range(0, size, SPAN):
                count = min(SPAN, size - first)
                copy(flags[first : first + count], q)
                pack_span(q, count, each, mask[(at + first) * each // 8 :])
    energy[t] = spent


@jit_parallel
def encode_parts(parts: int, args: tuple[Any, ...], scratch: np.ndarray) -> None:
    for t in numba.prange(parts):
        encode_part(np.int64(t), parts, args, scratch)


def _encode(
    values: np.ndarray,
    rows: norm_arguments.Rows,
    vectors: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    activation: str,
    slope: float,
    mask: np.ndarray | None,
    out: np.ndarray | None,
    coding: tuple[Any, ...],
) -> np.ndarray:
    """Run the kernel that codes, flags and maps; returns the energy."""
    kind, threads = compute_type(rows.name), most_threads()
    room: int = max(1, min(coding[1], values.size))
    energy = np.zeros(threads)
    args = (
        *(places_of(rows, values) if out is None else places_of(rows, values, out)),
        *(rows.channels, rows.inner),
        *(*vectors, activation_number(activation), kind(slope), values.size),
        *coding,
        energy,
        np.empty(0, np.uint8) if mask is None else mask.reshape(-1),
        np.empty((threads, SPAN), np.uint8),
        np.empty((threads, room), np.float32),
        np.empty((threads, room), np.uint8),
    )
    run(encode_parts, encode_part, values.size, args, np.empty((threads, 6, room), kind))
    with np.errstate(over="ignore"):
        return energy.sum(keepdims=True).astype(np.float32)


# bits, group, wide, stream, start; codes, minima, wide minima, steps
NO_CODING = (0, SPAN, False, np.uint64(0), 0, *NO_CODES[:4])


def normalize_quantize_mask(
    values: np.ndarray,
    mean: np.ndarray,
    inv_std: np.ndarray,
    scale: np.ndarray,
    shift: np.ndarray,
    bits: int,
    *,
    seed: int,
    group: int = 256,
    start: int = 0,
    activation: str = "relu",
    slope: float = 0.0,
    out: np.ndarray | None = None,
    wide_minimum: bool = False,
    codes: np.ndarray | None = None,
    minima: np.ndarray | None = None,
    steps: np.ndarray | None = None,
    mask: np.ndarray | None = None,
    dtype: str | None = None,
) -> Quantized:
    """As `kernels.reference.normalize_quantize_mask`."""
    where = "normalize_quantize_mask"
    vectors = {"mean": mean, "inv_std": inv_std, "scale": scale, "shift": shift}
    rows = norm_arguments.rows(where, "values", values, dtype, {"out": out}, **vectors)
    norm_arguments.mask(where, activation, mask, values.size, needed=False)
    outputs = (codes, minima, steps)
    one = arguments.group_run(where, rows.name, values.size, bits, seed, group, start, wide_minimum, outputs)
    if mask is None and activation != "identity":
        mask = np.empty(checks.mask_bytes(activation, values.size), np.uint8)
    codes = np.empty(one.size, np.uint8) if codes is None else codes
    minima = np.empty(one.groups, np.float32 if wide_minimum else np.uint16) if minima is None else minima
    steps = np.empty(one.groups, np.uint16) if steps is None else steps
    how = (one.bits, one.group, wide_minimum, seed_stream(one.seed), one.start)
    coding = (*how, codes.reshape(-1), *split_minima(minima), steps.reshape(-1))
    energy = _encode(values, rows, (mean, inv_std, scale, shift), activation, slope, mask, out, coding)
    return Quantized(codes, minima, steps, energy, mask=mask)
