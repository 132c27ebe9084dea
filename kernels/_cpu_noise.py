"""The noise of stochastic rounding in numba: as kernels/_reference_noise.py, to the bit."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from kernels import checks
from kernels._cpu_threads import jit, jit_parallel, run
from kernels._reference_noise import GOLDEN64, mix64

TWO_32 = np.int64(2**32)


@jit
def noise_key(stream: Any, high: Any) -> Any:
    """32 bits for a seed (mixed already) and the upper half of an index."""
    z = np.uint64(stream) + np.uint64(high) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.uint32((z ^ (z >> np.uint64(31))) >> np.uint64(32))


def _noise_24(typing_context: Any, low: Any, j: Any, key: Any) -> Any:
    """The noise of element low + j under a key, times 2^24: a whole number below 2^24.

    Made by hand because numba's products of 32-bit integers have 64 bits, and fill vectors with half as many.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word = ir.IntType(32)
        first, place, mixed = (
            context.cast(builder, one, kind, types.uint32) for one, kind in zip(arguments, signature.args, strict=True)
        )
        h = builder.xor(builder.mul(builder.add(first, place), ir.Constant(word, 0x9E3779B9)), mixed)
        for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
            h = builder.mul(builder.xor(h, builder.lshr(h, ir.Constant(word, shift))), ir.Constant(word, factor))
        return builder.sitofp(builder.lshr(h, ir.Constant(word, 8)), ir.FloatType())

    return types.float32(low, j, key), generate


noise_24: Any = intrinsic(_noise_24)


@jit
def same_key(index: Any, count: Any) -> Any:
    """How many of `count` elements from `index` on share its key: those up to the next multiple of 2^32."""
    return min(count, TWO_32 - (index & (TWO_32 - 1)))


@jit
def noise_part(t: int, parts: int, args: tuple[Any, ...], scratch: Any) -> None:
    """Fill part t of the output."""
    stream, start, out = args
    first, last = t * out.size // parts, (t + 1) * out.size // parts
    while first < last:
        at = start + first
        count = same_key(at, last - first)
        into, key, low = out[first : first + count], noise_key(stream, at >> 32), np.uint32(at)
        for j in range(count):
            into[j] = noise_24(low, j, key) * np.float32(2.0**-24)
        first += count


@jit_parallel
def noise_parts(parts: int, args: tuple[Any, ...], scratch: Any) -> None:
    for t in numba.prange(parts):
        noise_part(np.int64(t), parts, args, scratch)


def seed_stream(seed: int) -> np.uint64:
    """The seed as the kernels take it."""
    return np.uint64(mix64(seed + GOLDEN64))


def noise(seed: int, start: int, count: int) -> np.ndarray:
    """As `kernels.reference.noise`."""
    seed = checks.seed_of("noise", seed)
    count = checks.count_of("noise", count)
    start = checks.first_index("noise", start, count)
    out = np.empty(count, np.float32)
    run(noise_parts, noise_part, count, (seed_stream(seed), start, out), None)
    return out
