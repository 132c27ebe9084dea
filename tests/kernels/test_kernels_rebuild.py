"""An activation rebuilt from zhat that was decoded once: as from its codes, by the mask of the layer that reads it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import kernels
from kernels import checks, cpu, reference

FORMATS = ("float32", "float64", "bfloat16", pytest.param("float16", marks=pytest.mark.slow))
# Shape, and channels of the wider buffers that values and the result are slices of.
LAYOUTS = (((50, 12), 0, 0), ((700, 12), 5, 0), ((41, 37), 0, 3), ((3, 5, 7), 2, 0), ((2, 5, 70), 3, 1), ((1, 9), 0, 0))
ACTIVATIONS = ("identity", "relu", "relu6", "leaky_relu")


@pytest.mark.quick
@pytest.mark.parametrize("dtype", FORMATS)
def test_backends_agree_in_every_layout(dtype: str, make: Any, same: Any) -> None:
    for number, (shape, wider, wider_out) in enumerate(LAYOUTS):
        channels = shape[1]
        values, named = make(dtype, (shape[0], channels + wider, *shape[2:]), number)
        values = values[:, wider // 2 :][:, :channels]
        kind = np.float64 if dtype == "float64" else np.float32
        weight, bias = (np.random.default_rng(seed).normal(size=channels).astype(kind) for seed in (1, 2))
        for activation in ACTIVATIONS:
            flags = np.random.default_rng(3).integers(0, 256, checks.mask_bytes(activation, values.size), np.uint8)
            if activation == "relu6":
                flags = reference.pack_integers(np.random.default_rng(4).integers(0, 3, values.size).astype("u2"), 2)
            elif values.size % 8:
                flags[-1:] &= 2 ** (values.size % 8) - 1
            outs = []
            for backend in (reference, cpu):
                buffer = np.zeros((shape[0], channels + wider_out, *shape[2:]), values.dtype)
                outs.append(buffer[:, :channels])
                mask = None if activation == "identity" else flags
                options = {"activation": activation, "slope": 0.1, **named}
                assert backend.rebuild_activation(values, weight, bias, mask, outs[-1], **options) is outs[-1]
                assert not buffer[:, channels:].any()
            same(*outs)


@pytest.mark.parametrize("backend", [reference, cpu])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_it_is_what_the_codes_give(backend: Any, activation: str, make: Any, same: Any) -> None:
    x, _ = make("float32", (90, 20))
    norm = [np.random.default_rng(seed).uniform(0.2, 2, 20).astype(np.float32) for seed in range(4)]
    coded = backend.normalize_quantize_mask(x, *norm, 2, seed=5, activation=activation)
    kept = (coded.codes, coded.minima, coded.steps, 2)
    zhat = backend.dequantize(*kept, x.size).reshape(x.shape)
    options = {"activation": activation, "slope": 0.3}
    expected = backend.dequantize_affine(*kept, *norm[2:], np.empty_like(x), mask=coded.mask, **options)
    same(backend.rebuild_activation(zhat, *norm[2:], coded.mask, np.empty_like(x), **options), expected)
    same(kernels.rebuild_activation(zhat, *norm[2:], coded.mask, zhat, **options), expected)  # in place


@pytest.mark.parametrize("backend", [reference, cpu])
def test_the_mask_decides_and_not_the_sign(backend: Any) -> None:
    values, ones, zeros = np.float32([[-1, 2, np.nan, 4]]), np.ones(4, np.float32), np.zeros(4, np.float32)
    out = np.empty_like(values)
    backend.rebuild_activation(values, ones, zeros, np.uint8([0b0001]), out)
    assert out.tolist() == [[-1, 0, 0, 0]]
    backend.rebuild_activation(values, ones, zeros, np.uint8([0b10_00_01_01]), out, activation="relu6")
    assert out.tolist() == [[-1, 2, 0, 6]]
    backend.rebuild_activation(values, ones, zeros, np.uint8([0b1001]), out, activation="leaky_relu", slope=0.5)
    assert out[0, [0, 1, 3]].tolist() == [-1, 1, 4]


@pytest.mark.parametrize("backend", [reference, cpu])
def test_nothing_is_nothing(backend: Any) -> None:
    for shape in ((0, 3), (4, 0), (2, 3, 0)):
        values, vector = np.zeros(shape, np.float32), np.ones(shape[1], np.float32)
        assert backend.rebuild_activation(values, vector, vector, np.empty(0, np.uint8), values) is values
