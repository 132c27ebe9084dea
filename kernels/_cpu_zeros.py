"""Zero-value compression in numba: a mask, and the values that are not zero."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numba
import numpy as np

from kernels import arguments
from kernels._cpu_codes import SPAN, pack_span, unpack_span
from kernels._cpu_threads import jit, jit_parallel, most_threads, run

# Values that a thread counts, then moves, at a time.
BLOCK = 64 * SPAN
# A float is zero, of either sign, if its bits but the sign are: so it can be told in unsigned integers.
UNSIGNED: Mapping[int, type] = MappingProxyType({2: np.uint16, 4: np.uint32, 8: np.uint64})


@jit
def mask_part(t: int, parts: int, args: tuple[Any, ...], scratch: np.ndarray) -> None:
    """Mask of part t of the blocks, and how many values of each are not zero."""
    bits, magnitude, mask, ones = args
    q = scratch[t]
    for b in range(t * ones.size // parts, (t + 1) * ones.size // parts):
        found = 0
        for first in range(b * BLOCK, min((b + 1) * BLOCK, bits.size), SPAN):
            count = min(SPAN, bits.size - first)
            source = bits[first : first + count]
            part: Any = np.int32(0)
            for j in range(count):
                keep = np.uint8((source[j] & magnitude) != 0)
                q[j] = keep
                part = np.int32(part + np.int32(keep))
            found += part
            pack_span(q, count, 1, mask[first // 8 :])
        ones[b] = found


@jit_parallel
def mask_parts(parts: int, args: tuple[Any, ...], scratch: np.ndarray) -> None:
    for t in numba.prange(parts):
        mask_part(np.int64(t), parts, args, scratch)


@jit
def count_part(t: int, parts: int, args: tuple[Any, ...], scratch: np.ndarray) -> None:
    """Ones of part t of the blocks of a mask."""
    mask, count, ones = args
    q = scratch[t]
    for b in range(t * ones.size // parts, (t + 1) * ones.size // parts):
        found = 0
        for first in range(b * BLOCK, min((b + 1) * BLOCK, count), SPAN):
            size = min(SPAN, count - first)
            unpack_span(mask[first // 8 :], size, 1, q)
            part: Any = np.int32(0)
            for j in range(size):
                part = np.int32(part + np.int32(q[j]))
            found += part
        ones[b] = found


@jit_parallel
def count_parts(parts: int, args: tuple[Any, ...], scratch: np.ndarray) -> None:
    for t in numba.prange(parts):
        count_part(np.int64(t), parts, args, scratch)


@jit
def move_part(t: int, parts: int, args: tuple[Any, ...], scratch: np.ndarray) -> None:
    """Values of part t of the blocks out of (`compress`) or in among zeros; `places` is where each block's begin.

    A value is always moved and its place only then kept or not, because a branch would be guessed wrong half the time;
    so in a span's own room, where one too many harms nobody.
    """
    full, few, mask, places, compress, rooms = args
    q, room = scratch[t], rooms[t]
    for b in range(t * places.size // parts, (t + 1) * places.size // parts):
        begin = places[b]
        for first in range(b * BLOCK, min((b + 1) * BLOCK, full.size), SPAN):
            count = min(SPAN, full.size - first)
            unpack_span(mask[first // 8 :], count, 1, q)
            part, k = full[first : first + count], np.int64(0)
            if compress:
                for j in range(count):
                    room[k] = part[j]
                    k += q[j]
                into = few[begin : begin + k]
                for j in range(k):
                    into[j] = room[j]
            else:
                source = few[begin : begin + SPAN]
                for j in range(source.size):
                    room[j] = source[j]
                for j in range(count):
                    part[j] = room[k] * full.dtype.type(q[j])
                    k += q[j]
            begin += k


@jit_parallel
def move_parts(parts: int, args: tuple[Any, ...], scratch: np.ndarray) -> None:
    for t in numba.prange(parts):
        move_part(np.int64(t), parts, args, scratch)


def _unsigned(array: np.ndarray) -> np.ndarray:
    # What is read and what is written have one type in `move_part`: read-only or unaligned values are copied.
    return np.require(array, requirements=("A", "W")).reshape(-1).view(UNSIGNED[array.itemsize])


def _blocks(count: int) -> np.ndarray:
    return np.zeros(-(-count // BLOCK), np.int64)


def _before(ones: np.ndarray) -> np.ndarray:
    """Where each block's values begin among those that are not zero."""
    return np.cumsum(ones) - ones


def _rooms(like: np.ndarray) -> np.ndarray:
    """A span and one value more for every thread."""
    return np.empty((most_threads(), SPAN + 1), like.dtype)


def zero_compress(values: np.ndarray, *, dtype: str | None = None) -> tuple[np.ndarray, np.ndarray, int]:
    """As `kernels.reference.zero_compress`."""
    arguments.compared("zero_compress", values, dtype, None, 1)
    bits, scratch = _unsigned(values), np.empty((most_threads(), SPAN), np.uint8)
    magnitude = bits.dtype.type(2 ** (8 * values.itemsize - 1) - 1)
    mask, ones = np.empty((values.size + 7) // 8, np.uint8), _blocks(values.size)
    run(mask_parts, mask_part, values.size, (bits, magnitude, mask, ones), scratch)
    count = int(ones.sum())
    kept = np.empty(count, values.dtype)
    run(move_parts, move_part, values.size, (bits, _unsigned(kept), mask, _before(ones), True, _rooms(bits)), scratch)
    return mask, kept, count


def zero_expand(mask: np.ndarray, nonzeros: np.ndarray, count: int, *, out: np.ndarray | None = None) -> np.ndarray:
    """As `kernels.reference.zero_expand`."""
    count = arguments.zero_expand("zero_expand", mask, nonzeros, count, out)
    flat, ones, scratch = mask.reshape(-1), _blocks(count), np.empty((most_threads(), SPAN), np.uint8)
    run(count_parts, count_part, count, (flat, count, ones), scratch)
    arguments.same_ones("zero_expand", int(ones.sum()), nonzeros.size)
    made = np.empty(count, nonzeros.dtype) if out is None else out
    args = (_unsigned(made), _unsigned(nonzeros), flat, _before(ones), False, _rooms(_unsigned(made)))
    run(move_parts, move_part, count, args, scratch)
    return made
