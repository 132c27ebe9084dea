"""Exact codes in NumPy: masks, regions, integers of few bits, zero-value compression."""

from __future__ import annotations

import numpy as np

from kernels import arguments
from kernels.formats import widen


def pack_integers(values: np.ndarray, bits: int, *, codes: np.ndarray | None = None) -> np.ndarray:
    """Pack unsigned integers into `bits` bits each: value i at bits [i*b, (i+1)*b) of the stream, low bits first.

    Args:
        values: uint16 or uint8, C-contiguous; bits above the width are cut off.
        bits: 1..16.
        codes: uint8 array to write into.

    Example:
        >>> pack_integers(np.uint16([1, 2, 3]), 3).tolist()  # 011'010'001
        [209, 0]
    """
    bits = arguments.packed("pack_integers", "values", values, bits, codes, "uint16", "uint8")
    spread = values.reshape(-1, 1).astype(np.uint16) >> np.arange(bits, dtype=np.uint16) & np.uint16(1)
    return _into(codes, np.packbits(spread.astype(np.uint8), bitorder="little"))


def unpack_integers(codes: np.ndarray, bits: int, count: int, *, out: np.ndarray | None = None) -> np.ndarray:
    """The integers of `pack_integers`, uint16."""
    bits, count = arguments.unpacked("unpack_integers", codes, bits, count, out, "uint16")
    spread = np.unpackbits(codes.reshape(-1), bitorder="little")[: count * bits].reshape(count, bits)
    weights = np.left_shift(np.uint16(1), np.arange(bits, dtype=np.uint16))
    return _into(out, (spread * weights).sum(axis=1, dtype=np.uint16))


def pack_bits(flags: np.ndarray, *, codes: np.ndarray | None = None) -> np.ndarray:
    """Pack flags (uint8 or bool, not zero = 1), eight to a byte, low bits first.

    Example:
        >>> pack_bits(np.array([True, False, True])).tolist()
        [5]
    """
    arguments.packed("pack_bits", "flags", flags, 1, codes, "uint8", "bool")
    return _into(codes, np.packbits(flags.reshape(-1) != 0, bitorder="little"))


def unpack_bits(codes: np.ndarray, count: int, *, out: np.ndarray | None = None) -> np.ndarray:
    """The flags of `pack_bits`, uint8 0 or 1."""
    _, count = arguments.unpacked("unpack_bits", codes, 1, count, out, "uint8")
    return _into(out, np.unpackbits(codes.reshape(-1), bitorder="little")[:count])


def pack_positive(values: np.ndarray, *, dtype: str | None = None, codes: np.ndarray | None = None) -> np.ndarray:
    """The mask of a ReLU from its input or output: 1 bit a value, v > 0 (NaN: 0), compared in the values' own dtype."""
    name = arguments.compared("pack_positive", values, dtype, codes, 1)
    flat = widen(values.reshape(-1), name)
    return _into(codes, np.packbits(flat > 0, bitorder="little"))


def pack_regions(
    values: np.ndarray, low: float, high: float, *, dtype: str | None = None, codes: np.ndarray | None = None
) -> np.ndarray:
    """Which piece of a three-piece function each value lies on, 2 bits: 0 (v <= low), 2 (v >= high), else 1 (NaN too).

    Raises:
        ValueError: low is not below high.
    """
    arguments.thresholds("pack_regions", low, high)
    name = arguments.compared("pack_regions", values, dtype, codes, 2)
    flat = widen(values.reshape(-1), name)
    return _into(codes, pack_integers(regions(flat, low, high), 2))


def regions(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """0, 1 or 2 for every value, uint8; the thresholds are rounded to the values' type."""
    below, above = values <= values.dtype.type(low), values >= values.dtype.type(high)
    return np.where(below, np.uint8(0), np.where(above, np.uint8(2), np.uint8(1)))


def unpack_regions(codes: np.ndarray, count: int, *, out: np.ndarray | None = None) -> np.ndarray:
    """The regions of `pack_regions`, uint8 0, 1 or 2."""
    _, count = arguments.unpacked("unpack_regions", codes, 2, count, out, "uint8")
    return _into(out, unpack_integers(codes, 2, count).astype(np.uint8))


def zero_compress(values: np.ndarray, *, dtype: str | None = None) -> tuple[np.ndarray, np.ndarray, int]:
    """Mask bits of the values that are not zero, those values in order, and how many they are.

    Lossless but for the sign of zeros: -0 counts as zero (dropout makes many) and comes back as +0.

    Example:
        >>> mask, kept, count = zero_compress(np.float32([0, 5, 0, 7]))
        >>> mask.tolist(), kept.tolist(), count
        ([10], [5.0, 7.0], 2)
    """
    name = arguments.compared("zero_compress", values, dtype, None, 1)
    keep = widen(values.reshape(-1), name) != 0
    kept = values.reshape(-1)[keep]
    return np.packbits(keep, bitorder="little"), kept, int(kept.size)


def zero_expand(mask: np.ndarray, nonzeros: np.ndarray, count: int, *, out: np.ndarray | None = None) -> np.ndarray:
    """Put the values of `zero_compress` back among zeros; `count` values in all, in the dtype of `nonzeros`.

    Raises:
        ValueError: the mask has another number of ones than there are values.
    """
    count = arguments.zero_expand("zero_expand", mask, nonzeros, count, out)
    keep = unpack_bits(mask, count).astype(bool)
    arguments.same_ones("zero_expand", int(keep.sum()), nonzeros.size)
    if out is None:
        out = np.empty(count, nonzeros.dtype)
    flat = out.reshape(-1)
    flat[...] = 0
    flat[keep] = nonzeros.reshape(-1)
    return out


def _into(out: np.ndarray | None, made: np.ndarray) -> np.ndarray:
    if out is None:
        return made
    out.reshape(-1)[...] = made
    return out
