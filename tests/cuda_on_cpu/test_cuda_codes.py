"""Fixed point, exact codes and pooling: CUDA source and host code against the definition, to the bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kernels import reference

FORMATS = ("float16", "bfloat16", "float32", "float64")
# Around an octet, a warp (32 octets) and a block (256 octets).
LENGTHS = (0, 1, 7, 8, 9, 255, 256, 257, 2047, 2048, 2049)


def named(name: str) -> dict[str, str]:
    return {"dtype": name} if name == "bfloat16" else {}


@pytest.mark.parametrize("bits", range(1, 17))
def test_integers_of_any_width(cuda: Any, numbers: Any, same: Any, bits: int) -> None:
    for length in LENGTHS:
        for kind, shift in ((np.uint16, 0), (np.uint8, 1)):
            x = numbers.rng.integers(0, np.iinfo(kind).max + 1, length + shift).astype(kind)[shift:]
            codes = reference.pack_integers(x, bits)
            same(cuda.pack_integers(x, bits), codes)
            same(cuda.unpack_integers(codes, bits, length), reference.unpack_integers(codes, bits, length))


@pytest.mark.parametrize("bits", [1, 2, 3, 5, 8, 11, 16])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("seed", [None, 3])
def test_fixed_point(cuda: Any, numbers: Any, same: Any, bits: int, signed: bool, seed: int | None) -> None:
    for name in FORMATS:
        for length in (0, 1, 9, 256, 2049):
            x = numbers.floats(name, length)
            if length > 4 and name != "bfloat16":
                x[1:4] = np.nan, np.inf, -np.inf
            step = 2.0 ** (3 - bits)
            options: dict[str, Any] = {"signed": signed, "seed": seed, "start": 2**32 - 100, **named(name)}
            codes = reference.quantize_fixed(x, bits, step, **options)
            same(cuda.quantize_fixed(x, bits, step, **options), codes)
            decoded = reference.dequantize_fixed(codes, bits, step, length, signed=signed, dtype=name)
            same(cuda.dequantize_fixed(codes, bits, step, length, signed=signed, dtype=name), decoded)


@pytest.mark.parametrize(("channels", "inner", "outer"), [(1, 1, 700), (3, 1, 90), (5, 7, 11), (4, 300, 2), (2, 8, 40)])
def test_fixed_point_with_a_step_a_channel(
    cuda: Any, numbers: Any, same: Any, channels: int, inner: int, outer: int
) -> None:
    x = numbers.floats("float32", channels * inner * outer)
    steps = numbers.vector("float32", channels, 0.01, 0.4)
    steps[0], steps[-1] = (1e-39, np.nan) if channels > 3 else (0.3, 0.2)
    shape = {"channels": channels, "inner": inner}
    for bits in (4, 6, 13):
        codes = reference.quantize_fixed(x, bits, steps, signed=True, seed=8, **shape)
        same(cuda.quantize_fixed(x, bits, steps, signed=True, seed=8, **shape), codes)
        decoded = reference.dequantize_fixed(codes, bits, steps, x.size, signed=True, dtype="float16", **shape)
        same(cuda.dequantize_fixed(codes, bits, steps, x.size, signed=True, dtype="float16", **shape), decoded)


def test_fixed_point_noise_that_equals_the_fraction(cuda: Any, same: Any) -> None:
    """With step 1 a value below 1 is its own fraction: here each is the noise it is compared with, and stays below."""
    x = reference.noise(3, 0, 512)
    codes = cuda.quantize_fixed(x, 5, 1.0, signed=False, seed=3)
    same(codes, np.zeros(320, np.uint8))


@pytest.mark.quick
@pytest.mark.parametrize("name", FORMATS)
def test_masks_and_regions(cuda: Any, numbers: Any, same: Any, name: str) -> None:
    for length in LENGTHS:
        x = numbers.floats(name, length + 1)[1:]
        if length > 8 and name != "bfloat16":
            x[:5] = np.nan, 0, -0.0, 6, -np.inf
        same(cuda.pack_positive(x, **named(name)), reference.pack_positive(x, **named(name)))
        for low, high in ((0.0, 6.0), (-3.0, 3.0)):
            codes = reference.pack_regions(x, low, high, **named(name))
            same(cuda.pack_regions(x, low, high, **named(name)), codes)
            same(cuda.unpack_regions(codes, length), reference.unpack_regions(codes, length))
        for kind in (np.uint8, bool):
            flags = numbers.rng.integers(0, 3, length).astype(kind)
            codes = reference.pack_bits(flags)
            same(cuda.pack_bits(flags), codes)
            same(cuda.unpack_bits(codes, length), reference.unpack_bits(codes, length))


def test_thresholds_in_double_are_not_rounded(cuda: Any, same: Any) -> None:
    x = np.float64([0.1, np.nextafter(0.1, 1), 1 + 1e-12, 1.0, 1e-300])
    same(cuda.pack_regions(x, 0.1, 1 + 1e-12), reference.pack_regions(x, 0.1, 1 + 1e-12))
    same(cuda.pack_positive(x), reference.pack_positive(x))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
def test_zero_value_compression(cuda: Any, numbers: Any, same: Any, name: str, density: float) -> None:
    for length in (*LENGTHS, 3 * 2048 + 5):
        x = numbers.floats(name, length)
        x[numbers.rng.random(length) >= density] = 0
        if length > 9 and name != "bfloat16":
            x[2], x[4] = -0.0, np.nan
        mask, kept, count = reference.zero_compress(x, **named(name))
        made = cuda.zero_compress(x, **named(name))
        same(made[0], mask)
        same(made[1], kept)
        assert made[2] == count
        same(cuda.zero_expand(mask, kept, length), reference.zero_expand(mask, kept, length))
    with pytest.raises(ValueError, match="ones"):
        cuda.zero_expand(np.uint8([7]), np.float32([1.0]), 8)


def test_the_scan_over_many_blocks(device: Any, same: Any) -> None:
    """begin_blocks goes over more counts than one round of its block holds (2048)."""
    for blocks in (0, 1, 2047, 2048, 2049, 5000):
        counts = np.random.default_rng(blocks).integers(0, 2049, blocks)
        begins = np.concatenate([counts, [-1]]).astype(np.int64)
        device.order = blocks
        device.run("begin_blocks", (), 1, begins, np.int64(blocks))
        same(begins, np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    "window",
    [
        ((2, 2), (2, 2), (0, 0), (1, 1)),
        ((3, 3), (2, 2), (1, 1), (1, 1)),
        ((3, 2), (1, 2), (1, 0), (2, 3)),
        ((1, 1), (1, 1), (0, 0), (1, 1)),
        ((5, 7), (1, 1), (2, 3), (1, 1)),
        ((2, 2), (1, 1), (1, 1), (9, 11)),
    ],
)
def test_max_pooling(cuda: Any, numbers: Any, same: Any, name: str, window: Any) -> None:
    x = numbers.floats("float32", 2, 3, 9, 11)
    x = np.round(x) if name == "bfloat16" else np.round(x).astype(name)  # many ties
    x[0, 0, 4, 5], x[1, 2, 3, 3:5] = np.nan, np.inf
    x[1, 1] = -np.inf
    if name == "bfloat16":
        x = (x.view(np.uint32) >> 16).astype(np.uint16)
    pooled, codes = reference.max_pool_positions(x, *window, **named(name))
    made = cuda.max_pool_positions(x, *window, **named(name))
    same(made[0], pooled)
    same(made[1], codes)
    gradient = numbers.floats(name, *pooled.shape)
    expected = reference.max_pool_gradient(gradient, codes, x.shape, *window, **named(name))
    same(cuda.max_pool_gradient(gradient, codes, x.shape, *window, **named(name)), expected)
    out = np.zeros_like(x)
    assert cuda.max_pool_gradient(gradient, codes, x.shape, *window, out=out, **named(name)) is out
    same(out, expected)


def test_a_pooling_window_of_many_positions(cuda: Any, numbers: Any, same: Any) -> None:
    """Codes of 9 and 13 bits lie across bytes."""
    for kernel in ((17, 19), (70, 80)):
        x = numbers.floats("float32", 1, 2, kernel[0] + 3, kernel[1] + 2)
        window = (kernel, (1, 1), (0, 0), (1, 1))
        pooled, codes = reference.max_pool_positions(x, *window)
        made = cuda.max_pool_positions(x, *window)
        same(made[0], pooled)
        same(made[1], codes)
        gradient = numbers.floats("float32", *pooled.shape)
        expected = reference.max_pool_gradient(gradient, codes, x.shape, *window)
        same(cuda.max_pool_gradient(gradient, codes, x.shape, *window), expected)
