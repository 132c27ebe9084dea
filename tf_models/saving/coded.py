"""What is kept in few bits: values in the form a policy asks for, masks of activations as exact codes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tf_models.saving.bit_packing import pack, unpack
from tf_models.saving.forms import Form, Forms, Sizes
from tf_models.saving.learnt_bits import LearntBits, Place
from tf_models.tensorflow_names import tf

MASK_BITS = {"": 0, "relu": 1, "relu6": 2}.__getitem__  # a value; a ReLU6 has three pieces


class Coder:
    """Codes the tensors of one part of one step, each with noise of its own.

    Args:
        forms: in which tensors are kept.
        seed: uint64 tensor, of the step.
        first: number of the first tensor among all of the step.
        learnt: bits that change between steps, instead of the forms'; None = there are none.
    """

    def __init__(self, forms: Forms, seed: Any, first: int = 0, learnt: LearntBits | None = None) -> None:
        self.forms, self.seed, self.first, self.learnt = forms, seed, first, learnt
        self.coded = 0

    def code_norm(self, values: Any, axis: int) -> CodedValues:
        """Code one more norm's input, normalised; `axis` is that of channels."""
        return self._code(values, self.forms.norms, axis, is_norm=True)

    def code_input(self, values: Any, axis: int) -> CodedValues:
        """Code what one more convolution without a norm before it reads."""
        return self._code(values, self.forms.inputs, axis, is_norm=False)

    def code_sequence(self, values: Any, axis: int | None, fewest_bits: int = 0) -> CodedValues:
        """Code values of time steps as they are; `axis` is that of tensors that are stacked, each of its own scale."""
        return self._code(values, self.forms.inputs.at_least(fewest_bits), axis, is_norm=False)

    def _code(self, values: Any, form: Form, axis: int | None, is_norm: bool) -> CodedValues:
        seed, place = self.seed + tf.constant(self.first + self.coded, tf.uint64), None
        if self.learnt is not None:
            place = self.learnt.place((self.first, self.coded), is_norm, values.shape)
            form = self.learnt.form(place)
        self.coded += 1
        return CodedValues(form.encode(values, seed, axis), form, Sizes.of(values), place)


@dataclass(frozen=True)
class CodedValues:
    """A tensor in codes.

    Args:
        kept: what the form made.
        form, sizes: see there.
        place: where its bits are learnt; None = they are fixed.
    """

    kept: tuple[Any, ...]
    form: Form
    sizes: Sizes
    place: Place | None = None

    def tensors(self) -> list[Any]:
        """What is kept."""
        return list(self.kept)

    def values(self, kept: list[Any]) -> Any:
        """float32, from what `tensors` gave."""
        return self.form.decode(tuple(kept), self.sizes)


@dataclass(frozen=True)
class ActivationMask:
    """Where a ReLU or ReLU6 let values through, exactly: 1 bit a value, or 2.

    Args:
        codes: uint8, packed.
        activation: "relu" or "relu6".
        sizes: of the values.
    """

    codes: Any
    activation: str
    sizes: Sizes

    @classmethod
    def of(cls, outputs: Any, activation: str) -> ActivationMask | None:
        """From what the activation gave, in its own dtype; None of no activation."""
        if not activation:
            return None
        pieces = tf.cast(outputs > 0, tf.uint8)
        if activation == "relu6":
            pieces += tf.cast(outputs >= 6, tf.uint8)
        packed = pack(tf.reshape(pieces, (-1,)), MASK_BITS(activation))
        return cls(packed, activation, Sizes.of(outputs))

    def pieces(self, kept: Any) -> Any:
        """0 below, 1 where the activation changes nothing, 2 above; uint8."""
        return self.sizes.shaped(unpack(kept, MASK_BITS(self.activation), self.sizes.count))


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
