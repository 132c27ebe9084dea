"""Fixed point of any width in NumPy: one step for a tensor or a channel, codes that saturate."""

from __future__ import annotations

from typing import Any

import numpy as np

from kernels import arguments
from kernels._reference_exact import pack_integers, unpack_integers
from kernels._reference_noise import noise
from kernels.formats import narrow, to_float32

# A smaller step has no reciprocal in float32.
SMALLEST_STEP = np.float32(2**-126)


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
    """Code values as integers times a step: round(x / step), cut off at the ends of the range.

    Steps below 2^-126 give codes 0. NaN gets code 0; a step that is NaN or infinite (as one taken from the largest
    value of data with a NaN is) decodes to NaN.

    Args:
        values: C-contiguous, of any shape, taken flat; float16, float32, float64, or uint16 with dtype="bfloat16".
        bits: 1..16.
        step: a number, or float32, one a channel.
        signed: two's complement codes from -2^(b-1) to 2^(b-1)-1; else 0 to 2^b-1.
        seed: stochastic rounding with this noise; None = to nearest, ties to even.
        start: index of the first value in the noise stream.
        channels, inner: value i belongs to channel (i // inner) % channels.
        codes: uint8 array to write into.

    Raises:
        TypeError, ValueError: arguments that do not fit.

    Source:
        AC-GC (Evans and Aamodt 2021), section 4.

    Example:
        >>> coded = quantize_fixed(np.float32([-1.0, 0.3, 9.0]), 3, 0.5, signed=True)
        >>> dequantize_fixed(coded, 3, 0.5, 3, signed=True).tolist()
        [-1.0, 0.5, 1.5]
    """
    run = arguments.quantize_fixed("quantize_fixed", values, bits, step, seed, start, dtype, channels, inner, codes)
    low, high = arguments.code_range(run.bits, signed)
    x = to_float32(values.reshape(-1), run.name)
    with np.errstate(all="ignore"):
        t = x * _per_value(_inverse(np.asarray(step, np.float32)), run)
    t = np.clip(np.where(np.isnan(t), np.float32(0), t), np.float32(low), np.float32(high))
    if run.seed is None:
        q = np.rint(t)
    else:
        q = np.floor(t)
        q += noise(run.seed, run.start, run.count) < t - q
    made = pack_integers(q.astype(np.int32).astype(np.uint16), run.bits)
    if codes is None:
        return made
    codes.reshape(-1)[...] = made
    return codes


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
    """The values of `quantize_fixed`'s codes: q * step in float32, rounded to `dtype`; a finite value stays finite."""
    run = arguments.dequantize_fixed("dequantize_fixed", codes, bits, step, count, channels, inner, dtype, out)
    q = unpack_integers(codes, run.bits, run.count).astype(np.int32)
    if signed:
        q -= (q >> (run.bits - 1)) << run.bits
    with np.errstate(all="ignore"):
        decoded = q.astype(np.float32) * _per_value(np.asarray(step, np.float32), run)
    made = narrow(decoded, run.name, saturate=True)
    if out is None:
        return made
    out.reshape(-1)[...] = made.view(out.dtype)
    return out


def _inverse(step: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        return np.where(step >= SMALLEST_STEP, np.float32(1) / step, np.float32(0)).astype(np.float32)


def _per_value(step: np.ndarray, run: arguments.FixedRun) -> np.ndarray:
    """The step of every value."""
    return np.resize(np.repeat(step.reshape(-1), run.inner), run.count)
