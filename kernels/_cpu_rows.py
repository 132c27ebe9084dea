"""Access of numba kernels to arrays of channels, (rows, C) or (N, C, P), that may be channel slices of wider buffers.

Kernels get addresses and make contiguous rows of them. Some go by *units*: a row of (rows, C), several rows at a time
where they are short and lie without gaps, or a plane of (N, C, P). Those that code or use masks go in the flat order of
codes, a span at a time, read in place where arrays have no gaps and collected from segments of units where they have.
A channel's constants stand in vectors, repeated as often as a unit or a span may need them; in planes they are first
spread over a vector, so that one loop serves both layouts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numba.np.arrayobj import make_array, populate_array

from kernels._cpu_formats import load, store, window
from kernels._cpu_loops import copy
from kernels._cpu_memory import VALUES_AHEAD, fetch_span, rows_ahead
from kernels._cpu_threads import jit, jit_inline, jit_sum

# More values than a row can have.
ENDLESS = 2**48
# Rows summed in float32 before the sums go on in float64.
ROWS_IN_FLOAT32 = 32


def _row_at(typing_context: Any, places: Any, k: Any, i: Any, like: Any) -> Any:
    """Row i of the k-th array, of the type of `like`; it has no end that is known here."""

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


def _window_if(typing_context: Any, use: Any, row: Any, first: Any, count: Any, buffer: Any) -> Any:
    """row[first:first + count] if `use` and if it has the buffer's type, else buffer[:count]."""
    same = row.dtype == buffer.dtype
    result = types.Array(buffer.dtype, 1, "C")

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = make_array(signature.args[4])(context, builder, arguments[4]).data
        whole = make_array(signature.args[1])(context, builder, arguments[1])
        if same:
            index = context.cast(builder, arguments[2], signature.args[2], types.intp)
            chosen = context.cast(builder, arguments[0], signature.args[0], types.boolean)
            data = builder.select(chosen, builder.gep(whole.data, [index]), data)
        itemsize = context.get_constant(types.intp, context.get_abi_sizeof(context.get_value_type(buffer.dtype)))
        made = make_array(result)(context, builder)
        populate_array(
            made,
            data=data,
            shape=[context.cast(builder, arguments[3], signature.args[3], types.intp)],
            strides=[itemsize],
            itemsize=itemsize,
            meminfo=None,
        )
        return made._getvalue()

    return result(use, row, first, count, buffer), generate


window_if: Any = intrinsic(_window_if)


@jit_inline
def unit_place(unit: int, channels: int, inner: int) -> tuple[int, int]:
    """Row and (first) channel of a unit."""
    return (unit, 0) if inner == 1 else (unit // channels, unit % channels)


@jit_inline
def segment_place(unit: int, place: int, channels: int, inner: int) -> tuple[int, int, int]:
    """Row of a row or plane, place in the row and channel of its value number `place`."""
    if inner == 1:
        return unit, place, place
    row = unit // channels
    c = unit - row * channels
    return row, c * inner + place, c


@jit_inline
def fetch(k: int, i: int, at: int, count: int, places: np.ndarray, like: np.ndarray) -> None:
    """Ask for `count` values of row i of the k-th array, which will soon be needed, and may not exist."""
    fetch_span(row_at(places, k, i, like), at, count)


@jit_inline
def read(k: int, first: int, size: int, layout: tuple[Any, ...], buffer: np.ndarray) -> None:
    """Bring `size` values from flat index `first` on of the k-th array into the buffer, if not used in place."""
    places, like, channels, inner, dense = layout
    if dense:
        fetch(k, 0, first + VALUES_AHEAD, size, places, like)
        load(row_at(places, k, 0, like), first, size, buffer)
        return
    length = channels if inner == 1 else inner
    unit, place, done, ahead = first // length, first % length, 0, rows_ahead(length) if inner == 1 else 0
    while done < size:
        i, at, _ = segment_place(unit, place, channels, inner)
        count = min(length - place, size - done)
        row, into = row_at(places, k, i, like), buffer[done : done + count]
        fetch(k, i + ahead, at, count, places, like)
        load(row, at, count, into)
        copy(window(row, at, count, into), into)
        unit, place, done = unit + 1, 0, done + count


@jit_inline
def write(k: int, first: int, size: int, layout: tuple[Any, ...], buffer: np.ndarray) -> None:
    """Put `size` values of the buffer at flat index `first` of the k-th array, if they are not there."""
    places, like, channels, inner, dense = layout
    if dense:
        store(row_at(places, k, 0, like), first, size, buffer, False)
        return
    length = channels if inner == 1 else inner
    unit, place, done, ahead = first // length, first % length, 0, rows_ahead(length) if inner == 1 else 0
    while done < size:
        i, at, _ = segment_place(unit, place, channels, inner)
        count = min(length - place, size - done)
        fetch(k, i + ahead, at, count, places, like)
        row, part = row_at(places, k, i, like), buffer[done : done + count]
        store(row, at, count, part, False)
        copy(part, window(row, at, count, part))
        unit, place, done = unit + 1, 0, done + count


@jit_inline
def spread(vector: np.ndarray, c: int, buffer: np.ndarray) -> None:
    """Fill the buffer with a channel's constant."""
    for j in range(buffer.size):
        buffer[j] = vector[c]


@jit_inline
def constants(vector: np.ndarray, inner: int, room: np.ndarray) -> None:
    """For rows, fill the room with a vector's constants, repeated (planes are to be `spread` one by one)."""
    if inner == 1:
        for first in range(0, room.size, vector.size):
            copy(vector[: room.size - first], room[first:])


@jit_inline
def spread_span(vector: np.ndarray, first: int, size: int, channels: int, inner: int, buffer: np.ndarray) -> None:
    """Fill the buffer with the constants of `size` values from flat index `first` on of planes."""
    unit, place, done = first // inner, first % inner, 0
    while done < size:
        count = min(inner - place, size - done)
        spread(vector, unit % channels, buffer[done : done + count])
        unit, place, done = unit + 1, 0, done + count


@jit_inline
def total_span(values: np.ndarray, first: int, channels: int, inner: int, sums: np.ndarray) -> None:
    """Add values from flat index `first` on of planes to their channels' sums."""
    unit, place, done = first // inner, first % inner, 0
    while done < values.size:
        count = min(inner - place, values.size - done)
        sums[unit % channels] += total(values[done : done + count])
        unit, place, done = unit + 1, 0, done + count


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
