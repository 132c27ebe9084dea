"""Fixed point of 1 to 16 bits in plain TensorFlow operators: the codes of `kernels.quantize_fixed`, in every mode.

A channel has a step of its own, its largest magnitude over the largest code. Codes are signed where a value is
negative, which the data alone tell. With zeros apart, a value that is 0 takes one bit of a mask, and no code.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from kernels._reference_fixed import SMALLEST_STEP
from tf_models.saving.bit_packing import pack, pack_flags, unpack, unpack_flags
from tf_models.saving.group_codes import count_of, in_groups, without_filling
from tf_models.saving.noise import noise_of_rows, seed_tensor
from tf_models.tensorflow_names import tf


class FixedCodes(NamedTuple):
    """What `quantize_fixed` made: a tuple of tensors.

    Args:
        codes: uint8, packed.
        steps: float32, one a channel, in a shape that fits beside the values.
        signed: bool, of all codes.
        mask: uint8, a bit a value that is not 0; empty where zeros are not apart.
    """

    codes: Any
    steps: Any
    signed: Any
    mask: Any


def quantize_fixed(values: Any, bits: int, axis: int | None, seed: Any = None, zeros: bool = False) -> FixedCodes:
    """Code values as whole multiples of a step.

    A channel with a NaN or an infinity decodes to NaN.

    Args:
        values: floating, taken in float32; at least one.
        bits: 1 to 16; 1 holds no negative values.
        axis: of channels; None = one step for all.
        seed: of stochastic rounding, a Python integer or a uint64 tensor; None = to nearest, ties to even.
        zeros: store zeros apart. How many bytes that takes the data decide, so that under XLA it saves none.

    Raises:
        ValueError: 2^31 values or more.

    Example:
        >>> coded = quantize_fixed(tf.constant([[0.0, 51.0, 255.0]]), 8, None)
        >>> coded.codes.numpy().tolist(), dequantize_fixed(coded, 8, (1, 3), 3).numpy().tolist()
        ([0, 51, 255], [[0.0, 51.0, 255.0]])
    """
    run = _quantize_as_graph if tf.executing_eagerly() else _quantize
    return run(values, bits, axis, None if seed is None else seed_tensor(seed), zeros)


def _quantize(values: Any, bits: int, axis: int | None, seed: Any, zeros: bool) -> FixedCodes:
    x = tf.cast(values, tf.float32)
    others = [place for place in range(x.shape.rank) if axis is None or place != axis % x.shape.rank]
    whole = tf.reduce_all(tf.math.is_finite(x), others, keepdims=True)
    top = tf.where(whole, tf.reduce_max(tf.abs(x), others, keepdims=True), float("nan"))
    signed = tf.reduce_any(x < 0)
    levels = tf.where(signed, _number(max(2 ** (bits - 1) - 1, 1)), _number(2**bits - 1))
    steps = tf.where(top == 0, 1.0, top / levels)
    if not zeros:
        t = x * tf.where(steps >= tf.constant(SMALLEST_STEP), 1 / steps, 0.0)
        return FixedCodes(_codes(t, bits, signed, seed, count_of(x)), steps, signed, tf.zeros([0], tf.uint8))
    scaled = tf.reshape(x / steps, (-1,))
    flags = scaled != 0
    _, kept = tf.dynamic_partition(scaled, tf.cast(flags, tf.int32), 2)
    return FixedCodes(_codes(kept, bits, signed, seed, tf.size(kept)), steps, signed, pack_flags(flags))


def _codes(t: Any, bits: int, signed: Any, seed: Any, count: Any) -> Any:
    """Rounded, cut off at the ends, and packed."""
    low = tf.where(signed, _number(-(2 ** (bits - 1))), 0.0)
    high = tf.where(signed, _number(2 ** (bits - 1) - 1), _number(2**bits - 1))
    t = tf.clip_by_value(tf.where(tf.math.is_nan(t), 0.0, t), low, high)
    if seed is None:
        q = tf.round(t)
    else:
        rows = in_groups(tf.reshape(t, (-1,)), count)
        q = tf.floor(rows)
        q += tf.cast(noise_of_rows(rows, seed) < rows - q, tf.float32)
        q = without_filling(tf.reshape(q, (-1,)), count)
    kind = tf.uint8 if bits in (1, 2, 4, 8) else tf.uint16
    integers = tf.cast(tf.reshape(q, (-1,)), tf.int32) & tf.constant(2**bits - 1)
    return pack(tf.cast(integers, kind), bits)


def dequantize_fixed(coded: FixedCodes, bits: int, shape: Any, count: Any, zeros: bool = False) -> Any:
    """The values of codes, float32, in the shape that was coded.

    Args:
        coded, bits, zeros: as `quantize_fixed` was given and gave them.
        shape: of the values.
        count: of the values.
    """
    run = _dequantize_as_graph if tf.executing_eagerly() else _dequantize
    return run(coded, bits, shape, count, zeros)


def _dequantize(coded: FixedCodes, bits: int, shape: Any, count: Any, zeros: bool) -> Any:
    if not zeros:
        return tf.reshape(_integers(coded, bits, count), shape) * coded.steps
    flags = unpack_flags(coded.mask, (-1,), count)
    places = tf.cumsum(tf.cast(flags, tf.int32))
    number = places[-1]
    # In front of them a 0, for what comes before the first that is not 0.
    values = tf.concat([[0.0], _integers(coded, bits, number)], 0)
    return tf.reshape(tf.where(flags, tf.gather(values, places), 0.0), shape) * coded.steps


def _integers(coded: FixedCodes, bits: int, count: Any) -> Any:
    q = tf.cast(unpack(coded.codes, bits, count), tf.int32)
    above = tf.bitwise.right_shift(q, tf.constant(bits - 1)) & tf.cast(coded.signed, tf.int32)
    return tf.cast(q - tf.bitwise.left_shift(above, tf.constant(bits)), tf.float32)


def _number(value: float) -> Any:
    return tf.constant(value, tf.float32)


# As in `group_codes`: less memory than operator by operator.
_quantize_as_graph = tf.function(_quantize, autograph=False)
_dequantize_as_graph = tf.function(_dequantize, autograph=False)
