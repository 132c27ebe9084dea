"""Small integers packed into bytes and back, in plain TensorFlow operators that run eagerly, in graphs and under XLA.

The bytes are those of `kernels.pack_integers`: value i at bits [i*b, (i+1)*b), low bits first. A word as wide as one
byte's values is read as one integer, so that all of them move at once; of other widths, eight values make as many bytes
as they have bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from tf_models.tensorflow_names import tf

_EACH = 8  # values that make whole bytes, of any width
# Bits a value -> the integer type that as many bytes make as there are values in one byte.
_WORDS: Mapping[int, Any] = MappingProxyType({1: tf.uint64, 2: tf.uint32, 4: tf.uint16})


def code_bytes(count: Any, bits: int) -> Any:
    """Bytes of `count` values, a number or a tensor.

    Example:
        >>> code_bytes(9, 2)
        3
    """
    return (count * bits + 7) // 8


def pack(values: Any, bits: int) -> Any:
    """Pack unsigned integers below 2^bits.

    Args:
        values: flat: uint8 for 1, 2, 4 or 8 bits, uint16 or uint8 for others.
        bits: 1 to 16.

    Returns:
        uint8, `code_bytes(size, bits)` of them; bits after the last value are 0.

    Example:
        >>> pack(tf.constant([1, 2, 3, 0, 1], tf.uint8), 2).numpy().tolist()
        [57, 1]
    """
    if bits == 8:
        return values
    if bits not in _WORDS:
        return _packed_eights(values, bits)
    each = 8 // bits
    words = tf.bitcast(tf.reshape(_filled(values, each), (-1, each)), _WORDS[bits])
    return tf.cast(_folded(words, 8 - bits, each, tf.bitwise.right_shift) & tf.constant(255, words.dtype), tf.uint8)


def unpack(codes: Any, bits: int, count: Any) -> Any:
    """The integers of `pack`, `count` of them: uint8 for 1, 2, 4 or 8 bits, uint16 for others.

    Example:
        >>> unpack(tf.constant([57, 1], tf.uint8), 2, 5).numpy().tolist()
        [1, 2, 3, 0, 1]
    """
    if bits == 8:
        return codes
    if bits not in _WORDS:
        return _unpacked_eights(codes, bits, count)
    kind, each = _WORDS[bits], 8 // bits
    lowest = tf.constant(sum((2**bits - 1) << 8 * place for place in range(each)), kind)
    words = _folded(tf.cast(codes, kind), 8 - bits, each, tf.bitwise.left_shift) & lowest
    values = tf.reshape(tf.bitcast(words, tf.uint8), (-1,))
    return values if _is_whole(count, each) else values[:count]


def _packed_eights(values: Any, bits: int) -> Any:
    """Any width: byte j of eight values has bits 8j to 8j + 7 of theirs."""
    rows = tf.reshape(tf.cast(_filled(values, _EACH), tf.uint32), (-1, _EACH))
    parts = []
    for byte in range(bits):
        found = None
        for place in range(8 * byte // bits, (8 * byte + 7) // bits + 1):
            moved = _moved(rows[:, place], place * bits - 8 * byte)
            found = moved if found is None else found | moved
        parts.append(tf.cast(found & tf.constant(255, tf.uint32), tf.uint8))
    codes = tf.reshape(tf.stack(parts, 1), (-1,))
    count = values.shape[0]
    return codes if _is_whole(count, _EACH) else codes[: code_bytes(tf.size(values) if count is None else count, bits)]


def _unpacked_eights(codes: Any, bits: int, count: Any) -> Any:
    """The inverse, uint16."""
    rows = tf.reshape(tf.cast(_filled(codes, bits), tf.uint32), (-1, bits))
    lowest = tf.constant(2**bits - 1, tf.uint32)
    parts = []
    for place in range(_EACH):
        found = None
        for byte in range(place * bits // 8, (place * bits + bits - 1) // 8 + 1):
            moved = _moved(rows[:, byte], 8 * byte - place * bits)
            found = moved if found is None else found | moved
        parts.append(tf.cast(found & lowest, tf.uint16))
    values = tf.reshape(tf.stack(parts, 1), (-1,))
    return values if _is_whole(count, _EACH) else values[:count]


def _moved(words: Any, by: int) -> Any:
    """Shifted left; right where `by` is negative."""
    move = tf.bitwise.left_shift if by >= 0 else tf.bitwise.right_shift
    return move(words, tf.constant(abs(by), words.dtype))


def pack_flags(flags: Any) -> Any:
    """A bit each, of booleans of any shape."""
    return pack(tf.cast(tf.reshape(flags, (-1,)), tf.uint8), 1)


def unpack_flags(codes: Any, shape: Any, count: Any) -> Any:
    """The booleans of `pack_flags`, in a shape of `count` values."""
    return tf.reshape(tf.cast(unpack(codes, 1, count), tf.bool), shape)


def _folded(words: Any, shift: int, each: int, move: Any) -> Any:
    """The words, or-ed with themselves moved by 1, 2, ... times `shift`; what overlaps is cut off afterwards."""
    found = words
    for place in range(1, each):
        found |= move(words, tf.constant(shift * place, words.dtype))
    return found


def _filled(values: Any, each: int) -> Any:
    """With zeros at the end, up to a multiple of `each`."""
    count = values.shape[0]
    if _is_whole(count, each):
        return values
    missing = -(tf.size(values) if count is None else count) % each
    return tf.concat([values, tf.zeros([missing], values.dtype)], 0)


def _is_whole(count: Any, each: int) -> bool:
    return isinstance(count, int) and count % each == 0
