"""Codecs: ways to keep an array in fewer bytes, each a frozen value with `encode`, `decode` and `nbytes`.

What they make is described in kernels/encoded.py; the codec that moves it to host memory is in kernels/host_swap.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

import kernels
from kernels import checks
from kernels.encoded import Codec, Encoded, item_bytes, plain
from kernels.formats import BF16_ONE, STORAGE, narrow, widen
from kernels.host_swap import HostSwap


@dataclass(frozen=True)
class Identity:
    """Keeps the array itself, not a copy."""

    def encode(self, array: Any, seed: int, dtype: str | None = None) -> Encoded:
        array, name = plain("Identity", array, dtype)
        return Encoded((array,), tuple(array.shape), name)

    def decode(self, encoded: Encoded) -> Any:
        return encoded.parts[0]

    def nbytes(self, count: int, dtype: str = "float32") -> int:
        return count * item_bytes(dtype)

    def __str__(self) -> str:
        return "identity"


@dataclass(frozen=True)
class GroupQuantizer:
    """1, 2, 4 or 8 bits a value and 32 bits a group of 256, rounded stochastically: the mean over seeds is the value.

    The error's variance is at most a quarter of the square of the group's step, (max - min) / (2^bits - 1).

    Example:
        >>> codec = GroupQuantizer(2)
        >>> codec.nbytes(1024), codec.encode(np.ones(1024, np.float32), seed=3).nbytes
        (272, 272)
    """

    bits: int
    group: int = 256
    wide_minimum: bool = False

    def __post_init__(self) -> None:
        checks.group_bits("GroupQuantizer", self.bits)
        checks.group_size("GroupQuantizer", self.group)

    def encode(self, array: Any, seed: int, dtype: str | None = None) -> Encoded:
        array, name = plain("GroupQuantizer", array, dtype)
        coded = kernels.quantize(
            array, self.bits, seed=seed, group=self.group, dtype=name, wide_minimum=self.wide_minimum
        )
        return Encoded((coded.codes, coded.minima, coded.steps), tuple(array.shape), name, energy=coded.energy)

    def decode(self, encoded: Encoded) -> Any:
        codes, minima, steps = encoded.parts
        count = math.prod(encoded.shape)
        flat = kernels.dequantize(codes, minima, steps, self.bits, count, group=self.group, dtype=encoded.dtype)
        return flat.reshape(encoded.shape)

    def nbytes(self, count: int, dtype: str = "float32") -> int:
        groups = checks.group_count(count, self.group)
        return checks.packed_bytes(count, self.bits) + groups * (6 if self.wide_minimum else 4)

    def __str__(self) -> str:
        return str(self.bits)


@dataclass(frozen=True)
class FixedPoint:
    """Any width from 1 to 16 bits a value: whole multiples of a step, the largest |value| over the largest code.

    Codes are signed if a value is negative, which needs 2 bits. NaN or an infinity in the array (in its channel) makes
    all of it (of the channel) NaN.

    Args:
        bits: 1..16.
        channel_axis: a step for every index of this axis; None = one for the array.
        stochastic: unbiased; False rounds to nearest, as published.

    Source:
        AC-GC (Evans and Aamodt 2021).

    Example:
        >>> codec = FixedPoint(8, stochastic=False)
        >>> codec.decode(codec.encode(np.float32([0, 51, 255]), 0)).tolist()
        [0.0, 51.0, 255.0]
    """

    bits: int
    channel_axis: int | None = None
    stochastic: bool = True

    def __post_init__(self) -> None:
        checks.width("FixedPoint", self.bits)

    def encode(self, array: Any, seed: int, dtype: str | None = None) -> Encoded:
        array, name = plain("FixedPoint", array, dtype)
        step, signed = self._step(widen(array, name))
        channels, inner = self._channels(tuple(array.shape))
        noise = seed if self.stochastic else None
        codes = kernels.quantize_fixed(
            array, self.bits, step, signed=signed, seed=noise, dtype=name, channels=channels, inner=inner
        )
        return Encoded((codes, step), tuple(array.shape), name, signed=signed)

    def decode(self, encoded: Encoded) -> Any:
        codes, step = encoded.parts
        count, (channels, inner) = math.prod(encoded.shape), self._channels(encoded.shape)
        signed, dtype = encoded.signed, encoded.dtype
        flat = kernels.dequantize_fixed(
            codes, self.bits, step, count, signed=signed, channels=channels, inner=inner, dtype=dtype
        )
        return flat.reshape(encoded.shape)

    def nbytes(self, count: int, dtype: str = "float32") -> int:
        """Bytes of the codes and of one step; with `channel_axis` every further channel takes 4 more."""
        return checks.packed_bytes(count, self.bits) + 4

    def _step(self, values: Any) -> tuple[Any, bool]:
        """Steps, float32 of shape (channels,), and whether codes are signed."""
        if values.size == 0:
            return values.reshape(-1).sum(keepdims=True).astype(np.float32), False
        axis = self.channel_axis
        others = None if axis is None else tuple(i for i in range(values.ndim) if i != axis % values.ndim)
        low, high = values.min(axis=others).reshape(-1), values.max(axis=others).reshape(-1)
        signed = bool((low < 0).any())
        if signed and self.bits == 1:
            raise ValueError("FixedPoint: 1 bit holds no negative values: take 2 bits, or the group quantiser's 1")
        top = 2 ** (self.bits - 1) - 1 if signed else 2**self.bits - 1
        return (np.maximum(abs(low), abs(high)) / top).astype(np.float32), signed

    def _channels(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Channels, and how many values in a row belong to one."""
        if self.channel_axis is None or math.prod(shape) == 0:
            return 1, 1
        axis = self.channel_axis % len(shape)
        return shape[axis], math.prod(shape[axis + 1 :])

    def __str__(self) -> str:
        return f"fixed:{self.bits}"


@dataclass(frozen=True)
class ZeroValue:
    """1 bit a value, and what `inner` makes of the values that are not zero: for the outputs of ReLU and dropout.

    Example:
        >>> codec = ZeroValue()
        >>> codec.encode(np.float32([0, 0, 0, 7] * 8), 0).nbytes  # 32 bits and 8 numbers
        36
    """

    inner: Codec = Identity()

    def encode(self, array: Any, seed: int, dtype: str | None = None) -> Encoded:
        array, name = plain("ZeroValue", array, dtype)
        mask, nonzeros, _ = kernels.zero_compress(array, dtype=name)
        inner = self.inner.encode(nonzeros, seed, name)
        return Encoded((mask,), tuple(array.shape), name, inner, energy=inner.energy)

    def decode(self, encoded: Encoded) -> Any:
        if encoded.inner is None:
            raise ValueError("ZeroValue: this was encoded by another codec: decode it with that one")
        nonzeros = self.inner.decode(encoded.inner)
        return kernels.zero_expand(encoded.parts[0], nonzeros, math.prod(encoded.shape)).reshape(encoded.shape)

    def nbytes(self, count: int, dtype: str = "float32") -> int:
        return checks.packed_bytes(count, 1) + self.inner.nbytes(count, dtype)

    def __str__(self) -> str:
        return f"zero:{self.inner}"


@dataclass(frozen=True)
class Mask:
    """1 bit a value: comes back as 1 where the value was > 0, else 0, which is all that ReLU's gradient needs.

    Example:
        >>> Mask().decode(Mask().encode(np.float32([-1, 0, 2]), 0)).tolist()
        [0.0, 0.0, 1.0]
    """

    def encode(self, array: Any, seed: int, dtype: str | None = None) -> Encoded:
        array, name = plain("Mask", array, dtype)
        return Encoded((kernels.pack_positive(array, dtype=name),), tuple(array.shape), name)

    def decode(self, encoded: Encoded) -> Any:
        flags = kernels.unpack_bits(encoded.parts[0], math.prod(encoded.shape)).reshape(encoded.shape)
        one = BF16_ONE if encoded.dtype == "bfloat16" else 1
        return flags.astype(STORAGE[encoded.dtype]) * one

    def nbytes(self, count: int, dtype: str = "float32") -> int:
        return checks.packed_bytes(count, 1)

    def __str__(self) -> str:
        return "mask"


@dataclass(frozen=True)
class Half:
    """16 bits a value: rounded to nearest in float16 or bfloat16; finite values stay finite.

    Example:
        >>> codec = Half("float16")
        >>> codec.decode(codec.encode(np.float32([1.5, 1e6]), 0)).tolist()
        [1.5, 65504.0]
    """

    kept: str = "float16"

    def __post_init__(self) -> None:
        if self.kept not in ("float16", "bfloat16"):
            raise ValueError(f"Half: keeps float16 or bfloat16, not {self.kept!r}")

    def encode(self, array: Any, seed: int, dtype: str | None = None) -> Encoded:
        array, name = plain("Half", array, dtype)
        made = array if name == self.kept else narrow(widen(array, name), self.kept, saturate=True)
        return Encoded((made,), tuple(array.shape), name)

    def decode(self, encoded: Encoded) -> Any:
        kept = encoded.parts[0]
        return kept if encoded.dtype == self.kept else narrow(widen(kept, self.kept), encoded.dtype)

    def nbytes(self, count: int, dtype: str = "float32") -> int:
        return 2 * count

    def __str__(self) -> str:
        return self.kept


__all__ = [
    "Codec",
    "Encoded",
    "FixedPoint",
    "GroupQuantizer",
    "Half",
    "HostSwap",
    "Identity",
    "Mask",
    "ZeroValue",
    "item_bytes",
]
