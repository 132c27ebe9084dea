"""The noise of stochastic rounding in plain TensorFlow operators: the numbers of `kernels.reference.noise`."""

from __future__ import annotations

from typing import Any

from kernels._reference_noise import GOLDEN32, GOLDEN64, MASK64
from tf_models.saving.tied import zero_after
from tf_models.tensorflow_names import tf

ROW = 256  # values that are drawn for side by side


def seed_tensor(seed: Any) -> Any:
    """A seed, a Python integer or a uint64 tensor, as a tensor."""
    return tf.constant(seed & MASK64, tf.uint64) if isinstance(seed, int) else seed


def noise_of_rows(rows: Any, seed: Any) -> Any:
    """Uniform numbers in [0, 1) for values in rows of `ROW`, by their places; see `kernels.reference.noise`.

    The places wait for the values: they would be made long before, and kept, if they depended on none.

    Args:
        rows: (R, 256), R * 256 below 2^31.
        seed: uint64 tensor.

    Example:
        >>> bool(tf.reduce_all(noise_of_rows(tf.zeros((3, 256)), seed_tensor(5)) < 1))
        True
    """
    key = tf.cast(tf.bitwise.right_shift(mixed(mixed(seed + _wide(GOLDEN64))), _wide(32)), tf.uint32)
    after = zero_after(tf.pad(rows[:, :1], [[0, 1], [0, 0]]))  # there may be no row
    firsts = tf.cast(tf.range(tf.shape(rows)[0]) * ROW + after, tf.uint32) * tf.constant(GOLDEN32)
    columns = tf.cast(tf.range(ROW), tf.uint32) * tf.constant(GOLDEN32)
    hashed = (firsts[:, None] + columns) ^ key
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        hashed = (hashed ^ tf.bitwise.right_shift(hashed, tf.constant(shift, tf.uint32))) * tf.constant(
            factor, tf.uint32
        )
    top = tf.bitcast(tf.bitwise.right_shift(hashed, tf.constant(8, tf.uint32)), tf.int32)
    return tf.cast(top, tf.float32) * tf.constant(2**-24, tf.float32)


def mixed(number: Any) -> Any:
    """splitmix64's finaliser of a uint64 tensor: every bit of the result depends on every bit of the number."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        number = (number ^ tf.bitwise.right_shift(number, _wide(shift))) * _wide(factor)
    return number ^ tf.bitwise.right_shift(number, _wide(31))


def _wide(number: int) -> Any:
    return tf.constant(number, tf.uint64)
