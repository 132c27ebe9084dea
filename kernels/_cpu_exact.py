"""Exact codes in numba: masks, regions, integers of few bits, zero-value compression."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from kernels import arguments, checks
from kernels._cpu_codes import SPAN, pack_span, pack_wide_span, unpack_span, unpack_wide_span
from kernels._cpu_formats import computable, load, window
from kernels._cpu_threads import jit, jit_parallel, most_threads, run
from kernels.formats import compute_type

# What each thread counts and moves at a time; a multiple of 8, so that its mask is whole bytes.
BLOCK = 2**15


@jit
def pack_part(t: int, parts: int, args: tuple[Any, ...], scratch: np.ndarray) -> None:
    """Pack part t of uint8 codes of 1, 2, 4 or 8 bits; `flags`: anything but 0 is 1."""
    values, bits, flags, codes = args
    spans = (values.size + SPAN - 1) // SPAN
    q = scratch[t]
    for s in range(t * spans // parts, (t + 1) * spans // parts):
        count = min(SPAN, values.size - s * SPAN)
        source = values[s * SPAN : s * SPAN + count]
        if flags:
            for j in range(count):
                q[j] = np.uint8(source[j] != 0)
        else:
            for j in range(count):
                q[j] = source[j] & np.uint8((1 << bits) - 1)
        pack_span(q, count, bits, codes[s * SPAN * bits // 8 :])


@jit_parallel
def pack_parts(parts: int, args: tuple[Any, ...], scratch: np.ndarray) -> None:
    for t in numba.prange(parts):
        pack_part(np.int64(t), parts, args, scratch)


@jit
def unpack_part(t: int, parts: int, args: tuple[Any, ...], scratch: np.ndarray) -> None:
    """Unpack part t of codes of 1, 2, 4 or 8 bits into uint8."""
    codes, bits, out = args
    spans = (out.size + SPAN - 1) // SPAN
    q = scratch[t]
    for s in range(t * spans // parts, (t + 1) * spans // parts):
        count = min(SPAN, out.size - s * SPAN)
        unpack_span(codes[s * SPAN * bits // 8 :], count, bits, q)
        into = out[s * SPAN : s * SPAN + count]
        for j in range(count):
            into[j] = q[j]


@jit_parallel
def unpack_parts(parts: int, args: tuple[Any, ...], scratch: np.ndarray) -> None:
    for t in numba.prange(parts):
        unpack_part(np.int64(t), parts, args, scratch)


@jit
def pack_wide_part(t: int, parts: int, args: tuple[Any, ...], scratch: np.ndarray) -> None:
    """Pack part t of integers in any width."""
    values, bits, codes = args
    spans = (values.size + SPAN - 1) // SPAN
    q = scratch[t]
    for s in range(t * spans // parts, (t + 1) * spans // parts):
        count = min(SPAN, values.size - s * SPAN)
        source = values[s * SPAN : s * SPAN + count]
        for j in range(count):
            q[j] = source[j]
        pack_wide_span(q, count, bits, codes[s * SPAN * bits // 8 :])


@jit_parallel
def pack_wide_parts(parts: int, args: tuple[Any, ...], scratch: np.ndarray) -> None:
    for t in numba.prange(parts):
        pack_wide_part(np.int64(t), parts, args, scratch)


@jit
def unpack_wide_part(t: int, parts: int, args: tuple[Any, ...], scratch: np.ndarray) -> None:
    """Unpack part t of integers of any width."""
    codes, bits, out = args
    spans = (out.size + SPAN - 1) // SPAN
    q = scratch[t]
    for s in range(t * spans // parts, (t + 1) * spans // parts):
        count = min(SPAN, out.size - s * SPAN)
        unpack_wide_span(codes[s * SPAN * bits // 8 :], count, bits, q)
        into = out[s * SPAN : s * SPAN + count]
        for j in range(count):
            into[j] = q[j]


@jit_parallel
def unpack_wide_parts(parts: int, args: tuple[Any, ...], scratch: np.ndarray) -> None:
    for t in numba.prange(parts):
        unpack_wide_part(np.int64(t), parts, args, scratch)


def _codes_scratch() -> np.ndarray:
    return np.empty((most_threads(), SPAN), np.uint8)


def _integers_scratch() -> np.ndarray:
    return np.empty((most_threads(), SPAN), np.uint16)


def pack_integers(values: np.ndarray, bits: int, *, codes: np.ndarray | None = None) -> np.ndarray:
    """As `kernels.reference.pack_integers`."""
    bits = arguments.packed("pack_integers", "values", values, bits, codes, "uint16", "uint8")
    made = np.empty(checks.packed_bytes(values.size, bits), np.uint8) if codes is None else codes
    flat = values.reshape(-1)
    if flat.dtype == np.uint8 and bits in (1, 2, 4, 8):
        run(pack_parts, pack_part, flat.size, (flat, bits, False, made.reshape(-1)), _codes_scratch())
    else:
        wide = flat.astype(np.uint16, copy=False)
        run(pack_wide_parts, pack_wide_part, flat.size, (wide, bits, made.reshape(-1)), _integers_scratch())
    return made


def unpack_integers(codes: np.ndarray, bits: int, count: int, *, out: np.ndarray | None = None) -> np.ndarray:
    """As `kernels.reference.unpack_integers`."""
    bits, count = arguments.unpacked("unpack_integers", codes, bits, count, out, "uint16")
    made = np.empty(count, np.uint16) if out is None else out
    args = (codes.reshape(-1), bits, made.reshape(-1))
    run(unpack_wide_parts, unpack_wide_part, count, args, _integers_scratch())
    return made


def pack_bits(flags: np.ndarray, *, codes: np.ndarray | None = None) -> np.ndarray:
    """As `kernels.reference.pack_bits`."""
    arguments.packed("pack_bits", "flags", flags, 1, codes, "uint8", "bool")
    made = np.empty((flags.size + 7) // 8, np.uint8) if codes is None else codes
    args = (flags.reshape(-1).view(np.uint8), 1, True, made.reshape(-1))
    run(pack_parts, pack_part, flags.size, args, _codes_scratch())
    return made


def unpack_bits(codes: np.ndarray, count: int, *, out: np.ndarray | None = None) -> np.ndarray:
    """As `kernels.reference.unpack_bits`."""
    return _unpack("unpack_bits", codes, 1, count, out)


def unpack_regions(codes: np.ndarray, count: int, *, out: np.ndarray | None = None) -> np.ndarray:
    """As `kernels.reference.unpack_regions`."""
    return _unpack("unpack_regions", codes, 2, count, out)


def _unpack(where: str, codes: np.ndarray, bits: int, count: int, out: np.ndarray | None) -> np.ndarray:
    _, count = arguments.unpacked(where, codes, bits, count, out, "uint8")
    made = np.empty(count, np.uint8) if out is None else out
    args = (codes.reshape(-1), bits, made.reshape(-1))
    run(unpack_parts, unpack_part, count, args, _codes_scratch())
    return made


@jit
def compare_part(t: int, parts: int, args: tuple[Any, ...], scratch: np.ndarray) -> None:
    """Pack part t of comparisons: 1 bit v > low, or 2 bits for the region between low and high."""
    values, bits, low, high, codes, codes_8 = args
    spans = (values.size + SPAN - 1) // SPAN
    q = codes_8[t]
    for s in range(t * spans // parts, (t + 1) * spans // parts):
        count = min(SPAN, values.size - s * SPAN)
        load(values, s * SPAN, count, scratch[t])
        x = window(values, s * SPAN, count, scratch[t])
        if bits == 1:
            for j in range(count):
                q[j] = np.uint8(x[j] > low)
        else:
            for j in range(count):
                q[j] = np.uint8(0) if x[j] <= low else (np.uint8(2) if x[j] >= high else np.uint8(1))
        pack_span(q, count, bits, codes[s * SPAN * bits // 8 :])


@jit_parallel
def compare_parts(parts: int, args: tuple[Any, ...], scratch: np.ndarray) -> None:
    for t in numba.prange(parts):
        compare_part(np.int64(t), parts, args, scratch)


def _compare(values: np.ndarray, name: str, bits: int, low: float, high: float, codes: np.ndarray | None) -> np.ndarray:
    made = np.empty((values.size * bits + 7) // 8, np.uint8) if codes is None else codes
    kind = compute_type(name)
    args = (computable(values.reshape(-1), name), bits, kind(low), kind(high), made.reshape(-1), _codes_scratch())
    run(compare_parts, compare_part, values.size, args, np.empty((most_threads(), SPAN), kind))
    return made


def pack_positive(values: np.ndarray, *, dtype: str | None = None, codes: np.ndarray | None = None) -> np.ndarray:
    """As `kernels.reference.pack_positive`."""
    name = arguments.compared("pack_positive", values, dtype, codes, 1)
    return _compare(values, name, 1, 0.0, 0.0, codes)


def pack_regions(
    values: np.ndarray, low: float, high: float, *, dtype: str | None = None, codes: np.ndarray | None = None
) -> np.ndarray:
    """As `kernels.reference.pack_regions`."""
    arguments.thresholds("pack_regions", low, high)
    name = arguments.compared("pack_regions", values, dtype, codes, 2)
    return _compare(values, name, 2, low, high, codes)
