"""Packing of small integers inside numba kernels: 256 values at a time, from and to one byte each, or two."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

from kernels._cpu_threads import jit

# Values packed at a time: few enough for the fastest memory, and 1-bit codes of so many are whole bytes.
SPAN = 256


def _word_at(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """Pointer to the eight bytes from an index of a uint8 array on, whatever their alignment."""
    array = make_array(signature.args[0])(context, builder, arguments[0])
    index = context.cast(builder, arguments[1], signature.args[1], types.intp)
    return builder.bitcast(builder.gep(array.data, [index]), ir.IntType(64).as_pointer())


def _load_word(typing_context: Any, codes: Any, index: Any) -> Any:
    """Eight bytes as an integer, the first lowest."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(_word_at(context, builder, signature, arguments), align=1)

    return types.uint64(codes, index), generate


def _store_word(typing_context: Any, codes: Any, index: Any, word: Any) -> Any:
    """Write an integer as eight bytes, the lowest first."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.store(arguments[2], _word_at(context, builder, signature, arguments), align=1)
        return context.get_dummy_value()

    return types.void(codes, index, types.uint64), generate


load_word: Any = intrinsic(_load_word)
store_word: Any = intrinsic(_store_word)


@jit
def pack_span(q: np.ndarray, count: int, bits: int, codes: np.ndarray) -> None:
    """Pack q[:count], uint8 codes of 1, 2, 4 or 8 bits; q has room for SPAN values and is overwritten past `count`."""
    size = (count * bits + 7) // 8
    for j in range(count, min((count + 7) // 8 * 8, q.size)):
        q[j] = 0
    if bits == 8:
        for j in range(size):
            codes[j] = q[j]
    elif bits == 4:
        pairs = q.view(np.uint16)
        for j in range(size):
            w = np.uint32(pairs[j])
            codes[j] = (w | (w >> np.uint32(4))) & np.uint32(0xFF)
    elif bits == 2:
        fours = q.view(np.uint32)
        for j in range(size):
            w = fours[j]
            codes[j] = (w | (w >> np.uint32(6)) | (w >> np.uint32(12)) | (w >> np.uint32(18))) & np.uint32(0xFF)
    else:
        eights = q.view(np.uint64)
        for j in range(size):
            x = eights[j]
            x |= x >> np.uint64(7)
            x |= x >> np.uint64(14)
            x |= x >> np.uint64(28)
            codes[j] = x & np.uint64(0xFF)


@jit
def unpack_span(codes: np.ndarray, count: int, bits: int, q: np.ndarray) -> None:
    """Unpack `count` codes of 1, 2, 4 or 8 bits into q, uint8 with room for SPAN values."""
    size = (count * bits + 7) // 8
    if bits == 8:
        for j in range(size):
            q[j] = codes[j]
    elif bits == 4:
        pairs = q.view(np.uint16)
        for j in range(size):
            w = np.uint32(codes[j])
            pairs[j] = (w | (w << np.uint32(4))) & np.uint32(0x0F0F)
    elif bits == 2:
        fours = q.view(np.uint32)
        for j in range(size):
            w = np.uint32(codes[j])
            w |= (w << np.uint32(6)) | (w << np.uint32(12)) | (w << np.uint32(18))
            fours[j] = w & np.uint32(0x03030303)
    else:
        eights = q.view(np.uint64)
        for j in range(size):
            x = np.uint64(codes[j])
            x = (x | (x << np.uint64(28))) & np.uint64(0x0000000F0000000F)
            x = (x | (x << np.uint64(14))) & np.uint64(0x0003000300030003)
            eights[j] = (x | (x << np.uint64(7))) & np.uint64(0x0101010101010101)


@jit
def pack_wide_span(q: np.ndarray, count: int, bits: int, codes: np.ndarray) -> None:
    """Pack q[:count], uint16 integers, in any width 1..16: eight values make `bits` bytes."""
    mask = np.uint64((1 << bits) - 1)
    size = (count * bits + 7) // 8
    for j in range(count, min((count + 7) // 8 * 8, q.size)):
        q[j] = 0
    half = np.uint64(4 * bits)
    for block in range((count + 7) // 8):
        low, high = np.uint64(0), np.uint64(0)
        for k in range(4):
            shift = np.uint64(k * bits)
            low |= (np.uint64(q[8 * block + k]) & mask) << shift
            high |= (np.uint64(q[8 * block + 4 + k]) & mask) << shift
        # A shift by 64 is not defined; at 16 bits the halves are whole words.
        first = low | (high << half) if bits < 16 else low
        second = high >> (np.uint64(64) - half) if bits < 16 else high
        at = block * bits
        if at + 16 <= size:  # bytes past the block's own are written again by the next blocks of this span
            store_word(codes, at, first)
            if bits > 8:
                store_word(codes, at + 8, second)
        else:
            for k in range(min(bits, size - at)):
                word = first if k < 8 else second
                codes[at + k] = np.uint8((word >> np.uint64(8 * (k & 7))) & np.uint64(0xFF))


@jit
def unpack_wide_span(codes: np.ndarray, count: int, bits: int, q: np.ndarray) -> None:
    """Unpack `count` integers of any width 1..16 into q, uint16 with room for SPAN values."""
    mask = np.uint64((1 << bits) - 1)
    size = (count * bits + 7) // 8
    half = np.uint64(4 * bits)
    for block in range((count + 7) // 8):
        at = block * bits
        first, second = np.uint64(0), np.uint64(0)
        if at + 16 <= size:
            first, second = load_word(codes, at), load_word(codes, at + 8)
        else:
            for k in range(min(bits, size - at)):
                byte = np.uint64(codes[at + k]) << np.uint64(8 * (k & 7))
                if k < 8:
                    first |= byte
                else:
                    second |= byte
        low = first
        high = (first >> half) | (second << (np.uint64(64) - half)) if bits < 16 else second
        for k in range(4):
            shift = np.uint64(k * bits)
            q[8 * block + k] = np.uint16((low >> shift) & mask)
            q[8 * block + 4 + k] = np.uint16((high >> shift) & mask)
