"""Data and comparisons for the kernels' tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from kernels.formats import bf16_nearest, bf16_to_float32

Made = tuple[np.ndarray, dict[str, str]]


@pytest.fixture(scope="session")
def make() -> Callable[..., Made]:
    """make(dtype, shape, seed=0): values of many scales, and the arguments that name their dtype."""

    def made(dtype: str, shape: int | tuple[int, ...], seed: int = 0) -> Made:
        rng = np.random.default_rng(seed)
        values = rng.normal(size=shape) * np.exp(rng.normal(size=shape))
        if dtype == "bfloat16":
            return bf16_nearest(values.astype(np.float32)), {"dtype": "bfloat16"}
        return values.astype(dtype), {}

    return made


@pytest.fixture(scope="session")
def same() -> Callable[[Any, Any], None]:
    """same(a, b): equal dtype, shape and bits (NaN equals NaN)."""

    def compare(one: Any, other: Any) -> None:
        one, other = np.asarray(one), np.asarray(other)
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        assert np.array_equal(one, other, equal_nan=one.dtype.kind == "f"), np.flatnonzero(one != other)[:8]

    return compare


@pytest.fixture(scope="session")
def steps_of() -> Callable[[Any, int, int], np.ndarray]:
    """steps_of(coded, count, group): the step of every value, float64."""

    def spread(coded: Any, count: int, group: int = 256) -> np.ndarray:
        return np.repeat(bf16_to_float32(coded.steps).astype(np.float64), group)[:count]

    return spread
