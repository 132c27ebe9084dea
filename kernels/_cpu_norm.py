"""Affine map and activation, and the coding of what they need later in the same pass, in numba."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numba
import numpy as np

from kernels import arguments, checks, norm_arguments
from kernels._cpu_codes import SPAN, pack_span
from kernels._cpu_formats import load, store, window
from kernels._cpu_group import NO_CODES, encode_group, split_minima
from kernels._cpu_layout import in_order, in_units
from kernels._cpu_loops import RELU6, activate, activation_number, flag
from kernels._cpu_memory import rows_ahead
from kernels._cpu_noise import seed_stream
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
from kernels.formats import LARGEST, compute_type
from kernels.quantized import Quantized


@jit
def affine_part(t: int, parts: int, args: tuple[Any, ...], scratch: np.ndarray) -> None:
    """Map part t of the units."""
    places, like, units, length, channels, inner, total, scale, shift, kind, slope = args
    rooms = scratch[t]
    weight, bias = rooms[2], rooms[3]
    constants(scale, inner, weight)
    constants(shift, inner, bias)
    ahead = rows_ahead(length)
    for unit in range(t * units // parts, (t + 1) * units // parts):
        i, c = unit_place(unit, channels, inner)
        if inner > 1:
            spread(scale, c, weight)
            spread(shift, c, bias)
        fetch(0, i + ahead, c * inner, length, places, like)
        row, target, size = row_at(places, 0, i, like), row_at(places, 1, i, like), min(length, total - unit * length)
        place = 0
        while place < size:
            count, at = min(rooms.shape[1], size - place), c * inner + place
            load(row, at, count, rooms[0])
            into = window(target, at, count, rooms[1])
            activate(window(row, at, count, rooms[0]), weight, bias, kind, slope, into)
            store(target, at, count, into, False)
            place += count


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
    layout = in_units(rows, values, out)
    args = (*layout.args, scale, shift, activation_number(activation), kind(slope))
    scratch: np.ndarray = np.empty((most_threads(), 4, layout.length), kind)
    run(affine_parts, affine_part, values.size, args, scratch)
    return out


@jit_inline
def normalize(x: np.ndarray, mean: np.ndarray, inv_std: np.ndarray, z: np.ndarray) -> None:
    """z = (x - mean) * inv_std, as float32."""
    for j in range(x.size):
        z[j] = np.float32((x[j] - mean[j]) * inv_std[j])


@jit_inline
def encode_span(
    first: int,
    size: int,
    args: tuple[Any, ...],
    wanted: tuple[bool, bool],
    z: np.ndarray,
    flags: np.ndarray,
    rooms: np.ndarray,
) -> None:
    """Normalise (if wanted), flag (if wanted) and map (if there is an output) `size` values from flat index `first`."""
    layout, vectors, kind, slope = args[:5], args[5], args[6], args[7]
    places, like, channels, inner, dense = layout
    read(0, first, size, layout, rooms[0])
    x = window_if(dense, row_at(places, 0, 0, like), first, size, rooms[0])
    if inner > 1:
        for k in range(4):
            spread_span(vectors[k], first, size, channels, inner, rooms[2 + k])
    c = first % channels if inner == 1 else 0
    if wanted[0]:
        about = window_if(inner == 1, vectors[0], c, size, rooms[2])
        normalize(x, about, window_if(inner == 1, vectors[1], c, size, rooms[3]), z)
    weight = window_if(inner == 1, vectors[2], c, size, rooms[4])
    bias = window_if(inner == 1, vectors[3], c, size, rooms[5])
    if wanted[1]:
        flag(x, weight, bias, kind, flags)
    if places.size > 2:
        into = window_if(dense, row_at(places, 1, 0, like), first, size, rooms[1])
        activate(x, weight, bias, kind, slope, into)
        write(1, first, size, layout, rooms[1])


@jit
def encode_part(t: int, parts: int, args: tuple[Any, ...], scratch: np.ndarray) -> None:
    """Code (if `bits` > 0), flag (if there is a mask) and map (if there is an output) part t of the groups."""
    layout, kind = args[:8], args[6]
    total, bits, group, wide, stream, start = args[8:14]
    codes, minima, wide_minima, steps, energy, mask = args[14:20]
    q, z, flags = args[20][t], args[21][t], args[22][t]
    groups, each, spent = (total + group - 1) // group, 2 if kind == RELU6 else 1, 0.0
    for g in range(t * groups // parts, (t + 1) * groups // parts):
        at, end = g * group, min(total, (g + 1) * group)
        for first in range(at, end, SPAN):
            size = min(SPAN, end - first)
            encode_span(first, size, layout, (bits > 0, mask.size > 0), z[first - at :], flags, scratch[t])
            if mask.size > 0:
                pack_span(flags, size, each, mask[first * each // 8 :])
        if bits > 0:
            into = codes[at * bits // 8 :]
            here = z[: end - at]
            spent += encode_group(here, bits, wide, stream, start + at, q, into, g, minima, wide_minima, steps)
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
    room = max(1, min(coding[1], values.size))
    energy = np.zeros(threads)
    layout = in_order(rows, values) if out is None else in_order(rows, values, out)
    args = (
        *layout.args,
        layout.repeated(*vectors),
        *(activation_number(activation), kind(slope), values.size),
        *coding,
        energy,
        np.empty(0, np.uint8) if mask is None else mask.reshape(-1),
        np.empty((threads, SPAN), np.uint8),
        np.empty((threads, room), np.float32),
        np.empty((threads, SPAN), np.uint8),
    )
    run(encode_parts, encode_part, values.size, args, np.empty((threads, 6, SPAN), kind))
    spent = energy.sum(keepdims=True)
    # Beyond float32 it becomes an infinity; asking NumPy not to warn takes as long as a few checks of arguments.
    with np.errstate(over="ignore") if spent[0] > LARGEST["float32"] else nullcontext():
        return spent.astype(np.float32)


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
