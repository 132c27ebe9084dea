"""The noise of stochastic rounding, in NumPy: a counter hash, so that every backend draws the same numbers."""

from __future__ import annotations

import numpy as np

from kernels import checks

GOLDEN64 = 0x9E3779B97F4A7C15
GOLDEN32 = np.uint32(0x9E3779B9)
MASK64 = 2**64 - 1


def mix64(value: int) -> int:
    """splitmix64's finaliser: a bijection of 64-bit integers in which every input bit moves every output bit."""
    value &= MASK64
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK64
    return value ^ (value >> 31)


def noise_key(seed: int, high: int) -> int:
    """32 bits that depend on all of the seed and on the upper half of the element index.

    The seed is mixed before anything is added to it: hashing `index ^ seed` with consecutive seeds would only permute
    the same noise.
    """
    return mix64(mix64(seed + GOLDEN64) + high * GOLDEN64) >> 32


def noise(seed: int, start: int, count: int) -> np.ndarray:
    """Uniform numbers in [0, 1) for the elements start..start+count-1: float32 multiples of 2^-24.

    Raises:
        TypeError: an argument is not an integer.
        ValueError: an argument is out of range.

    Example:
        >>> noise(7, 0, 3).tolist() == noise(7, 1, 2).tolist()
        False
        >>> noise(7, 0, 3)[1:].tolist() == noise(7, 1, 2).tolist()
        True
    """
    seed = checks.seed_of("noise", seed)
    count = checks.count_of("noise", count)
    start = checks.first_index("noise", start, count)
    index = np.uint64(start) + np.arange(count, dtype=np.uint64)
    high = index >> np.uint64(32)
    keys = np.empty(count, np.uint32)
    for value in np.unique(high):
        keys[high == value] = noise_key(seed, int(value))
    hashed = index.astype(np.uint32) * GOLDEN32 ^ keys
    hashed ^= hashed >> np.uint32(16)
    hashed *= np.uint32(0x7FEB352D)
    hashed ^= hashed >> np.uint32(15)
    hashed *= np.uint32(0x846CA68B)
    return (hashed >> np.uint32(8)).astype(np.float32) * np.float32(2**-24)
