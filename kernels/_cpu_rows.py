"""Access of numba kernels to arrays of channels, (rows, C) or (N, C, P), that may be channel slices of wider buffers.

Kernels get addresses and make contiguous rows of them, for only on such does the compiler make vectors. Work goes by
*units*, a row of (rows, C) or a plane of (N, C, P), or by the flat order of codes and masks, in segments of units. In
planes a channel's constants are first spread over a vector, so that one loop serves both layouts. Loops choose by masks
over whole spans and read before they choose: what does not become vectors becomes branches, often guessed wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numba.np.arrayobj import make_array, populate_array

from kernels._cpu_formats import load, multiply_add, window
from kernels._cpu_threads import jit, jit_inline, jit_sum
from kernels.norm_arguments import Rows

# Types that kernels see 16-bit formats as, and the others.
KINDS: Mapping[str, type] = MappingProxyType(
    {"float16": np.int16, "bfloat16": np.uint16, "float32": np.float32, "float64": np.float64}
)
# More values than a row can have.
ENDLESS = 2**48
# Values of a plane that are worked on together.
SEGMENT = 1024
# Rows summed in float32 before the sums go on in float64.
ROWS_IN_FLOAT32 = 32
IDENTITY, RELU, RELU6, LEAKY_RELU = range(4)
ACTIVATION_NAMES = ("identity", "relu", "relu6", "leaky_relu")
SIX = 6.0


def places_of(rows: Rows, *arrays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where arrays of channels lie: address of the first row and bytes from row to row; and an array of their type.

    Addresses, because views of other layouts would be other types to numba, and each mix of types a compilation. The
    arrays have to outlive the call.
    """
    numbers = [part for array in arrays for part in (array.ctypes.data, array.strides[0])]
    return np.array(numbers, np.int64), np.empty(0, KINDS[rows.name])


def _row_at(typing_context: Any, places: Any, k: Any, i: Any, like: Any) -> Any:
    """Row i of the k-th array of `places_of`, of the type of `like`; it has no end that is known here."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        table = make_array(signature.args[0])(context, builder, arguments[0])
        word, index = ir.IntType(64), context.cast(builder, arguments[1], signature.args[1], types.intp)
        at = builder.mul(index, ir.Constant(word, 2))
        start = builder.load(builder.gep(table.data, [at]))
        stride = builder.load(builder.gep(table.data, [builder.add(at, ir.Constant(word, 1))]))
        row = context.cast(builder, arguments[2], signature.args[2], types.intp)
        address = builder.add(start, builder.mul(row, stride))
        model = make_array(signature.args[3])(context, builder, arguments[3])
        made = make_array(signature.return_type)(context, builder)
        populate_array(
            made,
            data=builder.inttoptr(address, model.data.type),
            shape=[ir.Constant(word, ENDLESS)],
            strides=[model.itemsize],
            itemsize=model.itemsize,
            meminfo=None,
        )
        return made._getvalue()

    return like(places, k, i, like), generate


row_at: Any = intrinsic(_row_at)


def activation_number(name: str) -> int:
    """The activation as kernels take it."""
    return ACTIVATION_NAMES.index(name)


def unit_length(rows: Rows) -> int:
    """Values of a unit that are worked on together."""
    return rows.channels if rows.inner == 1 else min(rows.inner, SEGMENT)


@jit_inline
def unit_length_of(channels: int, inner: int) -> int:
    """Values of a unit."""
    return channels if inner == 1 else inner


@jit_inline
def unit_range(t: int, parts: int, outer: int, channels: int, inner: int) -> tuple[int, int, int]:
    """First and last unit (exclusive) of part t, and the values of a unit."""
    units = outer if inner == 1 else outer * channels
    return t * units // parts, (t + 1) * units // parts, unit_length_of(channels, inner)


@jit_inline
def unit_place(unit: int, channels: int, inner: int) -> tuple[int, int]:
    """Row and (first) channel of a unit."""
    return (unit, 0) if inner == 1 else (unit // channels, unit % channels)


@jit_inline
def segment_place(unit: int, place: int, channels: int, inner: int) -> tuple[int, int, int]:
    """Row of a unit, place in the row and channel of the unit's value number `place`."""
    if inner == 1:
        return unit, place, place
    row = unit // channels
    c = unit - row * channels
    return row, c * inner + place, c


@jit_inline
def collect(
    k: int, first: int, size: int, places: np.ndarray, like: np.ndarray, channels: int, inner: int, out: np.ndarray
) -> None:
    """`size` values from flat index `first` on of the k-th array, one after the other, in the type of `out`."""
    length = unit_length_of(channels, inner)
    unit, place, done = first // length, first % length, 0
    while done < size:
        i, at, _ = segment_place(unit, place, channels, inner)
        count = min(length - place, size - done)
        row, into = row_at(places, k, i, like), out[done : done + count]
        load(row, at, count, into)
        copy(window(row, at, count, into), into)
        unit, place, done = unit + 1, 0, done + count


@jit_inline
def spread(vector: np.ndarray, c: int, buffer: np.ndarray) -> None:
    """Fill the buffer with a channel's constant."""
    for j in range(buffer.size):
        buffer[j] = vector[c]


@jit_inline
def copy(source: np.ndarray, into: np.ndarray) -> None:
    """Copy a vector to the beginning of another; an assignment of slices would first make a copy of its own."""
    for j in range(source.size):
        into[j] = source[j]


@jit
def flush(near: np.ndarray, sums: np.ndarray) -> None:
    """Move sums of the arithmetic's type into float64 ones, both of shape (2, channels)."""
    for k in range(2):
        source, into = near[k], sums[k]
        for j in range(source.size):
            into[j] += source[j]
            source[j] = 0


@jit_sum
def total(vector: np.ndarray) -> Any:
    """The sum of a vector, in float64."""
    s = np.float64(0)
    for j in range(vector.size):
        s += np.float64(vector[j])
    return s


@jit_inline
def activate(x: np.ndarray, scale: np.ndarray, shift: np.ndarray, kind: int, slope: float, out: np.ndarray) -> None:
    """out = activation(x * scale + shift); NaN passes. x and out may be one array."""
    zero, six = out.dtype.type(0), out.dtype.type(SIX)
    if kind == LEAKY_RELU:
        for j in range(x.size):
            u = multiply_add(x[j], scale[j], shift[j])
            out[j] = u if u > zero else u * slope
        return
    if kind == IDENTITY:
        for j in range(x.size):
            out[j] = multiply_add(x[j], scale[j], shift[j])
    elif kind == RELU:
        for j in range(x.size):
            u = multiply_add(x[j], scale[j], shift[j])
            out[j] = zero if u < zero else u
    else:
        for j in range(x.size):
            u = multiply_add(x[j], scale[j], shift[j])
            u = zero if u < zero else u
            out[j] = six if u > six else u


@jit_inline
def flag(x: np.ndarray, scale: np.ndarray, shift: np.ndarray, kind: int, flags: np.ndarray) -> None:
    """The activation's mask, a byte a value: u > 0, or the region of relu6."""
    zero, six = x.dtype.type(0), x.dtype.type(SIX)
    if kind == RELU6:
        for j in range(x.size):
            u = multiply_add(x[j], scale[j], shift[j])
            flags[j] = np.uint8(0) if u <= zero else (np.uint8(2) if u >= six else np.uint8(1))
    else:
        for j in range(x.size):
            u = multiply_add(x[j], scale[j], shift[j])
            flags[j] = np.uint8(u > zero)


@jit_inline
def gate(
    d: np.ndarray, x: np.ndarray, scale: np.ndarray, shift: np.ndarray, kind: int, slope: float, out: np.ndarray
) -> None:
    """out = d times the derivative at x * scale + shift of identity, relu6 or leaky_relu (relu has its own loop)."""
    zero, six = out.dtype.type(0), out.dtype.type(SIX)
    if kind == IDENTITY:
        for j in range(d.size):
            out[j] = d[j]
    elif kind == RELU6:
        for j in range(d.size):
            u = multiply_add(x[j], scale[j], shift[j])
            value = d[j]
            out[j] = zero if (u <= zero) | (u >= six) else value
    else:
        for j in range(d.size):
            u = multiply_add(x[j], scale[j], shift[j])
            value = d[j]
            out[j] = value if u > zero else value * slope


@jit_inline
def choose(d: np.ndarray, flags: np.ndarray, kind: int, slope: float, high: float, out: np.ndarray) -> None:
    """out = d where the flag is 1; else what is left of it: `high` at 2, d * slope for leaky_relu, or 0."""
    zero = out.dtype.type(0)
    if kind == IDENTITY:
        for j in range(d.size):
            out[j] = d[j]
    elif kind == LEAKY_RELU:
        for j in range(d.size):
            value = d[j]
            out[j] = value if flags[j] == 1 else value * slope
    else:
        for j in range(d.size):
            value = d[j]
            other = high if flags[j] == 2 else zero
            out[j] = value if flags[j] == 1 else other
