"""Exact codes give back what they were given; fixed point rounds and saturates as it says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kernels import arguments, cpu, reference
from kernels.formats import bf16_to_float32

floats = st.floats(width=32)


@settings(max_examples=50, deadline=None)
@given(values=arrays(np.uint16, st.integers(0, 70)), bits=st.integers(1, 16))
def test_integers_come_back(values: np.ndarray, bits: int) -> None:
    values = values & np.uint16(2**bits - 1)
    codes = reference.pack_integers(values, bits)
    assert codes.size == (values.size * bits + 7) // 8
    assert np.array_equal(reference.unpack_integers(codes, bits, values.size), values)


def test_integers_lie_low_bits_first() -> None:
    codes = reference.pack_integers(np.uint16([0b101, 0b011, 0b110]), 3)
    assert codes.tolist() == [0b10_011_101, 0b1]


@settings(max_examples=50, deadline=None)
@given(values=arrays(np.float32, st.integers(0, 70), elements=floats))
def test_masks_regions_and_zeros_come_back(values: np.ndarray) -> None:
    flags = reference.unpack_bits(reference.pack_positive(values), values.size)
    assert np.array_equal(flags == 1, values > 0)
    assert np.array_equal(reference.unpack_bits(reference.pack_bits(flags), values.size), flags)
    regions = reference.unpack_regions(reference.pack_regions(values, 0.0, 6.0), values.size)
    assert np.array_equal(regions == 0, values <= 0)
    assert np.array_equal(regions == 2, values >= 6)
    mask, kept, count = reference.zero_compress(values)
    assert count == kept.size == np.count_nonzero(values)
    expanded = reference.zero_expand(mask, kept, values.size)
    assert np.array_equal(expanded, values, equal_nan=True)
    assert not np.signbit(expanded[values == 0]).any()


def test_masks_are_compared_in_the_values_own_type() -> None:
    tiny = np.array([1e-300, -1e-300, 0.0])
    assert reference.pack_positive(tiny).tolist() == [0b001]
    assert reference.zero_compress(tiny)[2] == 2
    bits = np.uint16([0x0001, 0x8001, 0x8000])  # bfloat16: smallest, its negative, -0
    assert reference.pack_positive(bits, dtype="bfloat16").tolist() == [0b001]
    assert reference.zero_compress(bits, dtype="bfloat16")[2] == 2


def test_zero_expand_refuses_a_mask_of_another_array() -> None:
    mask, kept, _ = reference.zero_compress(np.float32([1, 0, 2]))
    with pytest.raises(ValueError, match="the mask has 2 ones, but 1 values came"):
        reference.zero_expand(mask, kept[:1], 3)


@pytest.mark.parametrize("bits", range(1, 17))
@pytest.mark.parametrize("signed", [False, True])
def test_fixed_point_uses_its_whole_range_and_saturates(bits: int, signed: bool) -> None:
    low, high = arguments.code_range(bits, signed)
    values = np.float32([low - 9, low, 0, high, high + 9, np.inf, -np.inf]) / 4
    codes = reference.quantize_fixed(values, bits, 0.25, signed=signed)
    decoded = reference.dequantize_fixed(codes, bits, 0.25, 7, signed=signed)
    assert decoded.tolist() == [low / 4, low / 4, 0, high / 4, high / 4, high / 4, low / 4]


def test_fixed_point_rounds_to_even_without_a_seed() -> None:
    codes = reference.quantize_fixed(np.float32([0.5, 1.5, 2.5, -0.5, -1.5]), 4, 1.0, signed=True)
    assert reference.dequantize_fixed(codes, 4, 1.0, 5, signed=True).tolist() == [0, 2, 2, 0, -2]


@pytest.mark.parametrize("signed", [False, True])
def test_fixed_point_is_unbiased_with_a_seed(signed: bool) -> None:
    values = np.random.default_rng(0).uniform(-1 if signed else 0, 1, 500).astype(np.float32)
    step = np.float32(1 / 7)
    errors = np.zeros(500)
    for seed in range(300):
        codes = reference.quantize_fixed(values, 4, step, signed=signed, seed=seed)
        errors += reference.dequantize_fixed(codes, 4, step, 500, signed=signed) - values
    assert abs(errors.mean() / 300) < 4 * step / 2 / np.sqrt(300 * 500)
    assert np.abs(errors / 300).max() < 5 * step / 2 / np.sqrt(300)


@pytest.mark.parametrize("step", [np.nan, np.inf])
def test_a_step_that_is_not_finite_decodes_to_nan(step: float) -> None:
    codes = reference.quantize_fixed(np.float32([1, np.nan, -2]), 5, step, signed=True)
    assert np.isnan(reference.dequantize_fixed(codes, 5, step, 3, signed=True)).all()


def test_zero_and_tiny_steps_decode_to_zero() -> None:
    for step in (0.0, 1e-40):
        codes = reference.quantize_fixed(np.float32([0, 1, -1]), 5, step, signed=True)
        assert codes.tolist() == [0, 0]


def test_fixed_point_takes_a_step_for_every_channel() -> None:
    values = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    steps = np.float32([1, 2, 4])
    codes = reference.quantize_fixed(values, 5, steps, signed=False, channels=3, inner=4)
    decoded = reference.dequantize_fixed(codes, 5, steps, 24, signed=False, channels=3, inner=4).reshape(2, 3, 4)
    expected = np.rint(values / steps[:, None]) * steps[:, None]
    assert np.array_equal(decoded, expected)


def test_decoded_fixed_point_stays_finite_in_16_bits() -> None:
    codes = reference.quantize_fixed(np.float32([1e6, 3e38]), 4, 1e38, signed=False)
    assert reference.dequantize_fixed(codes, 4, 1e38, 2, signed=False, dtype="float16").tolist() == [0, 65504]
    top = reference.dequantize_fixed(codes, 4, 1e38, 2, signed=False, dtype="bfloat16")
    assert np.isfinite(bf16_to_float32(top)).all()


POOLINGS: tuple[Any, ...] = (
    ((2, 3, 9, 8), (3, 3), (2, 2), (1, 1), (1, 1)),
    ((1, 5, 7, 9), (2, 3), (1, 2), (0, 1), (2, 1)),
    ((1, 2, 6, 6), (2, 2), (2, 2), (0, 0), (1, 1)),
    ((1, 1, 5, 5), (1, 1), (2, 1), (0, 0), (1, 1)),
    ((1, 1, 11, 12), (5, 4), (3, 2), (2, 2), (2, 3)),
)


@pytest.mark.parametrize("case", POOLINGS)
def test_max_pooling_is_pytorchs(case: tuple[Any, ...]) -> None:
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    shape, kernel, stride, padding, dilation = case
    x = np.random.default_rng(0).integers(-3, 3, shape).astype(np.float32)  # many ties
    x[0, 0, 1, 1:3] = np.nan
    x[0, -1] = -np.inf
    tensor = torch.from_numpy(x).requires_grad_()
    expected = torch.nn.functional.max_pool2d(tensor, kernel, stride, padding, dilation)
    pooled, codes = reference.max_pool_positions(x, kernel, stride, padding, dilation)
    assert np.array_equal(pooled, expected.detach().numpy(), equal_nan=True)
    d_out = np.random.default_rng(1).normal(size=pooled.shape).astype(np.float32)
    expected.backward(torch.from_numpy(d_out))
    gradient = reference.max_pool_gradient(d_out, codes, shape, kernel, stride, padding, dilation)
    np.testing.assert_allclose(gradient, tensor.grad.numpy(), rtol=1e-6, atol=1e-6)


def test_a_window_wholly_in_the_padding_is_refused() -> None:
    with pytest.raises(ValueError, match="a window would be all padding"):
        reference.max_pool_positions(np.zeros((1, 1, 1, 4), np.float32), (2, 2), (1, 1), (1, 1), (2, 1))


def test_zeros_of_arrays_that_may_not_be_written_or_lie_at_odd_addresses() -> None:
    values = np.array([0, 1.5, 0, -2, 0], np.float32)
    odd = np.frombuffer(b"-" + values.tobytes(), np.uint8)[1:].view(np.float32)
    mask, kept, count = cpu.zero_compress(odd)
    assert count == 2
    kept.flags.writeable = mask.flags.writeable = False
    np.testing.assert_array_equal(cpu.zero_expand(mask, kept, 5), values)
