"""What the group quantiser promises: no bias, bounded variance, no garbage; checked on its definition."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kernels import reference
from kernels.formats import bf16_to_float32
from kernels.reference import dequantize, quantize

BITS = (1, 2, 4, 8)
LENGTHS = (0, 1, 2, 31, 32, 33, 255, 256, 257, 1000)
Steps = Callable[..., np.ndarray]


def round_trip(values: np.ndarray, bits: int, seed: int = 0, **options: Any) -> np.ndarray:
    group = {"group": options["group"]} if "group" in options else {}
    coded = quantize(values, bits, seed=seed, **options)
    return dequantize(coded.codes, coded.minima, coded.steps, bits, values.size, **group)


@pytest.mark.quick
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("wide", [False, True])
def test_mean_over_seeds_is_the_value(bits: int, wide: bool, make: Any, steps_of: Steps) -> None:
    values, _ = make("float32", 600)
    seeds = 400
    sums, spent = np.zeros(values.size), 0.0
    for seed in range(seeds):
        coded = quantize(values, bits, seed=seed, wide_minimum=wide)
        decoded = dequantize(coded.codes, coded.minima, coded.steps, bits, values.size)
        sums += decoded.astype(np.float64) - values
        spent += float(((decoded.astype(np.float64) - values) ** 2).sum())
    step = steps_of(coded, values.size)
    t = (values - np.repeat(_minima(coded), 256)[: values.size]) / step
    deviation = step * np.sqrt((t - np.floor(t)) * (1 - (t - np.floor(t))))
    error = deviation * np.sqrt(seeds)
    assert abs(sums.sum()) < 4 * np.sqrt((error**2).sum())
    free = error > 1e-6 * np.sqrt(seeds) * step
    assert (np.abs(sums[free] / error[free]) < 5).all()
    # The variance is what `energy` says, and at most a quarter of the step's square.
    assert spent / seeds == pytest.approx(float(coded.energy[0]), rel=0.03)
    assert coded.energy[0] <= (step**2).sum() / 4


def _minima(coded: Any) -> np.ndarray:
    return coded.minima if coded.minima.dtype == np.float32 else bf16_to_float32(coded.minima)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_energy_predicts_other_widths(bits: int) -> None:
    values = np.random.default_rng(0).normal(size=2**16).astype(np.float32)
    from_four = quantize(values, 4, seed=0).energy[0] * (15 / (2**bits - 1)) ** 2
    assert quantize(values, bits, seed=0).energy[0] == pytest.approx(from_four, rel=0.015)


finite = st.floats(-(2.0**100), 2.0**100, width=32)


@settings(max_examples=60, deadline=None)
@given(
    values=arrays(np.float32, st.integers(0, 300), elements=finite | st.floats(-1, 1, width=32)),
    bits=st.sampled_from(BITS),
    group=st.sampled_from([32, 64, 256]),
    seed=st.integers(0, 2**64 - 1),
    wide=st.booleans(),
)
def test_every_value_comes_back_within_a_step(
    values: np.ndarray, bits: int, group: int, seed: int, wide: bool, steps_of: Steps
) -> None:
    coded = quantize(values, bits, seed=seed, group=group, wide_minimum=wide)
    decoded = dequantize(coded.codes, coded.minima, coded.steps, bits, values.size, group=group)
    step = steps_of(coded, values.size, group)
    slack = 4e-7 * np.abs(values)  # Z + q*D is rounded to float32
    inside = np.abs(decoded.astype(np.float64) - values) <= step * (1 + 1e-5) + slack
    assert inside.all()
    assert coded.codes.size == (values.size * bits + 7) // 8


@pytest.mark.parametrize("bits", BITS)
def test_the_top_code_never_overflows(bits: int) -> None:
    """Steps rounded from the unrounded range would overflow in a quarter of groups and more."""
    rng = np.random.default_rng(1)
    x = (rng.normal(size=(2000, 32)) * np.exp(3 * rng.normal(size=(2000, 1)))).astype(np.float32)
    coded = quantize(x, bits, seed=0, group=32)
    top = _minima(coded).astype(np.float64) + (2**bits - 1) * bf16_to_float32(coded.steps).astype(np.float64)
    assert (top >= x.max(axis=1) - 1e-6 * np.abs(x).max(axis=1)).all()
    assert (_minima(coded) <= x.min(axis=1)).all()


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("count", LENGTHS)
def test_bytes_are_bits_and_metadata(bits: int, count: int) -> None:
    coded = quantize(np.ones(count, np.float32), bits, seed=0)
    assert coded.nbytes == (count * bits + 7) // 8 + 4 * -(-count // 256)


def test_stored_bytes_are_within_ten_percent_of_the_bits() -> None:
    for bits in BITS:
        coded = quantize(np.zeros(2**16, np.float32), bits, seed=0)
        assert coded.nbytes == pytest.approx(2**16 * 4 * (bits / 32 + 1 / 256), rel=0.1)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("bits", BITS)
def test_a_group_that_is_not_finite_comes_back_as_nan_and_no_other(bad: float, bits: int) -> None:
    values = np.linspace(-1, 1, 700).astype(np.float32)
    spoiled = values.copy()
    spoiled[300] = bad
    coded, clean = quantize(spoiled, bits, seed=1), quantize(values, bits, seed=1)
    decoded = dequantize(coded.codes, coded.minima, coded.steps, bits, 700)
    assert np.isnan(decoded[256:512]).all()
    unspoiled = dequantize(clean.codes, clean.minima, clean.steps, bits, 700)
    assert np.array_equal(decoded[:256], unspoiled[:256])
    assert np.array_equal(decoded[512:], unspoiled[512:])
    assert np.isnan(coded.energy[0])
    for dtype in ("float16", "float64"):
        assert np.isnan(dequantize(coded.codes, coded.minima, coded.steps, bits, 700, dtype=dtype)[256:512]).all()


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("constant", [0.0, -0.0, 1.0, -3.0, 2.0**-133, -(2.0**120)])
def test_a_constant_of_bfloat16_comes_back_exactly(bits: int, constant: float) -> None:
    values = np.full(257, constant, np.float32)
    assert np.array_equal(round_trip(values, bits), values)


@pytest.mark.parametrize("bits", BITS)
def test_one_value_alone_is_unbiased(bits: int) -> None:
    """A tail of one value that bfloat16 cannot hold takes the ordinary path."""
    value = np.float32([1.2345678])
    decoded = np.array([round_trip(value, bits, seed)[0] for seed in range(2000)], np.float64)
    assert len(set(decoded.tolist())) == 2
    assert abs(decoded.mean() - value[0]) < 4 * decoded.std() / np.sqrt(2000)


def test_subnormals_count_as_constant() -> None:
    values = np.linspace(0, 1e-40, 64).astype(np.float32)
    assert values.max() > 0
    assert np.array_equal(round_trip(values, 4), np.zeros(64))


@pytest.mark.parametrize("bits", BITS)
def test_a_range_that_overflows_is_nan_and_one_below_is_not(bits: int) -> None:
    huge = np.float32([3.4e38, -3.4e38, 0])
    assert np.isnan(round_trip(huge, bits)).all()
    large = np.float32([1.6e38, -1.6e38, 0])
    decoded = round_trip(large, bits)
    assert np.isfinite(decoded).all()
    assert (np.abs(decoded - large) <= 3.3e38 / (2**bits - 1)).all()


def test_negative_zero_is_stored_as_zero() -> None:
    for wide in (False, True):
        coded = quantize(np.float32([-0.0, 0.0, -0.0]), 2, seed=0, wide_minimum=wide)
        assert coded.minima.tolist() == [0]
        assert not np.signbit(coded.minima.astype(np.float32)).any()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_formats_are_coded_as_their_float32_values(dtype: str, make: Any, same: Any) -> None:
    values, named = make(dtype, 600)
    wide = bf16_to_float32(values) if dtype == "bfloat16" else values.astype(np.float32)
    one, other = quantize(values, 4, seed=2, **named), quantize(wide, 4, seed=2)
    for name in ("codes", "minima", "steps", "energy"):
        same(getattr(one, name), getattr(other, name))


def test_decoding_into_16_bits_makes_no_infinity() -> None:
    values = np.float32([65504, 0, 65000])
    for seed in range(20):
        coded = quantize(values, 2, seed=seed)
        assert np.isfinite(dequantize(coded.codes, coded.minima, coded.steps, 2, 3, dtype="float16")).all()
    top = np.float32([bf16_to_float32(np.uint16([0x7F7F]))[0], 3.3e38])
    coded = quantize(top, 8, seed=0)
    decoded = dequantize(coded.codes, coded.minima, coded.steps, 8, 2, dtype="bfloat16")
    assert np.isfinite(bf16_to_float32(decoded)).all()


def test_wide_minimum_helps_where_the_mean_is_large() -> None:
    values = (1000 + np.random.default_rng(0).normal(size=256)).astype(np.float32)
    narrow, wide = (quantize(values, 4, seed=0, wide_minimum=flag).energy[0] for flag in (False, True))
    assert wide < narrow


def test_samples_are_runs_of_their_own(make: Any, same: Any) -> None:
    values, _ = make("float32", (5, 700))
    bits = [1, 2, 8, 4, 2]
    coded = reference.quantize_samples(values, bits, seed=9, start=50)
    for n, width in enumerate(bits):
        alone = quantize(values[n], width, seed=9, start=50 + n * 700)
        same(coded.codes[coded.offsets[n] : coded.offsets[n + 1]], alone.codes)
        same(coded.minima[n], alone.minima)
        same(coded.energy[n], alone.energy[0])
    decoded = reference.dequantize_samples(coded.codes, coded.minima, coded.steps, bits, coded.offsets, 700)
    same(
        decoded[2],
        dequantize(coded.codes[coded.offsets[2] : coded.offsets[3]], coded.minima[2], coded.steps[2], 8, 700),
    )
