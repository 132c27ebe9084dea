"""Loops made of vectors by formula: every length, no value more than asked for, numbers beside arrays."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import pytest

from kernels._cpu_vectors import Vector, fused, vector_loop, where
from kernels._reference_activation import multiply_add


def _chosen(x: Vector, y: Vector, number: Vector, first: Vector, second: Vector) -> tuple[Vector, Vector]:
    return where(x > y, x - number, x.of(2)), fused(x, y, second) + first


chosen = vector_loop(_chosen, 2)


@numba.njit(error_model="numpy")
def apply(count: int, x: Any, y: Any, number: Any, first: Any, second: Any) -> None:
    chosen(count, (x, y, number, first, second))


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_every_length(kind: type, make: Any, same: Any) -> None:
    for count in (*range(36), 63, 64, 65, 200):
        x, y, first, second = (make("float64", count + 9, seed)[0].astype(kind) for seed in range(4))
        expected = np.where(x > y, x - kind(0.5), kind(2)), multiply_add(x, y, second) + first
        before = first.copy(), second.copy()
        apply(count, x, y, kind(0.5), first, second)
        for made, wanted, untouched in zip((first, second), expected, before, strict=True):
            same(made[:count], wanted[:count])
            same(made[count:], untouched[count:])


def test_what_is_written_may_be_what_is_read(make: Any, same: Any) -> None:
    x, y = (make("float32", 77, seed)[0] for seed in range(2))
    wanted = np.where(x > y, x - np.float32(1), np.float32(2))
    apply(77, x, y, np.float32(1), x, np.zeros_like(x))
    same(x, wanted)


def test_comparisons_with_nan_are_false() -> None:
    x, y = np.full(5, np.nan, np.float32), np.zeros(5, np.float32)
    first = np.empty_like(x)
    apply(5, x, y, np.float32(1), first, np.empty_like(x))
    assert first.tolist() == [2] * 5
