"""Forms in which a tensor is kept: codes of the group quantiser, fixed point, half the bits, or as it is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

from tf_models.saving.fixed_codes import FixedCodes, dequantize_fixed, quantize_fixed
from tf_models.saving.group_codes import GROUP, Codes, dequantize, quantize
from tf_models.saving.shared_kernels import dequantize_shared, quantize_shared
from tf_models.tensorflow_names import tf


@dataclass(frozen=True)
class Sizes:
    """Of a tensor that is kept.

    Args:
        shape, count: of it and of its values; numbers where they are known, else tensors.
        static: the shape as far as it is known.
    """

    shape: Any
    count: Any
    static: Any

    @classmethod
    def of(cls, values: Any) -> Sizes:
        """Of a tensor."""
        if values.shape.is_fully_defined():
            return cls(tuple(values.shape), values.shape.num_elements(), values.shape)
        return cls(tf.shape(values), tf.size(values), values.shape)

    def shaped(self, flat: Any) -> Any:
        """So many values in that shape."""
        return tf.ensure_shape(tf.reshape(flat, self.shape), self.static)


class Form(Protocol):
    """How a tensor is kept, whatever its values."""

    @property
    def width(self) -> float:
        """Bits a value, about."""
        ...

    def at_least(self, bits: int) -> Form:
        """The same, with so many bits a value if it has fewer."""
        ...

    def encode(self, values: Any, seed: Any, axis: int | None) -> tuple[Any, ...]:
        """What is kept; another seed for every tensor and step. `axis` is that of channels, if there are any."""
        ...

    def decode(self, kept: tuple[Any, ...], sizes: Sizes) -> Any:
        """The values, float32 where they were coded."""
        ...


@dataclass(frozen=True)
class GroupForm:
    """1, 2, 4 or 8 bits a value, without bias, and two bfloat16 for 256 values.

    Args:
        bits: a value.
        shared: coded by the shared kernels, not by TensorFlow's operators.

    Example:
        >>> form, values = GroupForm(8), tf.range(9, dtype=tf.float32)
        >>> form.decode(form.encode(values, 3, None), Sizes.of(values)).shape
        TensorShape([9])
    """

    bits: int
    shared: bool = False

    @property
    def width(self) -> float:
        """With the groups' share."""
        return self.bits + 32 / GROUP

    def at_least(self, bits: int) -> Form:
        """See `Form`."""
        return replace(self, bits=max(self.bits, bits))

    def encode(self, values: Any, seed: Any, axis: int | None) -> tuple[Any, ...]:
        """See `Form`."""
        return tuple((quantize_shared if self.shared else quantize)(values, self.bits, seed))

    def decode(self, kept: tuple[Any, ...], sizes: Sizes) -> Any:
        """See `Form`."""
        run = dequantize_shared if self.shared else dequantize
        return sizes.shaped(run(Codes(*kept), self.bits, sizes.count))


@dataclass(frozen=True)
class FixedForm:
    """1 to 16 bits a value, a step a channel.

    Args:
        bits: a value.
        stochastic: without bias; False = to nearest, as AC-GC published it.
        zeros: apart, a bit each.
    """

    bits: int
    stochastic: bool
    zeros: bool = False

    @property
    def width(self) -> float:
        """Where nothing is zero."""
        return self.bits + self.zeros

    def at_least(self, bits: int) -> Form:
        """See `Form`."""
        return replace(self, bits=max(self.bits, bits))

    def encode(self, values: Any, seed: Any, axis: int | None) -> tuple[Any, ...]:
        """See `Form`."""
        return tuple(quantize_fixed(values, self.bits, axis, seed if self.stochastic else None, self.zeros))

    def decode(self, kept: tuple[Any, ...], sizes: Sizes) -> Any:
        """See `Form`."""
        return sizes.shaped(dequantize_fixed(FixedCodes(*kept), self.bits, sizes.shape, sizes.count, self.zeros))


@dataclass(frozen=True)
class HalfForm:
    """16 bits a value, to nearest; finite values stay finite.

    Args:
        kept: "float16" or "bfloat16".
    """

    kept: str

    @property
    def width(self) -> float:
        """16."""
        return 16

    def at_least(self, bits: int) -> Form:
        """See `Form`."""
        return self

    def encode(self, values: Any, seed: Any, axis: int | None) -> tuple[Any, ...]:
        """See `Form`."""
        kind = tf.as_dtype(self.kept)
        most = tf.constant(kind.max, values.dtype)
        cut = tf.clip_by_value(values, -most, most)
        return (tf.cast(tf.where(tf.math.is_finite(values), cut, values), kind),)

    def decode(self, kept: tuple[Any, ...], sizes: Sizes) -> Any:
        """See `Form`."""
        return tf.cast(kept[0], tf.float32)


@dataclass(frozen=True)
class AsIs:
    """Nothing is coded."""

    @property
    def width(self) -> float:
        """Of float32."""
        return 32

    def at_least(self, bits: int) -> Form:
        """See `Form`."""
        return self

    def encode(self, values: Any, seed: Any, axis: int | None) -> tuple[Any, ...]:
        """See `Form`."""
        return (values,)

    def decode(self, kept: tuple[Any, ...], sizes: Sizes) -> Any:
        """See `Form`."""
        return kept[0]


@dataclass(frozen=True)
class Forms:
    """Of all that a network keeps.

    Args:
        norms: of norms' inputs, normalised.
        inputs: of what convolutions without a norm before them read.
    """

    norms: Form
    inputs: Form

    @property
    def bytes_follow_from_shapes(self) -> bool:
        """Whether how many bytes are kept follows from shapes alone."""
        return not any(isinstance(one, FixedForm) and one.zeros for one in (self.norms, self.inputs))
