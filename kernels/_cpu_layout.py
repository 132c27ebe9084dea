"""Arrays of channels, (rows, C) or (N, C, P), as numba kernels take them: addresses, strides and sizes."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from kernels._cpu_codes import SPAN
from kernels.norm_arguments import Rows

# Arrays of the types that kernels see formats as.
NOTHING: Mapping[str, np.ndarray] = MappingProxyType(
    {
        "float16": np.empty(0, np.int16),
        "bfloat16": np.empty(0, np.uint16),
        "float32": np.empty(0, np.float32),
        "float64": np.empty(0, np.float64),
    }
)
# Values of a plane that are worked on together.
SEGMENT = 1024
# Rows without gaps are joined to units of at least so many values.
JOINED = 192


class Layout(NamedTuple):
    """Arrays of channels as kernels take them.

    Args:
        args: address of the first row and bytes from row to row of every array, and an array of their type; then
            units, values of a unit, channels, values of a plane (or 1) and all values (`in_units`), or channels, values
            of a plane (or 1) and whether nothing has gaps (`in_order`).
        channels: of the arrays.
        repeats: how often vectors of constants are repeated.
        length: of what is worked on together.
    """

    args: tuple[Any, ...]
    channels: int
    repeats: int
    length: int = SPAN

    def repeated(self, *vectors: np.ndarray) -> np.ndarray:
        """Vectors of one constant a channel as kernels that go in the order of codes take them, one a row."""
        made: np.ndarray = np.empty((len(vectors), self.repeats, self.channels), vectors[0].dtype)
        for k, vector in enumerate(vectors):
            made[k] = vector
        return made.reshape(len(vectors), self.repeats * self.channels)

    def no_sums(self, threads: int) -> np.ndarray:
        """Zeros for two sums of every channel, by threads and repeats."""
        return np.zeros((threads, 2, self.repeats * self.channels))

    def summed(self, sums: np.ndarray) -> np.ndarray:
        """(2, C), from `no_sums`."""
        by_repeat = sums.reshape(sums.shape[0], 2, self.repeats, self.channels)
        return np.add.reduce(by_repeat, axis=(0, 2))


def in_units(rows: Rows, *arrays: np.ndarray) -> Layout:
    """Arrays of channels for a kernel that goes by units."""
    times = 1
    if rows.inner == 1 and 0 < rows.channels < JOINED and _dense(rows, arrays):
        times = min(-(-JOINED // rows.channels), max(rows.outer, 1))
    channels, values = rows.channels * times, rows.outer * rows.channels * rows.inner
    places = _places(rows, arrays, times)
    if rows.inner == 1:
        return Layout((*places, -(-rows.outer // times), channels, channels, 1, values), rows.channels, times, channels)
    sizes = (rows.outer * channels, rows.inner, channels, rows.inner, values)
    return Layout((*places, *sizes), rows.channels, times, min(rows.inner, SEGMENT))


def in_order(rows: Rows, *arrays: np.ndarray) -> Layout:
    """Arrays of channels for a kernel that goes in the order of codes."""
    repeats = 1 if rows.inner > 1 or rows.channels == 0 else -(-(rows.channels + SPAN) // rows.channels)
    args = (*_places(rows, arrays, 1), rows.channels, rows.inner, _dense(rows, arrays))
    return Layout(args, rows.channels, repeats)


def _dense(rows: Rows, arrays: tuple[np.ndarray, ...]) -> bool:
    """Whether no array has gaps."""
    if rows.outer > 1:
        length = rows.channels * rows.inner
        for array in arrays:
            if array.strides[0] != length * array.itemsize:
                return False
    return True


def _places(rows: Rows, arrays: tuple[np.ndarray, ...], times: int) -> tuple[np.ndarray, np.ndarray]:
    """Where arrays lie: address of the first row and bytes from unit to unit; and an array of their type.

    Addresses, because views of other layouts would be other types to numba, and each mix of types a compilation. The
    arrays have to outlive the call.
    """
    numbers: list[int] = []
    for array in arrays:
        numbers += array.ctypes.data, array.strides[0] * times
    return np.array(numbers, np.int64), NOTHING[rows.name]
