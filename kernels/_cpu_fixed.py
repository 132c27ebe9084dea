"""Fixed point of any width in numba: as kernels/reference.py, to the bit."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from kernels import arguments
from kernels._cpu_codes import SPAN, pack_span, pack_wide_span, unpack_span, unpack_wide_span
from kernels._cpu_formats import computable, load, store, window
from kernels._cpu_noise import noise_24, noise_key, same_key, seed_stream
from kernels._cpu_threads import jit, jit_parallel, most_threads, run
from kernels.formats import STORAGE

SMALLEST_STEP = np.float32(2.0**-126)


@jit
def inverse_of(step: float) -> Any:
    """1 / step, or 0 for a step that has no reciprocal in float32 and for NaN."""
    return np.float32(1) / step if step >= SMALLEST_STEP else np.float32(0)


@jit
def scale_span(x: np.ndarray, at: int, factors: np.ndarray, inner: int, out: np.ndarray) -> None:
    """out = x times its factor, for values from flat index `at` on; inner 0: one factor a value, again and again."""
    j = 0
    while j < x.size:
        place = at + j
        if inner > 0:
            size = min(x.size - j, inner - place % inner)
            factor = factors[place // inner % factors.size]
            source, into = x[j : j + size], out[j : j + size]
            for k in range(size):
                into[k] = source[k] * factor
        else:
            place %= factors.size
            size = min(x.size - j, factors.size - place)
            source, several, into = x[j : j + size], factors[place : place + size], out[j : j + size]
            for k in range(size):
                into[k] = source[k] * several[k]
        j += size


@jit
def round_span(t: np.ndarray, low: float, high: float, exact: bool, index: int, stream: int, q: np.ndarray) -> None:
    """Codes of a span of x / step; q is uint16, signed codes in two's complement."""
    for j in range(t.size):
        v = t[j] if t[j] == t[j] else np.float32(0)
        t[j] = max(min(v, high), low)
    if exact:
        for j in range(t.size):
            q[j] = np.uint16(np.int32(np.rint(t[j])))
        return
    first = 0
    while first < t.size:
        count = same_key(index + first, t.size - first)
        key, base = noise_key(stream, (index + first) >> 32), np.uint32(index + first)
        part, into = t[first : first + count], q[first : first + count]
        for j in range(count):
            whole = np.floor(part[j])
            up = np.int32(noise_24(base, j, key) < (part[j] - whole) * np.float32(2.0**24))
            into[j] = np.uint16(np.int32(whole) + up)
        first += count


@jit
def quantize_fixed_part(t: int, parts: int, args: tuple[Any, ...], scratch: np.ndarray) -> None:
    """Code part t."""
    values, bits, inverses, inner, low, high, exact, stream, start, codes, codes_16, codes_8 = args
    spans = (values.size + SPAN - 1) // SPAN
    loaded, scaled = scratch[2 * t], scratch[2 * t + 1]
    q, q8 = codes_16[t], codes_8[t]
    for s in range(t * spans // parts, (t + 1) * spans // parts):
        at = s * SPAN
        count = min(SPAN, values.size - at)
        load(values, at, count, loaded)
        scale_span(window(values, at, count, loaded), at, inverses, inner, scaled)
        round_span(scaled[:count], low, high, exact, start + at, stream, q)
        into = codes[at * bits // 8 :]
        if bits == 1 or bits == 2 or bits == 4 or bits == 8:
            for j in range(count):
                q8[j] = np.uint8(q[j] & np.uint16((1 << bits) - 1))
            pack_span(q8, count, bits, into)
        else:
            pack_wide_span(q, count, bits, into)


@jit_parallel
def quantize_fixed_parts(parts: int, args: tuple[Any, ...], scratch: np.ndarray) -> None:
    for t in numba.prange(parts):
        quantize_fixed_part(np.int64(t), parts, args, scratch)


@jit
def dequantize_fixed_part(t: int, parts: int, args: tuple[Any, ...], scratch: np.ndarray) -> None:
    """Decode part t."""
    codes, bits, signed, steps, inner, out, codes_16, codes_8 = args
    spans = (out.size + SPAN - 1) // SPAN
    q, q8, floats = codes_16[t], codes_8[t], scratch[2 * t]
    # A code at or above this is negative.
    half = np.int32(1 << (bits - 1)) if signed else np.int32(1 << 16)
    for s in range(t * spans // parts, (t + 1) * spans // parts):
        at = s * SPAN
        count = min(SPAN, out.size - at)
        if bits == 1 or bits == 2 or bits == 4 or bits == 8:
            unpack_span(codes[at * bits // 8 :], count, bits, q8)
            for j in range(count):
                q[j] = q8[j]
        else:
            unpack_wide_span(codes[at * bits // 8 :], count, bits, q)
        for j in range(count):
            code = np.int32(q[j])
            floats[j] = np.float32(code - np.int32(1 << bits) if code >= half else code)
        into = window(out, at, count, scratch[2 * t + 1])
        scale_span(floats[:count], at, steps, inner, into)
        store(out, at, count, into, True)


@jit_parallel
def dequantize_fixed_parts(parts: int, args: tuple[Any, ...], scratch: np.ndarray) -> None:
    for t in numba.prange(parts):
        dequantize_fixed_part(np.int64(t), parts, args, scratch)


def _factors(step: Any, run_: arguments.FixedRun, inverse: bool) -> tuple[np.ndarray, int]:
    """One factor a channel, and how many values follow one another in a channel.

    Where those are few, one factor a value over at least a span, and 0: vectors need long runs.
    """
    steps = np.array(step, np.float32).reshape(-1)
    factors = np.array([inverse_of(one) for one in steps], np.float32) if inverse else steps
    if factors.size == 1:
        return factors, max(1, run_.count)
    if run_.inner >= SPAN // 8:
        return factors, run_.inner
    each = np.repeat(factors, run_.inner)
    return np.tile(each, -(-SPAN // each.size)), 0


def _scratch() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows = most_threads()
    return np.empty((rows, SPAN), np.uint16), np.empty((rows, SPAN), np.uint8), np.empty((2 * rows, SPAN), np.float32)


def quantize_fixed(
    values: np.ndarray,
    bits: int,
    step: Any,
    *,
    signed: bool,
    seed: int | None = None,
    start: int = 0,
    dtype: str | None = None,
    channels: int = 1,
    inner: int = 1,
    codes: np.ndarray | None = None,
) -> np.ndarray:
    """As `kernels.reference.quantize_fixed`."""
    run_ = arguments.quantize_fixed("quantize_fixed", values, bits, step, seed, start, dtype, channels, inner, codes)
    made = np.empty(run_.size, np.uint8) if codes is None else codes
    low, high = arguments.code_range(run_.bits, signed)
    factors, inner = _factors(step, run_, True)
    codes_16, codes_8, floats = _scratch()
    args = (
        computable(values.reshape(-1), run_.name),
        run_.bits,
        factors,
        inner,
        np.float32(low),
        np.float32(high),
        run_.seed is None,
        seed_stream(run_.seed or 0),
        run_.start,
        made.reshape(-1),
        codes_16,
        codes_8,
    )
    run(quantize_fixed_parts, quantize_fixed_part, values.size, args, floats)
    return made


def dequantize_fixed(
    codes: np.ndarray,
    bits: int,
    step: Any,
    count: int,
    *,
    signed: bool,
    channels: int = 1,
    inner: int = 1,
    dtype: str = "float32",
    out: np.ndarray | None = None,
) -> np.ndarray:
    """As `kernels.reference.dequantize_fixed`."""
    run_ = arguments.dequantize_fixed("dequantize_fixed", codes, bits, step, count, channels, inner, dtype, out)
    made = np.empty(run_.count, STORAGE[run_.name]) if out is None else out
    codes_16, codes_8, floats = _scratch()
    target = computable(made.reshape(-1), run_.name)
    args = (codes.reshape(-1), run_.bits, signed, *_factors(step, run_, False), target, codes_16, codes_8)
    run(dequantize_fixed_parts, dequantize_fixed_part, run_.count, args, floats)
    return made
