"""Fixed point in TensorFlow's operators makes the shared kernels' bytes: any width, zeros apart, every mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from small_networks import tf

from kernels import reference
from tf_models.saving.bit_packing import pack, unpack
from tf_models.saving.fixed_codes import dequantize_fixed, quantize_fixed
from tf_models.saving.forms import FixedForm, HalfForm, Sizes

MODES: dict[str, Callable[[Any], Any]] = {
    "eager": lambda function: function,
    "graph": lambda function: tf.function(function, autograph=False),
    "xla": lambda function: tf.function(function, jit_compile=True, autograph=False),
}
SHAPE, CHANNELS = (2, 3, 5, 7), 7
SEED = 2**63 + 77


def images(signed: bool) -> np.ndarray:
    """With a channel of zeros, one with a NaN and one with an infinity."""
    values = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    values = values if signed else np.maximum(values, 0)
    values[..., 2], values[0, 0, 0, 4], values[1, 0, 0, 5] = 0, np.nan, np.inf
    return values


@pytest.mark.parametrize("bits", [3, 11, 16])
def test_integers_of_any_width_are_packed_as_the_references(bits: int) -> None:
    values = np.random.default_rng(2).integers(0, 2**bits, 1003, dtype=np.uint16)
    codes = pack(tf.constant(values), bits)
    assert np.array_equal(codes, reference.pack_integers(values, bits))
    assert np.array_equal(unpack(codes, bits, 1003), values)


@pytest.mark.parametrize(
    ("mode", "bits", "signed", "seed"),
    [
        ("eager", 1, False, SEED),
        ("eager", 6, True, SEED),
        ("graph", 3, True, SEED),
        ("graph", 8, False, None),
        ("xla", 5, True, SEED),
        ("xla", 13, True, None),
    ],
)
def test_codes_are_the_references_to_the_bit(mode: str, bits: int, signed: bool, seed: int | None) -> None:
    values = images(signed)

    def both(x: Any) -> Any:
        coded = quantize_fixed(x, bits, -1, seed)
        return coded, dequantize_fixed(coded, bits, SHAPE, values.size)

    coded, decoded = MODES[mode](both)(tf.constant(values))
    steps = coded.steps.numpy().ravel()
    how: dict[str, Any] = {"signed": signed, "channels": CHANNELS}
    expected = reference.quantize_fixed(values, bits, steps, seed=seed, **how)
    assert bool(coded.signed) == signed
    assert np.array_equal(coded.codes, expected)
    back = reference.dequantize_fixed(expected, bits, steps, values.size, **how)
    assert np.array_equal(decoded, back.reshape(SHAPE), equal_nan=True)
    assert np.isnan(decoded).any((0, 1, 2)).tolist() == [False, False, False, False, True, True, False]
    whole = [0, 1, 2, 3, 6]
    assert np.abs(decoded.numpy() - values)[..., whole].max() <= steps[whole].max() * (1 if seed else 0.5)


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_zeros_apart_take_a_bit_each(mode: str) -> None:
    values, bits = np.nan_to_num(images(signed=False), posinf=3.0), 5

    def both(x: Any) -> Any:
        coded = quantize_fixed(x, bits, -1, SEED, zeros=True)
        return coded, dequantize_fixed(coded, bits, SHAPE, values.size, zeros=True)

    coded, decoded = MODES[mode](both)(tf.constant(values))
    mask, kept, count = reference.zero_compress(values / coded.steps.numpy())
    assert np.array_equal(coded.mask, mask)
    assert np.array_equal(coded.codes, reference.quantize_fixed(kept, bits, 1.0, signed=False, seed=SEED))
    assert coded.codes.shape[0] == (bits * count + 7) // 8 < (bits * values.size + 7) // 8
    assert (np.asarray(decoded)[values == 0] == 0).all()
    assert (np.abs(decoded - values) <= coded.steps.numpy()).all()


def test_nothing_but_zeros_comes_back() -> None:
    form, zeros = FixedForm(4, stochastic=True, zeros=True), tf.zeros((2, 3))
    assert np.array_equal(form.decode(form.encode(zeros, SEED, None), Sizes.of(zeros)), zeros)


def test_stochastic_rounding_has_no_bias() -> None:
    form, values = FixedForm(3, stochastic=True), tf.constant(images(signed=True)[..., :2])
    found = np.stack([form.decode(form.encode(values, seed, 3), Sizes.of(values)) for seed in range(400)])
    error = found.std(0, ddof=1) / np.sqrt(len(found))
    step = np.ptp(found, (0, 1, 2, 3)) / (2**3 - 2)
    # A value so near to the grid that no draw went the other way seems to have no error at all.
    assert (np.abs(found.mean(0) - values) <= 4.5 * error + 0.02 * step).all()


def test_half_the_bits_keep_finite_values_finite() -> None:
    values = tf.constant([1.5, 1e6, float("inf"), float("nan")])
    for kept, largest in (("float16", 65504.0), ("bfloat16", 999424.0)):
        form = HalfForm(kept)
        decoded = form.decode(form.encode(values, 0, None), Sizes.of(values)).numpy()
        assert decoded[:3].tolist() == [1.5, largest, np.inf]
        assert np.isnan(decoded[3])
