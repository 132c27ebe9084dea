"""The arithmetic of the norm passes in NumPy: affine map with one rounding, activations, and their masks."""

from __future__ import annotations

import numpy as np

from kernels._reference_exact import pack_integers, regions, unpack_bits, unpack_regions


def rows_of(array: np.ndarray) -> np.ndarray:
    """An array of channels as (outer, C, inner), a view."""
    return array[:, :, None] if array.ndim == 2 else array


def affine(x: np.ndarray, scale: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """x * scale + shift of (outer, C, inner) values, by `multiply_add`."""
    return multiply_add(x, scale[:, None], shift[:, None])


def multiply_add(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a * b + c: of float32 rounded once, as processors' fused instruction does; of float64 rounded twice.

    In float64 the product of two float32 is exact. The sum is not, and rounded to float64 it could fall on the middle
    between two float32 and then to the wrong side. So what it leaves over is found (Knuth's two-sum, exact), and an
    inexact sum is rounded to the neighbour whose last bit is 1, from where no later rounding is misled.

    Source:
        S. Boldo and G. Melquiond, Emulation of FMA and correctly rounded sums: proved algorithms using rounding to odd
        (2008).
    """
    with np.errstate(all="ignore"):
        if a.dtype == np.float64:
            return a * b + c
        product = a.astype(np.float64) * b
        total = product + c
        added = total - product
        error = (product - (total - added)) + (c - added)
        misleading = np.isfinite(total) & (error != 0) & (total.view(np.int64) & 1 == 0)
        return np.where(misleading, np.nextafter(total, np.copysign(np.inf, error)), total).astype(np.float32)


def activate(u: np.ndarray, activation: str, slope: float) -> np.ndarray:
    """The activation of u."""
    if activation == "identity":
        return u
    if activation == "leaky_relu":
        with np.errstate(all="ignore"):
            return np.where(u > 0, u, u * u.dtype.type(slope))
    # Written so that NaN passes, as it does in the frameworks.
    u = np.where(u < 0, u.dtype.type(0), u)
    return np.where(u > 6, u.dtype.type(6), u) if activation == "relu6" else u


def mask_of(u: np.ndarray, activation: str) -> np.ndarray:
    """The activation's mask: 1 bit u > 0, for relu6 2-bit regions."""
    flat = u.reshape(-1)
    if activation == "relu6":
        return pack_integers(regions(flat, 0.0, 6.0), 2)
    return np.packbits(flat > 0, bitorder="little")


def masked(d: np.ndarray, mask: np.ndarray | None, activation: str, slope: float) -> np.ndarray:
    """d times the activation's derivative; chosen, not multiplied, so that what is masked out may be NaN."""
    if mask is None:
        return d
    flags = unpack_regions(mask, d.size) if activation == "relu6" else unpack_bits(mask, d.size)
    with np.errstate(all="ignore"):
        other = d * d.dtype.type(slope) if activation == "leaky_relu" else d.dtype.type(0)
    return np.where(flags.reshape(d.shape) == 1, d, other)


def rebuilt(
    zhat: np.ndarray, weight: np.ndarray, bias: np.ndarray, mask: np.ndarray | None, activation: str, slope: float
) -> np.ndarray:
    """The activation of weight * zhat + bias that the mask says, whatever the sign of that number."""
    a = masked(affine(zhat, weight, bias), mask, activation, slope)
    if activation == "relu6" and mask is not None:
        return np.where(unpack_regions(mask, a.size).reshape(a.shape) == 2, a.dtype.type(6), a)
    return a
