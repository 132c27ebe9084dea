"""One group of the group quantiser inside numba kernels: as kernels/_reference_group.py, to the bit."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from kernels._cpu_codes import SPAN, pack_span, unpack_span
from kernels._cpu_formats import bf16_down_bits, bf16_up_bits, bf16_value, bits_of, float_of
from kernels._cpu_noise import noise_24, noise_key, same_key
from kernels._cpu_threads import jit_inline
from kernels.formats import LARGEST

SMALLEST_RANGE = np.float32(2.0**-100)
F32_LARGEST = np.float32(LARGEST["float32"])
F32_NAN = np.float32(np.nan)
INFINITY_BITS = np.int32(0x7F800000)
# f(1 - f) is summed in integers of 2^-24: in vectors, without floats being added in another order.
ENERGY_UNIT = np.float32(2.0**24)


def _code_of(typing_context: Any, whole: Any, up: Any, top: Any) -> Any:
    """The whole number of a float32, one more if `up`, but at most `top`, as uint8; by hand, as `noise_24` is."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word = ir.IntType(32)
        code = builder.add(builder.fptosi(arguments[0], word), builder.zext(arguments[1], word))
        most = context.cast(builder, arguments[2], signature.args[2], types.int32)
        code = builder.select(builder.icmp_signed("<", code, most), code, most)
        return builder.trunc(code, ir.IntType(8))

    return types.uint8(types.float32, types.boolean, top), generate


code_of: Any = intrinsic(_code_of)


@jit_inline
def code_span(x: np.ndarray, minimum: float, inverse: float, top: int, low: int, key: int, q: np.ndarray) -> Any:
    """Codes of at most SPAN values whose indices share their upper half; returns the sum of f(1 - f) times 2^24."""
    energy = np.int32(0)
    for j in range(x.size):
        t = (x[j] - minimum) * inverse
        whole = np.floor(t)
        fraction = t - whole
        scaled = fraction * ENERGY_UNIT
        q[j] = code_of(whole, noise_24(low, j, key) < scaled, top)
        energy = np.int32(energy + np.int32(scaled * (np.float32(1) - fraction)))
    return energy


@jit_inline
def group_range(x: np.ndarray) -> Any:
    """Minimum and maximum, and whether all values are finite.

    Compared as integers in the order of the floats, with NaNs beyond the infinities: that is exact and runs in vectors.
    """
    lowest, highest = np.int32(0x7FFFFFFF), np.int32(-0x80000000)
    for j in range(x.size):
        bits = bits_of(x[j])
        key = np.int32(bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFFFFFF)))
        lowest, highest = min(lowest, key), max(highest, key)
    finite = highest < INFINITY_BITS and lowest > np.int32(-0x7F800001)
    low = float_of(np.int32(lowest ^ ((lowest >> np.int32(31)) & np.int32(0x7FFFFFFF))))
    high = float_of(np.int32(highest ^ ((highest >> np.int32(31)) & np.int32(0x7FFFFFFF))))
    return low, high, finite


@jit_inline
def set_group(
    g: int,
    wide: bool,
    minimum: float,
    minimum_bits: int,
    step_bits: int,
    minima: np.ndarray,
    wide_minima: np.ndarray,
    steps: np.ndarray,
) -> None:
    """Store a group's metadata in whichever array of minima is in use."""
    steps[g] = step_bits
    if wide:
        wide_minima[g] = minimum
    else:
        minima[g] = minimum_bits


@jit_inline
def encode_group(
    x: np.ndarray,
    bits: int,
    wide: bool,
    stream: int,
    index: int,
    q: np.ndarray,
    codes: np.ndarray,
    g: int,
    minima: np.ndarray,
    wide_minima: np.ndarray,
    steps: np.ndarray,
) -> Any:
    """Code group number g, whose first value is `index` of the noise; returns the sum of D^2 f(1 - f)."""
    low, high, finite = group_range(x)
    top = np.int32((1 << bits) - 1)
    low += np.float32(0)  # -0 becomes +0
    minimum = low if wide else bf16_value(bf16_down_bits(low))
    extent = high - minimum
    step_bits = bf16_up_bits(extent * (np.float32(1) / np.float32(top)))
    step = bf16_value(step_bits)
    # An extent of NaN gives a step without meaning, which is why `finite` is asked as well.
    if not (finite and abs(minimum + np.float32(top) * step) <= F32_LARGEST):
        set_group(g, wide, F32_NAN, np.uint16(0x7FC0), np.uint16(0x3F80), minima, wide_minima, steps)
        codes[: (x.size * bits + 7) // 8] = 0
        return np.nan
    inverse = np.float32(1) / step
    if extent < SMALLEST_RANGE:
        step_bits, step, inverse = np.uint16(0x3F80), np.float32(1), np.float32(0)
    set_group(g, wide, minimum, bf16_down_bits(minimum), step_bits, minima, wide_minima, steps)
    energy = np.int64(0)
    for first in range(0, x.size, SPAN):
        count, done = min(SPAN, x.size - first), 0
        while done < count:  # twice where the upper half of the index changes
            at = index + first + done
            size = same_key(at, count - done)
            part, key = x[first + done : first + done + size], noise_key(stream, at >> 32)
            energy += code_span(part, minimum, inverse, top, np.uint32(at), key, q[done:])
            done += size
        pack_span(q, count, bits, codes[first * bits // 8 :])
    return np.float64(step) * np.float64(step) * (np.float64(energy) / np.float64(ENERGY_UNIT))


@jit_inline
def decode_group(
    codes: np.ndarray, minimum: float, step: float, bits: int, count: int, q: np.ndarray, out: np.ndarray
) -> None:
    """Z + q*D for `count` values, whose codes start at codes[0], into out."""
    for first in range(0, count, SPAN):
        size = min(SPAN, count - first)
        unpack_span(codes[first * bits // 8 :], size, bits, q)
        into = out[first : first + size]
        for j in range(size):
            into[j] = minimum + np.float32(q[j]) * step


@jit_inline
def group_minimum(g: int, minima: np.ndarray, wide_minima: np.ndarray) -> Any:
    """Z of group g from whichever array of minima is in use (the other is empty)."""
    return bf16_value(minima[g]) if minima.size > 0 else wide_minima[g]


def split_minima(minima: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Minima as (uint16, float32) arrays, one of them empty: kernels take both, so that there is one type of them."""
    if minima.dtype == np.float32:
        return np.empty(0, np.uint16), minima.reshape(-1)
    return minima.reshape(-1), np.empty(0, np.float32)


# In place of codes, minima, wide minima, steps, bits and group where a kernel works without codes.
NO_CODES = (np.empty(0, np.uint8), np.empty(0, np.uint16), np.empty(0, np.float32), np.empty(0, np.uint16), 0, SPAN)
