"""a * b + c in float32 is rounded once, in every backend and to the bit: masks are its signs."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import llvmlite.binding
import numba
import numpy as np
import pytest

from kernels import checks, cpu, reference
from kernels._cpu_formats import multiply_add as compiled
from kernels._reference_activation import multiply_add


def awkward(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """a, b, c whose sums nearly cancel, differ by many orders of magnitude, fall between two float32, are subnormal."""
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=count).astype(np.float32) for _ in range(2))
    c = rng.normal(size=count).astype(np.float32)
    with np.errstate(all="ignore"):
        c[::4] = -(a * b)[::4]
        c[1::4] *= np.exp2(rng.integers(-60, 60, c[1::4].size)).astype(np.float32)
        a[2::8] *= np.float32(2.0**-70)
        b[2::8] *= np.float32(2.0**-60)
        c[2::8] *= np.float32(2.0**-130)
        # a * b a little more or less than half of the last bit of c: rounding to float64 first would lose the little.
        c[3::4] = np.float32(1) + np.float32(2.0**-23) * rng.integers(0, 9, c[3::4].size).astype(np.float32)
        a[3::4] = np.float32(2.0**-24) * (1 + np.float32(2.0**-20) * rng.integers(-1, 2, c[3::4].size))
        b[3::4] = 1 + np.float32(2.0**-20) * rng.integers(-1, 2, c[3::4].size)
        a[7::8] *= -1
    return a, b, c


def nearest(exact: Fraction) -> np.float32:
    """The float32 nearest to a number, ties to the even one."""
    near = np.float32(float(exact))
    around = [np.nextafter(near, np.float32(-np.inf)), near, np.nextafter(near, np.float32(np.inf))]
    return min(around, key=lambda one: (abs(Fraction(float(one)) - exact), int(one.view(np.int32)) & 1))


@pytest.mark.quick
def test_the_definition_is_the_nearest_float32() -> None:
    a, b, c = awkward(4000)
    expected = [
        nearest(Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z))) for x, y, z in zip(a, b, c, strict=True)
    ]
    made = multiply_add(a, b, c)
    assert made.dtype == np.float32
    assert np.array_equal(made, np.array(expected))
    assert (made != a * b + c).sum() > 500
    assert (made != (a.astype(np.float64) * b + c).astype(np.float32)).any()


def test_infinities_and_nan_pass() -> None:
    a, b, c = np.float32([np.inf, np.nan, 1, 3e38, 0, np.inf]), np.float32([1, 1, 1, 2, np.inf, 1]), np.zeros(6, "f4")
    c[2:4], c[5] = np.inf, -np.inf
    assert np.array_equal(
        multiply_add(a, b, c), np.float32([np.inf, np.nan, np.inf, np.inf, np.nan, np.nan]), equal_nan=True
    )


def test_float64_is_rounded_twice() -> None:
    a, b, c = (part.astype(np.float64) * 1.1 for part in awkward(400))
    assert np.array_equal(multiply_add(a, b, c), a * b + c)


@numba.njit(error_model="numpy")
def over(a: np.ndarray, b: np.ndarray, c: np.ndarray, out: np.ndarray) -> None:
    for i in range(a.size):
        out[i] = compiled(a[i], b[i], c[i])


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_compiled_code_rounds_as_the_definition(kind: type, same: Any) -> None:
    a, b, c = (part.astype(kind) for part in awkward(100_000))
    out = np.empty_like(c)
    over(a, b, c, out)
    same(out, multiply_add(a, b, c))


def test_compiled_code_uses_vectors() -> None:
    if not llvmlite.binding.get_host_cpu_features().get("fma"):
        pytest.skip("this processor has no fused instruction of x86's name")
    over(*(np.ones(1, np.float32) for _ in range(4)))
    single = next(text for types, text in over.inspect_asm().items() if types[0].dtype == numba.float32)
    assert any("vfmadd" in line and "ps" in line for line in single.splitlines())


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "relu6"])
@pytest.mark.parametrize("backend", [reference, cpu])
def test_masks_are_signs_of_the_sum_rounded_once(backend: Any, activation: str) -> None:
    """Where x * scale rounds to -shift, the exact sum is what rounding left over, of either sign, and not 0."""
    a, b, _ = awkward(512)
    shift = -(a * b)
    if activation == "relu6":
        shift += 6
    mask = np.empty(checks.mask_bytes(activation, 512), np.uint8)
    out = np.empty((1, 512), np.float32)
    backend.affine_activation(a[None], b, shift, out, activation=activation, slope=0.1, mask=mask)
    u = multiply_add(a, b, shift)
    assert ((u != 0) & (a * b + shift == 0)).sum() > 200 or activation == "relu6"
    if activation == "relu6":
        assert np.array_equal(reference.unpack_regions(mask, 512), np.where(u <= 0, 0, np.where(u >= 6, 2, 1)))
    else:
        assert np.array_equal(reference.unpack_bits(mask, 512), u > 0)
