"""Floating-point formats in NumPy: float16, bfloat16 (as uint16 bits, NumPy has no such type), float32 and float64."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

# Type of the array that holds a format.
STORAGE: Mapping[str, type] = MappingProxyType(
    {"float16": np.float16, "bfloat16": np.uint16, "float32": np.float32, "float64": np.float64}
)
LARGEST: Mapping[str, float] = MappingProxyType(
    {
        "float16": 65504.0,
        "bfloat16": float.fromhex("0x1.fep127"),
        "float32": float.fromhex("0x1.fffffep127"),
        "float64": float.fromhex("0x1.fffffffffffffp1023"),
    }
)
BF16_NAN = np.uint16(0x7FC0)
BF16_ONE = np.uint16(0x3F80)


def bf16_to_float32(bits: np.ndarray) -> np.ndarray:
    """The float32 values of bfloat16 bits (uint16, or ml_dtypes' bfloat16); exact."""
    return (bits.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def bf16_nearest(values: np.ndarray) -> np.ndarray:
    """bfloat16 bits of float32 values, rounded to nearest, ties to even; NaN becomes the quiet NaN."""
    bits = _bits(values)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> 16) & np.uint32(1))) >> 16
    return np.where(np.isnan(values), BF16_NAN, rounded.astype(np.uint16))


def bf16_down(values: np.ndarray) -> np.ndarray:
    """bfloat16 bits of float32 values, rounded towards minus infinity; NaN gives no particular number."""
    bits = _bits(values)
    away = np.where(bits >> 31, np.uint32(0xFFFF), np.uint32(0))  # down is away from zero below zero
    return ((bits + away) >> 16).astype(np.uint16)


def bf16_up(values: np.ndarray) -> np.ndarray:
    """bfloat16 bits of float32 values >= 0, rounded towards plus infinity; NaN gives no particular number."""
    return ((_bits(values) + np.uint32(0xFFFF)) >> 16).astype(np.uint16)


def compute_type(name: str) -> type:
    """The type that values of a format are computed in."""
    return np.float64 if name == "float64" else np.float32


def widen(array: np.ndarray, name: str) -> np.ndarray:
    """The values in the type they are computed in: float64 for float64, float32 for all others."""
    if name == "bfloat16":
        return bf16_to_float32(array)
    return array.astype(compute_type(name), copy=False)


def to_float32(array: np.ndarray, name: str) -> np.ndarray:
    """The values rounded to float32; what a float64 overflows to is an infinity."""
    with np.errstate(over="ignore"):
        return widen(array, name).astype(np.float32, copy=False)


def narrow(values: np.ndarray, name: str, *, saturate: bool = False) -> np.ndarray:
    """Computed values in a format, rounded to nearest; `saturate`: finite values stay finite."""
    if saturate:
        limit = values.dtype.type(LARGEST[name] if name in ("float16", "bfloat16") else LARGEST["float32"])
        values = np.where(np.isfinite(values), np.clip(values, -limit, limit), values)
    if name == "bfloat16":
        return bf16_nearest(values.astype(np.float32, copy=False))
    with np.errstate(over="ignore"):
        return values.astype(STORAGE[name], copy=False)


def _bits(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32, copy=False).view(np.uint32)
