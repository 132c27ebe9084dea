"""kernels.cpu gives what kernels.reference gives: codes, masks and metadata bit for bit, in every format."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kernels import cpu, reference
from kernels._cpu_formats import bf16_bits, f16_bits, f16_value
from kernels.formats import bf16_nearest, bf16_to_float32

FORMATS = ("float32", "float64", "bfloat16", "float16")
# Of code that has been compiled for one 16-bit format, the other differs in the conversion only.
FEWER_FORMATS = ("float32", "float64", "bfloat16", pytest.param("float16", marks=pytest.mark.slow))
LENGTHS = (0, 1, 5, 31, 32, 33, 255, 256, 257, 1000)
PARTS = ("codes", "minima", "steps")


def assert_coded_alike(one: Any, other: Any, same: Any) -> None:
    for name in PARTS:
        same(getattr(one, name), getattr(other, name))
    squares = float((bf16_to_float32(one.steps).astype(np.float64) ** 2).sum())
    np.testing.assert_allclose(other.energy, one.energy, rtol=1e-5, atol=1e-7 * squares)


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_group_quantiser(dtype: str, bits: int, make: Any, same: Any) -> None:
    for count in LENGTHS:
        values, named = make(dtype, count, seed=count)
        for wide in (False, True):
            options = {"seed": count, "start": 2**32 - 500, "wide_minimum": wide, **named}
            one, other = (backend.quantize(values, bits, **options) for backend in (reference, cpu))
            assert_coded_alike(one, other, same)
            kept = (one.codes, one.minima, one.steps, bits, count)
            same(reference.dequantize(*kept, dtype=dtype), cpu.dequantize(*kept, dtype=dtype))


@pytest.mark.quick
@pytest.mark.parametrize("group", [32, 96, 512, 4096])
def test_group_sizes_and_groups_with_nothing_ordinary(group: int, make: Any, same: Any) -> None:
    values, _ = make("float32", 5000, seed=group)
    values[40], values[700] = np.nan, -np.inf
    values[1024:1600], values[2048:2400], values[3000:3100] = 3.25, -0.0, 1e-42
    values[4000:4096] *= np.float32(1e37)
    values[4500:4502] = 3.4e38, -3.4e38
    for bits in (1, 4):
        one, other = (b.quantize(values, bits, seed=5, group=group, wide_minimum=bits == 4) for b in (reference, cpu))
        assert_coded_alike(one, other, same)
        kept = (one.codes, one.minima, one.steps, bits, 5000)
        same(reference.dequantize(*kept, group=group), cpu.dequantize(*kept, group=group))


@settings(max_examples=60, deadline=None)
@given(
    values=arrays(np.float32, st.integers(0, 300), elements=st.floats(width=32)),
    bits=st.sampled_from([1, 2, 4, 8]),
    seed=st.integers(0, 2**64 - 1),
    start=st.integers(0, 2**62) | st.integers(2**32 - 300, 2**32),
)
def test_group_quantiser_on_any_values(values: np.ndarray, bits: int, seed: int, start: int, same: Any) -> None:
    one, other = (backend.quantize(values, bits, seed=seed, start=start, group=64) for backend in (reference, cpu))
    for name in PARTS:
        same(getattr(one, name), getattr(other, name))


# The noise of seed 0 is exactly 0 at this index.
ZERO_NOISE = 51_381_572


@pytest.mark.parametrize("backend", [reference, cpu], ids=["reference", "cpu"])
def test_noise_of_zero_moves_no_value_on_the_grid_and_none_past_the_top(backend: Any) -> None:
    assert backend.noise(0, ZERO_NOISE, 1) == 0
    options = {"seed": 0, "start": ZERO_NOISE - 1}
    coded = backend.quantize(np.float32([0, 1, 2, 3]), 2, **options)
    assert coded.codes.tolist() == [0b11_10_01_00]
    # One of the few largest values whose quotient rounds to more than 3.
    largest = np.float32(1.11328125)
    step = bf16_to_float32(backend.quantize(np.float32([0, largest]), 2, **options).steps)[0]
    assert largest * (np.float32(1) / step) > 3
    assert backend.quantize(np.float32([0, largest]), 2, **options).codes.tolist() == [0b11_00]


def test_16_bit_formats_convert_as_numpy_does() -> None:
    @numba.njit
    def convert(wide: np.ndarray, half: np.ndarray, brain: np.ndarray) -> None:
        for i in range(wide.size):
            half[i], brain[i] = f16_bits(wide[i]), bf16_bits(wide[i])

    @numba.njit
    def widen(half: np.ndarray, wide: np.ndarray) -> None:
        for i in range(half.size):
            wide[i] = f16_value(half[i])

    every = np.arange(2**16, dtype=np.uint16)
    wide = np.empty(2**16, np.float32)
    widen(every.view(np.int16), wide)
    assert np.array_equal(wide, every.view(np.float16).astype(np.float32), equal_nan=True)
    with np.errstate(all="ignore"):
        exact = every.view(np.float16).astype(np.float64)
        middle = ((exact + np.roll(exact, -1)) / 2).astype(np.float32)
        near = [np.nextafter(middle, np.float32(to)) for to in (np.inf, -np.inf)]
        brains = (np.arange(2**18, dtype=np.uint32) << 14).view(np.float32)
        values = np.concatenate([wide, middle, *near, brains, np.float32([65519, 65520, 1e30, 1e-30])])
        expected = values.astype(np.float16)
    half, brain = np.empty(values.size, np.int16), np.empty(values.size, np.uint16)
    convert(values, half, brain)
    assert np.array_equal(half.view(np.float16), expected, equal_nan=True)
    assert np.array_equal(np.signbit(half.view(np.float16)), np.signbit(expected))
    assert np.array_equal(brain, bf16_nearest(values))


@pytest.mark.parametrize("start", [2**31 - 100, 2**32 - 100, 2**32 + 2**31 - 100, 2**40 - 100])
def test_indices_past_32_bits(start: int, make: Any, same: Any) -> None:
    values, _ = make("float32", 1000)
    whole = cpu.quantize(values, 4, seed=8, start=start)
    assert_coded_alike(reference.quantize(values, 4, seed=8, start=start), whole, same)
    second = cpu.quantize(values[512:], 4, seed=8, start=start + 512)
    same(second.codes, whole.codes[256:])


def test_samples(make: Any, same: Any) -> None:
    for shape in ((5, 700), (3, 31), (0, 9), (2, 0)):
        values, _ = make("float32", shape)
        bits = np.array([1, 2, 8, 4, 2])[: shape[0]]
        for wide in (False, True):
            options = {"seed": 3, "start": 2**32 - 900, "wide_minimum": wide}
            one, other = (backend.quantize_samples(values, bits, **options) for backend in (reference, cpu))
            assert_coded_alike(one, other, same)
            same(one.offsets, other.offsets)
            kept = (one.codes, one.minima, one.steps, bits, one.offsets, shape[1])
            same(reference.dequantize_samples(*kept), cpu.dequantize_samples(*kept))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 8, 11, 16])
def test_fixed_point(dtype: str, bits: int, make: Any, same: Any) -> None:
    for count in (0, 7, 257, 1000):
        values, named = make(dtype, count, seed=bits)
        if count > 20 and dtype == "float32":
            values[:4] = np.nan, np.inf, -np.inf, -0.0
        for signed in (False, True):
            for seed in (None, 4):
                step = 2.0 ** (2 - bits)
                options = {"signed": signed, "seed": seed, "start": 2**32 - 7, **named}
                one, other = (backend.quantize_fixed(values, bits, step, **options) for backend in (reference, cpu))
                same(one, other)
                one, other = (
                    b.dequantize_fixed(one, bits, step, count, signed=signed, dtype=dtype) for b in (reference, cpu)
                )
                same(one, other)


@pytest.mark.parametrize(("channels", "inner"), [(6, 1), (6, 5), (3, 100), (300, 1), (1, 1800)])
def test_fixed_point_by_channel(channels: int, inner: int, make: Any, same: Any) -> None:
    values, _ = make("float32", 7 * channels * inner)
    step = np.random.default_rng(0).uniform(0.01, 0.2, channels).astype(np.float32)
    step[0] = 0
    layout = {"channels": channels, "inner": inner, "signed": True}
    for bits in (3, 8):
        one, other = (backend.quantize_fixed(values, bits, step, seed=1, **layout) for backend in (reference, cpu))
        same(one, other)
        one, other = (b.dequantize_fixed(one, bits, step, values.size, **layout) for b in (reference, cpu))
        same(one, other)


@pytest.mark.parametrize("bits", range(1, 17))
def test_integers(bits: int, same: Any) -> None:
    rng = np.random.default_rng(bits)
    for count in LENGTHS:
        for kind in (np.uint16, np.uint8):
            values = rng.integers(0, np.iinfo(kind).max + 1, count).astype(kind)
            one, other = (backend.pack_integers(values, bits) for backend in (reference, cpu))
            same(one, other)
            same(*(backend.unpack_integers(one, bits, count) for backend in (reference, cpu)))


@pytest.mark.parametrize("dtype", FEWER_FORMATS)
def test_masks_regions_and_zeros(dtype: str, make: Any, same: Any) -> None:
    both = (reference, cpu)
    for count in (*LENGTHS, 20_000):
        values, named = make(dtype, count, seed=count)
        values[1:count:3] = 0
        if dtype != "bfloat16":
            values[2:count:7], values[3:count:11] = -0.0, np.nan
        same(*(backend.pack_positive(values, **named) for backend in both))
        regions = reference.pack_regions(values, -0.5, 0.75, **named)
        same(regions, cpu.pack_regions(values, -0.5, 0.75, **named))
        same(*(backend.unpack_regions(regions, count) for backend in both))
        (mask, kept, found), again = (backend.zero_compress(values, **named) for backend in both)
        same(mask, again[0])
        same(kept, again[1])
        assert found == again[2]
        same(*(backend.zero_expand(mask, kept, count) for backend in both))
        same(*(backend.unpack_bits(mask, count) for backend in both))
    flags = np.random.default_rng(0).integers(0, 4, 999).astype(np.uint8)
    same(*(backend.pack_bits(flags) for backend in both))
    same(*(backend.pack_bits(flags > 1) for backend in both))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "case",
    [
        ((2, 3, 9, 8), (3, 3), (2, 2), (1, 1), (1, 1)),
        ((1, 5, 7, 9), (2, 3), (1, 2), (0, 1), (2, 1)),
        ((0, 2, 5, 5), (2, 2), (2, 2), (0, 0), (1, 1)),
        ((1, 3, 20, 30), (1, 1), (1, 1), (0, 0), (1, 1)),
        ((3, 7, 5, 5), (5, 4), (3, 2), (2, 2), (1, 1)),
        ((1, 2, 4, 5), (2, 2), (1, 1), (1, 1), (4, 5)),  # dilated as far as every window still has a value
    ],
)
def test_max_pooling(case: tuple[Any, ...], dtype: str, make: Any, same: Any) -> None:
    shape, *window = case
    values, named = make(dtype, shape)
    if values.size:
        values[0, 0, 2:4] = values[0, 0, 0, 0]
    if values.size and dtype == "float32":
        values[0, 1, 3, 3:5], values[0, -1] = np.nan, -np.inf
    (pooled, codes), (pooled_too, codes_too) = (
        b.max_pool_positions(values, *window, **named) for b in (reference, cpu)
    )
    same(pooled, pooled_too)
    same(codes, codes_too)
    d_out, _ = make(dtype, pooled.shape, seed=1)
    same(*(backend.max_pool_gradient(d_out, codes, shape, *window, **named) for backend in (reference, cpu)))


def test_a_gradient_of_foreign_codes_stays_inside(make: Any) -> None:
    """Positions that point out of the plane are dropped, not written."""
    d_out, _ = make("float32", (1, 1, 2, 2))
    codes = np.full(2, 255, np.uint8)
    gradient = cpu.max_pool_gradient(d_out, codes, (1, 1, 4, 4), (3, 3), (2, 2), (1, 1), (1, 1))
    assert np.isfinite(gradient).all()


def test_results_go_into_the_arrays_that_were_given(make: Any, same: Any) -> None:
    values, _ = make("float32", 600)
    fresh = cpu.quantize(values, 2, seed=1)
    codes, minima, steps = np.empty(150, np.uint8), np.empty(3, np.uint16), np.empty(3, np.uint16)
    coded = cpu.quantize(values, 2, seed=1, codes=codes, minima=minima, steps=steps)
    assert coded.codes is codes
    assert coded.minima is minima
    assert coded.steps is steps
    same(codes, fresh.codes)
    out = np.empty((20, 30), np.float32)
    assert cpu.dequantize(codes, minima, steps, 2, 600, out=out) is out
    same(out.reshape(-1), cpu.dequantize(codes, minima, steps, 2, 600))
    mask = np.empty(75, np.uint8)
    assert cpu.pack_positive(values, codes=mask) is mask
    flags = np.empty(600, np.uint8)
    assert cpu.unpack_bits(mask, 600, out=flags) is flags
    fixed = np.empty(375, np.uint8)
    assert cpu.quantize_fixed(values, 5, 0.1, signed=True, codes=fixed) is fixed
    assert cpu.dequantize_fixed(fixed, 5, 0.1, 600, signed=True, out=out) is out


def test_ml_dtypes_arrays_are_taken(make: Any, same: Any) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="tests arrays of ml_dtypes.bfloat16")
    bits, named = make("bfloat16", 300)
    typed = bits.view(ml_dtypes.bfloat16)
    for backend in (reference, cpu):
        same(backend.quantize(bits, 4, seed=1, **named).codes, backend.quantize(typed, 4, seed=1).codes)
        same(backend.pack_positive(bits, **named), backend.pack_positive(typed))
        assert backend.zero_compress(typed)[1].dtype == ml_dtypes.bfloat16
