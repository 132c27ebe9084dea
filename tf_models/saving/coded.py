"""What is kept in few bits: values by the group quantiser, masks of activations as exact codes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tf_models.saving.bit_packing import pack, unpack
from tf_models.saving.group_codes import Codes, dequantize, quantize
from tf_models.tensorflow_names import tf

MASK_BITS = {"": 0, "relu": 1, "relu6": 2}.__getitem__  # a value; a ReLU6 has three pieces


class Coder:
    """Codes the tensors of one part of one step, each with noise of its own.

    Args:
        bits: 1, 2, 4 or 8 a value.
        seed: uint64 tensor, of the step.
        first: number of the first tensor among all of the step.
    """

    def __init__(self, bits: int, seed: Any, first: int = 0) -> None:
        self.bits, self.seed, self.coded = bits, seed, first

    def code(self, values: Any) -> CodedValues:
        """Code one more tensor."""
        seed = self.seed + tf.constant(self.coded, tf.uint64)
        self.coded += 1
        return CodedValues(quantize(values, self.bits, seed), self.bits, *_sizes(values))


@dataclass(frozen=True)
class CodedValues:
    """A tensor in codes.

    Args:
        codes: see there.
        bits: a value.
        shape: of the tensor; where that is not known, a tensor itself.
        count: of its values.
        static: the shape as far as it is known.
    """

    codes: Codes
    bits: int
    shape: Any
    count: Any
    static: Any

    def tensors(self) -> list[Any]:
        """What is kept."""
        return list(self.codes)

    def values(self, kept: list[Any]) -> Any:
        """float32, from what `tensors` gave."""
        return _shaped(dequantize(Codes(*kept), self.bits, self.count), self)


@dataclass(frozen=True)
class ActivationMask:
    """Where a ReLU or ReLU6 let values through, exactly: 1 bit a value, or 2.

    Args:
        codes: uint8, packed.
        activation: "relu" or "relu6".
        shape, count, static: as in `CodedValues`.
    """

    codes: Any
    activation: str
    shape: Any
    count: Any
    static: Any

    @classmethod
    def of(cls, outputs: Any, activation: str) -> ActivationMask | None:
        """From what the activation gave, in its own dtype; None of no activation."""
        if not activation:
            return None
        pieces = tf.cast(outputs > 0, tf.uint8)
        if activation == "relu6":
            pieces += tf.cast(outputs >= 6, tf.uint8)
        packed = pack(tf.reshape(pieces, (-1,)), MASK_BITS(activation))
        return cls(packed, activation, *_sizes(outputs))

    def pieces(self, kept: Any) -> Any:
        """0 below, 1 where the activation changes nothing, 2 above; uint8."""
        return _shaped(unpack(kept, MASK_BITS(self.activation), self.count), self)


def activated(values: Any, pieces: Any, activation: str) -> Any:
    """An activation's output from a linear function of decoded values, which is never clamped again."""
    if pieces is None:
        return values
    if activation == "relu":
        return tf.where(tf.cast(pieces, tf.bool), values, tf.zeros([], values.dtype))
    ends = tf.cast(pieces, values.dtype) * tf.constant(3, values.dtype)  # 0 or 6
    return tf.where(pieces == 1, values, ends)


def let_through(gradient: Any, pieces: Any) -> Any:
    """The gradient of an activation's input."""
    if pieces is None:
        return gradient
    return tf.where(pieces == 1, gradient, tf.zeros([], gradient.dtype))


def _sizes(values: Any) -> tuple[Any, Any, Any]:
    """Shape, count and static shape; the first two as numbers where they are known."""
    if values.shape.is_fully_defined():
        return tuple(values.shape), values.shape.num_elements(), values.shape
    return tf.shape(values), tf.size(values), values.shape


def _shaped(flat: Any, like: Any) -> Any:
    return tf.ensure_shape(tf.reshape(flat, like.shape), like.static)
