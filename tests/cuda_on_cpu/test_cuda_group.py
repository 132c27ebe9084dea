"""The group quantiser's CUDA source and host code against the definition, to the bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kernels import reference

FORMATS = ("float16", "bfloat16", "float32", "float64")
BITS = (1, 2, 4, 8)
# Around an octet, a warp's group, a block of 8 groups.
LENGTHS = (0, 1, 7, 8, 9, 31, 32, 33, 255, 256, 257, 2047, 2048, 2049, 4500)


def named(name: str) -> dict[str, str]:
    return {"dtype": name} if name == "bfloat16" else {}


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("name", FORMATS)
def test_quantize_and_back(cuda: Any, numbers: Any, same: Any, name: str, bits: int) -> None:
    for length in LENGTHS:
        x = numbers.floats(name, length)
        expected = reference.quantize(x, bits, seed=5, start=3, **named(name))
        same(cuda.quantize(x, bits, seed=5, start=3, **named(name)), expected)
        arguments = (expected.codes, expected.minima, expected.steps, bits, length)
        same(cuda.dequantize(*arguments, dtype=name), reference.dequantize(*arguments, dtype=name))


@pytest.mark.quick
@pytest.mark.parametrize("group", [32, 64, 96, 224, 256, 288, 512, 1056])
def test_group_sizes(cuda: Any, numbers: Any, same: Any, group: int) -> None:
    for bits, length in zip(BITS, (group - 1, group, 3 * group + 1, 9 * group + 17), strict=True):
        x = numbers.floats("float32", length)
        expected = reference.quantize(x, bits, seed=1, group=group)
        same(cuda.quantize(x, bits, seed=1, group=group), expected)
        arguments = (expected.codes, expected.minima, expected.steps, bits, length)
        same(cuda.dequantize(*arguments, group=group), reference.dequantize(*arguments, group=group))


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("wide", [False, True])
def test_what_cannot_be_coded_and_what_is_constant(cuda: Any, same: Any, bits: int, wide: bool) -> None:
    rng = np.random.default_rng(bits)
    rows = [np.full(256, value, np.float32) for value in (0, -0.0, 1, 1 + 2**-9, -3.1, 1e-38, 3.4e38, -3.4e38, 1e-44)]
    for bad in (np.nan, np.inf, -np.inf):
        for place in (0, 100, 255):
            row = rng.normal(size=256).astype(np.float32)
            row[place] = bad
            rows.append(row)
    rows += [np.float32([-3e38, 3e38] * 128), np.float32([0, 3.4e38] * 128), np.float32([0.0, -0.0] * 128)]
    rows += [np.float32([1, 1 + 2**-23] * 128), np.float32([0, 2**-101] * 128), np.float32([0, 2**-99] * 128)]
    rows += [rng.normal(size=256).astype(np.float32) * np.float32(1e-42), np.float32(300) + rows[-1]]
    x = np.concatenate([*rows, np.float32([5])])
    expected = reference.quantize(x, bits, seed=9, wide_minimum=wide)
    same(cuda.quantize(x, bits, seed=9, wide_minimum=wide), expected)
    for name in FORMATS:
        arguments = (expected.codes, expected.minima, expected.steps, bits, x.size)
        same(cuda.dequantize(*arguments, dtype=name), reference.dequantize(*arguments, dtype=name))


def test_energy_without_broken_groups(cuda: Any, numbers: Any) -> None:
    x = numbers.floats("float32", 20000, spread=7)
    for bits in BITS:
        made, expected = (backend.quantize(x, bits, seed=2).energy for backend in (cuda, reference))
        assert float(expected[0]) > 0
        np.testing.assert_allclose(made, expected, rtol=1e-5)


@pytest.mark.parametrize("start", [2**32 - 1100, 2**32 - 1001, 2**33 - 5, 2**40, 2**63 - 3000])
def test_upper_half_of_the_index_changes_anywhere(cuda: Any, numbers: Any, same: Any, start: int) -> None:
    x = numbers.floats("float32", 3000)
    same(cuda.quantize(x, 2, seed=-7, start=start), reference.quantize(x, 2, seed=-7, start=start))
    same(cuda.noise(-7, start, 1500), reference.noise(-7, start, 1500))


@pytest.mark.parametrize("name", FORMATS)
def test_arrays_that_begin_anywhere(cuda: Any, numbers: Any, same: Any, name: str) -> None:
    """Addresses that are no multiple of 16 (values) or 8 (codes) take the paths without vector accesses."""
    for shift in (1, 2, 3, 5):
        x = numbers.floats(name, 700 + shift)[shift:]
        for bits in BITS:
            expected = reference.quantize(x, bits, seed=4, **named(name))
            codes = np.zeros(expected.codes.size + shift, np.uint8)[shift:]
            made = cuda.quantize(x, bits, seed=4, codes=codes, **named(name))
            assert made.codes is codes
            same(made, expected)
            out = np.zeros_like(np.concatenate([x, x]))[shift : shift + x.size]
            cuda.dequantize(codes, expected.minima, expected.steps, bits, x.size, dtype=name, out=out)
            arguments = (expected.codes, expected.minima, expected.steps, bits, x.size)
            same(out, reference.dequantize(*arguments, dtype=name))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("length", [1, 255, 256, 300, 2501])
def test_samples_of_different_widths(cuda: Any, numbers: Any, same: Any, name: str, length: int) -> None:
    widths = [2, 8, 1, 4, 4, 1, 8]
    x = numbers.floats(name, len(widths), length)
    expected = reference.quantize_samples(x, widths, seed=11, start=2**32 - 700, **named(name))
    same(cuda.quantize_samples(x, widths, seed=11, start=2**32 - 700, **named(name)), expected)
    arguments = (expected.codes, expected.minima, expected.steps, widths, expected.offsets, length)
    same(cuda.dequantize_samples(*arguments, dtype=name), reference.dequantize_samples(*arguments, dtype=name))
    with pytest.raises(ValueError, match="offsets"):
        cuda.dequantize_samples(*arguments[:4], expected.offsets + 1, length)


def test_no_samples_and_empty_samples(cuda: Any, same: Any) -> None:
    for shape, widths in (((0, 300), []), ((2, 0), [4, 8])):
        x = np.zeros(shape, np.float32)
        expected = reference.quantize_samples(x, widths, seed=1)
        same(cuda.quantize_samples(x, widths, seed=1), expected)
        arguments = (expected.codes, expected.minima, expected.steps, widths, expected.offsets, shape[1])
        same(cuda.dequantize_samples(*arguments), reference.dequantize_samples(*arguments))


def test_half_precision_casts_of_every_number(cuda: Any, same: Any) -> None:
    """Every float16 and bfloat16 goes through quantiser and decoder (in groups alone, so with step 1 and code 0)."""
    for name in ("float16", "bfloat16"):
        x = np.arange(2**16, dtype=np.uint16)[::7].repeat(32)
        x = x if name == "bfloat16" else x.view(np.float16)
        expected = reference.quantize(x, 1, seed=0, group=32, wide_minimum=True, **named(name))
        same(cuda.quantize(x, 1, seed=0, group=32, wide_minimum=True, **named(name)), expected)
        arguments = (expected.codes, expected.minima, expected.steps, 1, x.size)
        same(cuda.dequantize(*arguments, group=32, dtype=name), reference.dequantize(*arguments, group=32, dtype=name))


def test_noise_that_equals_the_fraction_does_not_round_up(cuda: Any, same: Any) -> None:
    """With minimum 0 and step 1 the values are their own fractions: here each is the noise it is compared with."""
    x = reference.noise(3, 0, 512)
    x[[0, 256]], x[[1, 257]] = 3, 0
    expected = reference.quantize(x, 2, seed=3)
    assert expected.codes.tolist() == ([3] + [0] * 63) * 2
    same(cuda.quantize(x, 2, seed=3), expected)


def test_a_code_never_exceeds_the_top(cuda: Any, same: Any) -> None:
    """4.453125 / step is a little above 3, and the noise of this index is below that little: only the clamp says 3."""
    index = 1342144
    assert reference.noise(0, index, 1)[0] < 3 * 2**-24
    x = np.zeros(32, np.float32)
    x[5] = 4.453125
    expected = reference.quantize(x, 2, seed=0, start=index - 5)
    assert expected.codes.tolist() == [0, 3 << 2, *[0] * 6]
    same(cuda.quantize(x, 2, seed=0, start=index - 5), expected)
