"""Widths in fixed point that keep a rounding step below a bound: AC-GC's published rule, and the unbiased one."""

from __future__ import annotations

from typing import Any

import numpy as np


def published_widths(square: Any, top: Any, signed: bool) -> np.ndarray:
    """f = trunc(-log2(dx^2) / 2 + log2(max|x|) - 1), clipped to 1..15; f + 1 bits a value, f + 2 with a sign.

    The published tables count f + 1 for both.

    Args:
        square: dx^2, one number or (C,).
        top: max|x| of each channel, (C,).

    Source:
        AC-GC (Evans and Aamodt 2021), section 4.

    Example:
        >>> published_widths(2.0**-8, [1.0, 4.0], signed=True).tolist()
        [5, 7]
    """
    with np.errstate(all="ignore"):
        largest = np.log2(np.maximum(np.asarray(top, np.float32), np.float32(1e-30)))
        places = np.trunc(-np.log2(np.asarray(square, np.float32)) / 2 + largest - 1)
    return np.nan_to_num(places, nan=15.0, posinf=15.0, neginf=1.0).clip(1, 15).astype(np.int64) + (2 if signed else 1)


def widths_for_step(step: Any, top: Any, signed: bool) -> np.ndarray:
    """The fewest bits whose step, max|x| over the largest code, is at most `step`.

    Example:
        >>> widths_for_step(0.5, [0.4, 3.5, 4.0], signed=False).tolist()
        [1, 3, 4]
    """
    with np.errstate(all="ignore"):
        share = np.asarray(top, np.float32) / np.maximum(np.asarray(step, np.float32), np.float32(1e-30))
        needed = np.ceil(np.log2(share + 1) - np.float32(1e-6))
    return np.nan_to_num(needed, nan=16.0, posinf=16.0, neginf=1.0).clip(1, 16).astype(np.int64) + (1 if signed else 0)
