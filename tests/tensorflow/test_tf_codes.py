"""The quantiser in TensorFlow's operators makes the shared kernels' bytes: eagerly, in graphs and under XLA."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from small_networks import tf

from kernels import reference
from tf_models.operators import max_pool, max_pool_gradient
from tf_models.saving.bit_packing import pack, unpack
from tf_models.saving.coded import ActivationMask, activated
from tf_models.saving.group_codes import coded_bytes, dequantize, quantize
from tf_models.saving.pool_codes import PoolPositions

MODES: dict[str, Callable[[Any], Any]] = {
    "eager": lambda function: function,
    "graph": tf.function,
    "xla": lambda function: tf.function(function, jit_compile=True),
}
SEED = 2**63 + 12345


def groups() -> np.ndarray:
    """Whole groups of every kind, and a short one at the end."""
    draw = np.random.default_rng(0)
    normal = draw.standard_normal(256)
    kinds = [
        normal,
        normal * 1e-3 + 40,
        np.maximum(normal, 0),
        np.full(256, 3.3),
        np.where(np.arange(256) % 2, 0.0, -0.0),
        normal * 1e30,
        normal * 1e-28,
        np.where(np.arange(256) == 7, np.nan, normal),
        np.where(np.arange(256) == 200, np.inf, normal),
        np.where(np.arange(256) == 0, -np.inf, normal),
        np.clip(normal, -1, 1) * 3.2e38,
        normal[:37],
    ]
    return np.concatenate(kinds).astype(np.float32)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_codes_are_the_references_to_the_bit(bits: int, mode: str) -> None:
    values = groups()
    expected = reference.quantize(values, bits, seed=SEED)
    back = reference.dequantize(expected.codes, expected.minima, expected.steps, bits, values.size)

    def both(x: Any, seed: Any) -> Any:
        coded = quantize(x, bits, seed)
        return coded, dequantize(coded, bits, values.size)

    coded, decoded = MODES[mode](both)(tf.constant(values), tf.constant(SEED, tf.uint64))
    assert np.array_equal(coded.codes, expected.codes)
    assert np.array_equal(coded.minima, expected.minima)
    assert np.array_equal(coded.steps, expected.steps)
    # A compiler may round minimum + code * step once.
    largest = np.repeat(np.nan_to_num(reference_scale(values)), 256)[: values.size]
    assert np.array_equal(np.isnan(decoded), np.isnan(back))
    assert (np.abs(decoded.numpy() - back)[~np.isnan(back)] <= 2e-7 * largest[~np.isnan(back)]).all()
    assert coded_bytes(values.size, bits) == sum(np.asarray(one).nbytes for one in coded)


def reference_scale(values: np.ndarray) -> np.ndarray:
    """The largest magnitude of every group."""
    padded = np.pad(values, (0, -values.size % 256), mode="edge").reshape(-1, 256)
    return np.abs(padded).max(1)


def test_a_batch_of_unknown_size_makes_the_same_codes() -> None:
    values = np.random.default_rng(1).standard_normal((3, 37)).astype(np.float32)
    expected = reference.quantize(values, 2, seed=5)

    @tf.function(input_signature=[tf.TensorSpec([None, 37])])
    def both(x: Any) -> Any:
        coded = quantize(x, 2, 5)
        return coded, dequantize(coded, 2, tf.size(x))

    coded, decoded = both(values)
    assert np.array_equal(coded.codes, expected.codes)
    assert np.allclose(
        decoded, reference.dequantize(expected.codes, expected.minima, expected.steps, 2, 111), rtol=1e-6
    )


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_integers_are_packed_as_the_references(bits: int) -> None:
    values = np.random.default_rng(2).integers(0, 2**bits, 1003, dtype=np.uint8)
    codes = pack(tf.constant(values), bits)
    assert np.array_equal(codes, reference.pack_integers(values, bits))
    assert np.array_equal(unpack(codes, bits, 1003), values)


def test_masks_are_exact_and_nothing_rebuilt_is_clamped() -> None:
    outputs = tf.constant([0.0, 2.0, 6.0, 1e-30, -0.0])
    mask = ActivationMask.of(outputs, "relu6")
    assert mask is not None
    pieces = mask.pieces(mask.codes)
    assert pieces.numpy().tolist() == [0, 1, 2, 1, 0]
    rebuilt = activated(tf.constant([-1.0, 7.0, 3.0, -0.5, 2.0]), pieces, "relu6")
    assert rebuilt.numpy().tolist() == [0, 7, 6, -0.5, 0]
    assert np.array_equal(mask.codes, reference.pack_regions(outputs.numpy(), 0, 6))


@pytest.mark.parametrize("shape", [(2, 8, 6, 3), (2, 7, 9, 2)])
def test_a_max_pools_positions_give_its_gradient(shape: tuple[int, ...]) -> None:
    draw = np.random.default_rng(3)
    inputs = tf.constant(np.round(draw.standard_normal(shape)).astype(np.float32))  # many ties
    outputs = max_pool(inputs, "channels_last")
    gradient = tf.constant(draw.standard_normal(outputs.shape).astype(np.float32))
    kept = PoolPositions.of(inputs, outputs, "channels_last")
    expected = max_pool_gradient(inputs, outputs, gradient, "channels_last")
    assert np.allclose(kept.gradient(gradient, tf.constant(0)), expected, atol=1e-6)
    assert kept.codes.shape[0] == (outputs.shape.num_elements() + 1) // 2
