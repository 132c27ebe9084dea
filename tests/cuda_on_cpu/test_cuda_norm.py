"""The norm passes: CUDA source and host code against the definition; codes and masks to the bit, sums to rounding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kernels import checks, reference
from kernels.formats import widen

FORMATS = ("float16", "bfloat16", "float32", "float64")
ACTIVATIONS = ("identity", "relu", "relu6", "leaky_relu")
# (rows, C) and (N, C, P): around octets, channel tiles and blocks; many channels, one, planes that no octet fits.
LAST = ((1, 1), (3, 5), (9, 8), (40, 12), (130, 33), (2100, 1), (17, 300))
FIRST = ((1, 1, 1), (2, 3, 7), (3, 4, 8), (2, 5, 49), (5, 2, 256), (1, 3, 2049), (300, 2, 3))
LAYOUTS = [*LAST, *FIRST]


def named(name: str) -> dict[str, str]:
    return {"dtype": name} if name == "bfloat16" else {}


def view(numbers: Any, name: str, shape: tuple[int, ...], wider: int) -> np.ndarray:
    """An array of channels, inside a wider buffer."""
    buffer = numbers.floats(name, shape[0], shape[1] + wider, *shape[2:])
    return buffer[:, wider // 2 : wider // 2 + shape[1]]


def vectors(numbers: Any, name: str, channels: int) -> list[np.ndarray]:
    """mean, inv_std, scale, shift."""
    return [numbers.vector(name, channels, *ends) for ends in ((-1, 1), (0.1, 0.6), (-0.5, 0.9), (-1, 3))]


def close(made: np.ndarray, expected: np.ndarray, name: str, size: float) -> None:
    """Equal to rounding in `name`, relative to numbers of about `size`."""
    assert made.dtype == expected.dtype
    tolerance = {"float16": 1e-3, "bfloat16": 8e-3, "float32": 1e-6, "float64": 1e-14}[name]
    np.testing.assert_allclose(widen(made, name), widen(expected, name), rtol=tolerance, atol=tolerance * size)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("shape", LAYOUTS)
def test_statistics(cuda: Any, numbers: Any, name: str, shape: tuple[int, ...]) -> None:
    for wider in (0, 3):
        x = view(numbers, name, shape, wider)
        for made, expected in zip(
            cuda.channel_statistics(x, **named(name)), reference.channel_statistics(x, **named(name)), strict=True
        ):
            close(made, expected, "float64" if name == "float64" else "float32", 0.5)


@pytest.mark.parametrize("shape", [(5000, 3), (50, 3, 100)])
@pytest.mark.parametrize("name", ["float32", "float64"])
def test_statistics_far_from_zero_and_with_outliers(cuda: Any, numbers: Any, name: str, shape: tuple[int, ...]) -> None:
    """One part in a million where |mean| is 300 deviations, and where the first value is nothing like the others."""
    x = (numbers.rng.normal(size=shape) + 300).astype(name)
    outlier = x - 300
    outlier[:1, :, ...] *= 1e4
    for values in (x, outlier, np.zeros_like(x), np.full_like(x, 0.1)):
        (mean, variance), expected = cuda.channel_statistics(values), reference.channel_statistics(values)
        np.testing.assert_allclose(variance, expected[1], rtol=1e-6, atol=1e-15)
        deviation = expected[1].max() ** 0.5
        np.testing.assert_allclose(mean, expected[0], rtol=1e-7, atol=1e-7 * deviation)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", FORMATS)
def test_affine_activation(cuda: Any, numbers: Any, same: Any, name: str, activation: str) -> None:
    for shape in LAYOUTS:
        for wider in (0, 3):
            x = view(numbers, name, shape, wider)
            _, _, scale, shift = vectors(numbers, name, shape[1])
            results = []
            for backend in (reference, cuda):
                out = view(numbers, name, shape, 2 * wider).copy() if not wider else x.base.copy()
                out = out if not wider else out[:, 1 : 1 + shape[1]]
                bits = {} if activation == "identity" else {"mask": np.full(mask_size(activation, x), 0xAA, np.uint8)}
                options = {"activation": activation, "slope": 0.1, **bits, **named(name)}
                assert backend.affine_activation(x, scale, shift, out, **options) is out
                results.append((out, bits.get("mask")))
            same(results[1][0], results[0][0])
            same(results[1][1], results[0][1])


def mask_size(activation: str, x: np.ndarray) -> int:
    return checks.mask_bytes(activation, x.size)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("name", FORMATS)
def test_coding_in_one_pass(cuda: Any, numbers: Any, same: Any, name: str, bits: int) -> None:
    for number, shape in enumerate([*LAYOUTS, (0, 3), (2, 0, 5)]):
        x = view(numbers, name, shape, number % 2 * 3)
        activation = ACTIVATIONS[number % 4]
        options = {"seed": 3, "group": (256, 32, 288)[number % 3], "start": 2**32 - 300, "activation": activation}
        options |= {"slope": 0.2, "wide_minimum": number % 5 == 0, **named(name)}
        results = []
        for backend in (reference, cuda):
            out = np.zeros_like(x.base if x.base is not None else x)
            out = out[:, :0].reshape(x.shape) if not x.size else out[:, -shape[1] :]
            made = backend.normalize_quantize_mask(
                x, *vectors(type(numbers)(number), name, shape[1]), bits, out=out if number % 4 else None, **options
            )
            results.append((made, out))
        same(results[1][0], results[0][0])
        same(results[1][1], results[0][1])


def test_codes_and_masks_where_there_is_no_number(cuda: Any, numbers: Any, same: Any) -> None:
    for activation in ACTIVATIONS:
        x = numbers.floats("float32", 40, 12)
        x[3, 4], x[20, 1], x[21, 2] = np.nan, np.inf, -np.inf
        values = vectors(numbers, "float32", 12)
        out, expected_out = np.empty_like(x), np.empty_like(x)
        expected = reference.normalize_quantize_mask(
            x, *values, 4, seed=1, group=32, activation=activation, out=expected_out
        )
        made = cuda.normalize_quantize_mask(x, *values, 4, seed=1, group=32, activation=activation, out=out)
        same(made, expected)
        same(out, expected_out)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("name", FORMATS)
def test_decoding_and_backward(cuda: Any, numbers: Any, same: Any, name: str, bits: int) -> None:
    for number, shape in enumerate(LAYOUTS):
        d_out = view(numbers, name, shape, 3 * (number % 2))
        mean, inv_std, scale, shift = vectors(numbers, name, shape[1])
        activation, group = ACTIVATIONS[(number + bits) % 4], (256, 32, 288)[number % 3]
        kept = reference.normalize_quantize_mask(
            view(numbers, name, shape, 0), mean, inv_std, scale, shift, bits, seed=1, group=group,
            activation=activation, wide_minimum=number % 2 == 0, **named(name),
        )  # fmt: skip
        options = {"group": group, "activation": activation, "slope": 0.3, "mask": kept.mask, **named(name)}
        coded = (kept.codes, kept.minima, kept.steps, bits)
        outs, targets, sums = [], [], []
        for backend in (reference, cuda):
            outs.append(np.zeros_like(d_out))
            backend.dequantize_affine(*coded, scale, shift, outs[-1], **options)
            targets.append(np.ones_like(d_out) if name != "bfloat16" else np.full_like(d_out, 0x3F80))
            sums.append(
                backend.norm_backward_coded(
                    d_out, *coded, scale, target=targets[-1], accumulate=number % 3 > 0, **options
                )
            )
        same(outs[1], outs[0])
        close(targets[1], targets[0], name, 1)
        for made, expected in zip(sums[1], sums[0], strict=True):
            close(made, expected, "float64" if name == "float64" else "float32", 6.0 * (d_out.size / shape[1]) ** 0.5)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", FORMATS)
def test_rebuilding_from_decoded_values(cuda: Any, numbers: Any, same: Any, name: str, activation: str) -> None:
    for number, shape in enumerate([*LAYOUTS, (0, 3)]):
        x = view(numbers, name, shape, 3 * (number % 2))
        weight, bias = vectors(numbers, name, shape[1])[2:]
        flags = numbers.rng.integers(0, 3 if activation == "relu6" else 2, x.size).astype(np.uint16)
        mask = reference.pack_integers(flags, 2 if activation == "relu6" else 1)
        outs = []
        for backend in (reference, cuda):
            outs.append(np.zeros((shape[0], shape[1] + number % 3, *shape[2:]), x.dtype)[:, : shape[1]])
            options = {"activation": activation, "slope": 0.3, **named(name)}
            kept = None if activation == "identity" else mask
            assert backend.rebuild_activation(x, weight, bias, kept, outs[-1], **options) is outs[-1]
        same(outs[1], outs[0])
        assert not outs[1].base[:, shape[1] :].any()


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("accumulate", [False, True])
def test_norm_backward(cuda: Any, numbers: Any, name: str, activation: str, accumulate: bool) -> None:
    for number, shape in enumerate(LAYOUTS):
        x, d_out = (view(numbers, name, shape, wider) for wider in (3 * (number % 2), 2))
        values = vectors(numbers, name, shape[1])
        mask = None
        if number % 3 and activation != "identity":
            mask = np.zeros(mask_size(activation, x), np.uint8)
            reference.affine_activation(
                x, *values[2:], np.zeros_like(x), activation=activation, mask=mask, slope=0.1, **named(name)
            )
        targets, sums = [], []
        start = numbers.floats(name, *shape)
        for backend in (reference, cuda):
            targets.append(start.copy())
            options = {"activation": activation, "slope": 0.1, "mask": mask, **named(name)}
            sums.append(backend.norm_backward(d_out, x, *values, target=targets[-1], accumulate=accumulate, **options))
        close(targets[1], targets[0], name, 1)
        for made, expected in zip(sums[1], sums[0], strict=True):
            close(made, expected, "float64" if name == "float64" else "float32", 6.0 * (x.size / shape[1]) ** 0.5)


@pytest.mark.parametrize("name", FORMATS)
def test_subtract_norm_terms(cuda: Any, numbers: Any, same: Any, name: str) -> None:
    for shape in LAYOUTS:
        x = view(numbers, name, shape, 3)
        mean, slope, constant, _ = vectors(numbers, name, shape[1])
        start = view(numbers, name, shape, 0)
        targets = [start.copy(), start.copy()]
        for backend, target in zip((reference, cuda), targets, strict=True):
            assert backend.subtract_norm_terms(target, x, mean, constant, slope, **named(name)) is target
        same(targets[1], targets[0])


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_masks_at_the_very_ends_of_a_region(cuda: Any, numbers: Any, same: Any, activation: str) -> None:
    """u is exactly 0, -0 or 6, or the next number."""
    ends = np.float32([0, -0.0, 6, 3, -1, 7, 1e-45, -1e-45, np.nextafter(np.float32(6), np.float32(0))])
    x = np.stack([ends, ends[::-1]])
    vectors = np.float32([[0] * 9, [1] * 9, [1] * 9, [0] * 9])
    outs = [np.empty_like(x), np.empty_like(x)]
    results = [
        backend.normalize_quantize_mask(x, *vectors, 2, seed=0, activation=activation, out=out)
        for backend, out in zip((reference, cuda), outs, strict=True)
    ]
    same(results[1], results[0])
    same(outs[1], outs[0])


@pytest.mark.parametrize("activation", ["relu", "relu6", "leaky_relu"])
def test_masks_where_the_product_rounds_to_minus_the_shift(cuda: Any, numbers: Any, same: Any, activation: str) -> None:
    """There the sum rounded once is what the product's rounding left over, of either sign; rounded twice it is 0."""
    x, scale = numbers.floats("float32", 1, 300), numbers.vector("float32", 300, -2, 2)
    shift = -(x[0] * scale) + (6 if activation == "relu6" else 0)
    masks, sums, targets = [], [], []
    for backend in (reference, cuda):
        masks.append(np.zeros(mask_size(activation, x), np.uint8))
        backend.affine_activation(x, scale, shift, np.empty_like(x), activation=activation, mask=masks[-1])
        targets.append(np.ones_like(x))
        norm = (np.zeros(300, np.float32), np.ones(300, np.float32), scale, shift)
        sums.append(backend.norm_backward(x, x, *norm, target=targets[-1], accumulate=True, activation=activation))
    same(masks[1], masks[0])
    same(targets[1], targets[0])
    same(sums[1][0], sums[0][0])
    assert len(set(masks[0].tolist())) > 5


def test_only_the_view_is_written(cuda: Any, numbers: Any) -> None:
    """The gaps between the rows of a channel slice keep what they hold."""
    for shape in ((40, 20), (6, 20, 15)):
        buffer = np.full(shape, 7, np.float32)
        x = numbers.floats("float32", shape[0], 5, *shape[2:])
        out = buffer[:, 8:13]
        cuda.affine_activation(x, np.ones(5, np.float32), np.zeros(5, np.float32), out, activation="identity")
        assert (out == x).all()
        out[...] = 7
        assert (buffer == 7).all()


def test_in_place(cuda: Any, numbers: Any, same: Any) -> None:
    x = numbers.floats("float32", 6, 5, 15)
    scale, shift = vectors(numbers, "float32", 5)[2:]
    expected = reference.affine_activation(x, scale, shift, np.empty_like(x))
    same(cuda.affine_activation(x, scale, shift, x), expected)
    with pytest.raises(ValueError, match="out is values"):
        cuda.normalize_quantize_mask(x, *vectors(numbers, "float32", 5), 2, seed=0, out=x)
