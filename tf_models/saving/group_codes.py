"""The group quantiser in plain TensorFlow operators: the codes of `kernels.quantize`, eagerly, in graphs, under XLA.

For the same values and seed, codes, minima and steps are those of `kernels/reference.py`, bit for bit, but where
a value is below 2^-126: TensorFlow's CPU kernels take such values for 0.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from kernels._reference_group import SMALLEST_RANGE
from kernels.formats import BF16_NAN, BF16_ONE
from tf_models.saving.bit_packing import code_bytes, pack, unpack
from tf_models.saving.noise import ROW, noise_of_rows, seed_tensor
from tf_models.tensorflow_names import tf

GROUP = ROW  # consecutive values that share a minimum and a step
MOST_VALUES = 2**31


class Codes(NamedTuple):
    """What `quantize` made: a tuple of tensors, so that TensorFlow's control flow takes it as it is.

    Args:
        codes: uint8, packed.
        minima, steps: of the groups, uint16 that hold bfloat16.
    """

    codes: Any
    minima: Any
    steps: Any


def quantize(values: Any, bits: int, seed: Any) -> Codes:
    """Code values in few bits with stochastic rounding, so that the mean over seeds is the value itself.

    Args:
        values: floating, of any shape, taken flat and in float32; at least one.
        bits: 1, 2, 4 or 8.
        seed: of the noise, a Python integer or a uint64 tensor; another one for every tensor and step.

    Raises:
        ValueError: 2^31 values or more, whose places 32 bits do not count.

    Example:
        >>> coded = quantize(tf.constant([0.0, 1.0, 2.0, 3.0]), 2, seed=0)
        >>> coded.codes.numpy().tolist(), dequantize(coded, 2, 4).numpy().tolist()
        ([228], [0.0, 1.0, 2.0, 3.0])
    """
    run = _quantize_as_graph if tf.executing_eagerly() else _quantize
    return run(values, bits, seed_tensor(seed))


def _quantize(values: Any, bits: int, seed: Any) -> Codes:
    count = count_of(values)
    x = in_groups(tf.reshape(tf.cast(values, tf.float32), (-1,)), count)
    minimum, extent = _minimum_and_extent(x)
    top = tf.constant(2**bits - 1, tf.float32)
    step = _bf16_up(extent * tf.constant(1 / (2**bits - 1), tf.float32))
    is_constant = extent < tf.constant(SMALLEST_RANGE)
    width = tf.where(is_constant, 1.0, from_bf16(step))
    inverse = tf.where(is_constant, 0.0, 1.0 / width)
    t = (x - from_bf16(minimum)[:, None]) * inverse[:, None]
    whole = tf.floor(t)
    fraction = t - whole
    # A NaN stays one in its own fraction, an infinity in the range.
    end = from_bf16(minimum) + top * width + tf.reduce_sum(fraction, 1)
    broken = ~tf.math.is_finite(end)
    up = tf.cast(noise_of_rows(x, seed) < fraction, tf.float32)
    q = tf.where(broken[:, None], 0.0, tf.minimum(whole + up, top))
    codes = pack(without_filling(tf.reshape(tf.cast(q, tf.uint8), (-1,)), count), bits)
    steps = tf.where(is_constant | broken, tf.constant(BF16_ONE), step)
    return Codes(codes, tf.where(broken, tf.constant(BF16_NAN), minimum), steps)


def dequantize(coded: Codes, bits: int, count: Any) -> Any:
    """The values of `count` codes, flat float32: minimum + code * step.

    Example:
        >>> dequantize(quantize(tf.fill([300], 2.5), 1, seed=3), 1, 300).numpy().max()
        2.5
    """
    run = _dequantize_as_graph if tf.executing_eagerly() else _dequantize
    return run(coded, bits, count)


def _dequantize(coded: Codes, bits: int, count: Any) -> Any:
    q = in_groups(tf.cast(unpack(coded.codes, bits, count), tf.float32), count)
    values = from_bf16(coded.minima)[:, None] + q * from_bf16(coded.steps)[:, None]
    return without_filling(tf.reshape(values, (-1,)), count)


# As graphs, intermediate values take less memory and time than operator by operator. Where a graph is made already, the
# operators become part of it: a call inside of it would hold its inputs and what is within for longer.
_quantize_as_graph = tf.function(_quantize, autograph=False)
_dequantize_as_graph = tf.function(_dequantize, autograph=False)


def coded_bytes(count: int, bits: int) -> int:
    """Bytes of so many values' codes, minima and steps.

    Example:
        >>> coded_bytes(512, 2)
        136
    """
    return int(code_bytes(count, bits)) + 4 * math.ceil(count / GROUP)


def _minimum_and_extent(x: Any) -> tuple[Any, Any]:
    """Of every group: its minimum rounded down to bfloat16, and how far the maximum is above that."""
    lowest = tf.reduce_min(x, 1)
    bits = tf.bitcast(tf.where(lowest == 0, 0.0, lowest), tf.uint32)  # -0 becomes +0
    sign = tf.bitwise.right_shift(bits, tf.constant(31, tf.uint32))
    minimum = _upper_half(bits + sign * tf.constant(0xFFFF, tf.uint32))  # down is away from zero below zero
    return minimum, tf.reduce_max(x, 1) - from_bf16(minimum)


def _bf16_up(values: Any) -> Any:
    """Values of at least 0 rounded up to bfloat16, uint16."""
    return _upper_half(tf.bitcast(values, tf.uint32) + tf.constant(0xFFFF, tf.uint32))


def _upper_half(bits: Any) -> Any:
    return tf.cast(tf.bitwise.right_shift(bits, tf.constant(16, tf.uint32)), tf.uint16)


def from_bf16(bits: Any) -> Any:
    """float32 of bfloat16 in uint16."""
    wide = tf.bitwise.left_shift(tf.cast(bits, tf.uint32), tf.constant(16, tf.uint32))
    return tf.bitcast(wide, tf.float32)


def count_of(values: Any) -> Any:
    """How many values there are, as a number where it is known.

    Raises:
        ValueError: 2^31 or more.
    """
    count = values.shape.num_elements()
    if count is None:
        return tf.size(values)
    if count >= MOST_VALUES:
        raise ValueError(
            f"compressed: a tensor of {count} values; fewer than 2^31 are coded at once. Give a smaller batch"
        )
    return count


def in_groups(flat: Any, count: Any) -> Any:
    """(groups, 256), the last value repeated up to a whole group."""
    missing = -count % GROUP
    if isinstance(missing, int) and not missing:
        return tf.reshape(flat, (-1, GROUP))
    return tf.reshape(tf.concat([flat, tf.tile(flat[-1:], [missing])], 0), (-1, GROUP))


def without_filling(flat: Any, count: Any) -> Any:
    """The first `count` values, without what `in_groups` added."""
    return flat if isinstance(count, int) and count % GROUP == 0 else flat[:count]
