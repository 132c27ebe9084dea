"""A 3x3 max pool that keeps where each maximum was, 4 bits an output, instead of what it read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tf_models.operators import from_channels_last, padded_for_pool, spatial_sizes, to_channels_last
from tf_models.saving.bit_packing import pack, unpack
from tf_models.saving.tied import opaque
from tf_models.tensorflow_names import tf

_WINDOW, _BITS = 3, 4


@dataclass(frozen=True)
class PoolPositions:
    """Where the maxima of a `tf_models.operators.max_pool` were.

    Args:
        codes: uint8, two positions a byte; of several equal values the first, row by row.
        shape: of the pool's output, channels_last; where it is not known, a tensor.
        count: of outputs.
        size: height and width of the pool's input.
        data_format: "channels_last" or "channels_first".
    """

    codes: Any
    shape: Any
    count: Any
    size: tuple[int, int]
    data_format: str

    @classmethod
    def of(cls, inputs: Any, outputs: Any, data_format: str) -> PoolPositions:
        """From what the pool read and what it gave."""
        padded, largest = padded_for_pool(inputs, data_format), to_channels_last(outputs, data_format)
        height, width = spatial_sizes(largest.shape, "channels_last")
        positions = tf.zeros_like(largest, tf.uint8)
        for place in reversed(range(_WINDOW**2)):
            row, column = divmod(place, _WINDOW)
            read = padded[:, row : row + 2 * height - 1 : 2, column : column + 2 * width - 1 : 2]
            positions = tf.where(read == largest, tf.constant(place, tf.uint8), positions)
        known = largest.shape.is_fully_defined()
        shape = tuple(largest.shape) if known else tf.shape(largest)
        count = largest.shape.num_elements() if known else tf.size(largest)
        packed = pack(tf.reshape(positions, (-1,)), _BITS)
        return cls(packed, shape, count, spatial_sizes(inputs.shape, data_format), data_format)

    def gradient(self, gradient: Any, zero: Any) -> Any:
        """The output's gradient -> that of what was pooled."""
        gradient = to_channels_last(gradient, self.data_format)
        positions = tf.reshape(unpack(opaque(self.codes, zero), _BITS, self.count), self.shape)
        nothing = tf.zeros([], gradient.dtype)
        of_place = [tf.where(positions == place, gradient, nothing) for place in range(_WINDOW**2)]
        # Row 2j of the padded input was row 0 of window j and row 2 of window j - 1; row 2j + 1 was row 1 of window j.
        rows = [_even_and_odd(of_place[column::_WINDOW], 1) for column in range(_WINDOW)]
        whole = _even_and_odd(rows, 2)
        height, width = self.size
        return from_channels_last(whole[:, 1 : height + 1, 1 : width + 1], self.data_format)


def _even_and_odd(parts: list[Any], axis: int) -> Any:
    """Three gradients of a window's places along an axis, each put where it was read, added up."""
    first, middle, last = parts
    even = _moved(first, axis, 0) + _moved(last, axis, 1)
    both = tf.stack([even, _moved(middle, axis, 0)], axis + 1)
    sizes = [-1 if size is None else size for size in even.shape]
    sizes[axis] *= 2
    return tf.reshape(both, sizes)


def _moved(values: Any, axis: int, by: int) -> Any:
    """One longer, moved by 0 or 1."""
    pads = [(0, 0)] * 4
    pads[axis] = (by, 1 - by)
    return tf.pad(values, pads)
