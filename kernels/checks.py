"""What one argument of a kernel must be: checks by attributes only, so that NumPy and CuPy arrays pass alike."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from typing import Any

GROUP_BITS = (1, 2, 4, 8)
MAX_WIDTH = 16
GROUP_UNIT = 32
ACTIVATIONS = ("identity", "relu", "relu6", "leaky_relu")
FLOATS = ("float16", "float32", "float64", "bfloat16")
MAX_INDEX = 2**63


@functools.cache
def name_of(dtype: Any) -> str:
    """A dtype's name; NumPy makes it anew at every question, which takes longer than all checks of a call."""
    other_order = "" if getattr(dtype, "isnative", True) else " in another machine's byte order"
    return f"{getattr(dtype, 'name', dtype)}{other_order}"


def integer(where: str, name: str, value: Any, low: int, high: int) -> int:
    """`value` as an int in [low, high].

    Raises:
        TypeError: not an integer.
        ValueError: outside.
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{where}: {name} must be an integer, not {value!r}") from None
    if isinstance(value, bool):
        raise TypeError(f"{where}: {name} must be an integer, not {value!r}")
    if not low <= number <= high:
        raise ValueError(f"{where}: {name} must be from {low} to {high}, not {number}")
    return number


def group_bits(where: str, bits: Any) -> int:
    """Bits of the group quantiser: 1, 2, 4 or 8."""
    number = integer(where, "bits", bits, 1, 8)
    if number not in GROUP_BITS:
        raise ValueError(
            f"{where}: bits must be 1, 2, 4 or 8, not {number}: take one of these, or fixed point (any width 1..16)"
        )
    return number


def width(where: str, bits: Any) -> int:
    """Bits of a fixed-width code: 1..16."""
    return integer(where, "bits", bits, 1, MAX_WIDTH)


def group_size(where: str, group: Any) -> int:
    """Values in a group: a multiple of 32, so that full groups are whole bytes at every width."""
    number = integer(where, "group", group, GROUP_UNIT, 2**30)
    if number % GROUP_UNIT:
        raise ValueError(f"{where}: group must be a multiple of {GROUP_UNIT}, not {number}")
    return number


def seed_of(where: str, seed: Any) -> int:
    """A seed, taken modulo 2^64."""
    return integer(where, "seed", seed, -(2**63), 2**64 - 1) % 2**64


def first_index(where: str, start: Any, count: int) -> int:
    """Index of the first element in the noise stream; the last must be below 2^63."""
    return integer(where, "start", start, 0, MAX_INDEX - count)


def count_of(where: str, count: Any) -> int:
    """Number of elements."""
    return integer(where, "count", count, 0, MAX_INDEX)


def float_format(where: str, dtype: Any, asked: str | None, name: str = "values") -> str:
    """Name of the floating-point format of an array whose dtype is `dtype`: one of FLOATS.

    uint16 arrays hold bfloat16 bits and need dtype="bfloat16", because they could be anything.

    Raises:
        TypeError: not a floating-point array, or `asked` names another format.
        ValueError: `asked` names no format.
    """
    if asked is not None:
        format_name(where, asked)
    found = name_of(dtype)
    if found == "uint16" and asked == "bfloat16":
        return "bfloat16"
    if found not in FLOATS:
        hint = ": for bfloat16 bits say dtype='bfloat16'" if found == "uint16" else ": convert it first"
        raise TypeError(f"{where}: {name} must be one of {', '.join(FLOATS)}, not {found}{hint}")
    if asked is not None and asked != found:
        raise TypeError(f"{where}: {name} is {found}, but dtype says {asked}: leave dtype out, or convert {name}")
    return found


def format_name(where: str, dtype: Any) -> str:
    """The name of a floating-point format, as itself.

    Raises:
        ValueError: there is no such format.
    """
    if dtype not in FLOATS:
        raise ValueError(f"{where}: dtype must be one of {', '.join(FLOATS)}, not {dtype!r}")
    return str(dtype)


def out_format(where: str, out: Any, count: int, dtype: Any) -> str:
    """The name of the format asked for, checked against the array to write into."""
    name = format_name(where, dtype)
    if out is not None:
        buffer(where, "out", out, count, *(("uint16", name) if name == "bfloat16" else (name,)))
        writable(where, "out", out)
    return name


def writable(where: str, name: str, array: Any) -> None:
    """`array` may be written to; compiled code would not ask.

    Raises:
        ValueError: it is read-only.
    """
    if not getattr(array.flags, "writeable", True):
        raise ValueError(f"{where}: {name} is read-only: give an array to write into, or leave it out")


def contiguous(where: str, name: str, array: Any) -> None:
    """`array` lies in memory in row-major order without gaps.

    Raises:
        ValueError: it does not.
    """
    if not array.flags.c_contiguous:
        raise ValueError(
            f"{where}: {name} of shape {tuple(array.shape)} is not C-contiguous: copy it, or pass its base"
        )


def of_type(where: str, name: str, array: Any, *dtypes: str) -> None:
    """`array` has one of the dtypes.

    Raises:
        TypeError: it has another.
    """
    found = name_of(array.dtype)
    if found not in dtypes:
        raise TypeError(f"{where}: {name} must be {' or '.join(dtypes)}, not {found}")


def buffer(where: str, name: str, array: Any, size: int, *dtypes: str) -> None:
    """A contiguous array of exactly `size` elements of one of the dtypes.

    Raises:
        TypeError: another dtype.
        ValueError: another size, or gaps.
    """
    of_type(where, name, array, *dtypes)
    if array.size != size:
        raise ValueError(f"{where}: {name} has {array.size} elements, but {size} are needed")
    contiguous(where, name, array)


def activation(where: str, name: Any, mask: Any, *, mask_needed: bool = False) -> str:
    """The activation's name, checked against the mask that came with it.

    Raises:
        ValueError: no such activation; a mask for identity; no mask where the values cannot tell.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"{where}: activation must be one of {', '.join(ACTIVATIONS)}, not {name!r}")
    if name == "identity" and mask is not None:
        raise ValueError(f"{where}: identity has no mask: leave mask out, or name the activation")
    if mask_needed and name != "identity" and mask is None:
        raise ValueError(f"{where}: {name} needs its mask: it cannot be had from codes. For none say 'identity'")
    return str(name)


def mask_bytes(name: str, count: int) -> int:
    """Bytes of an activation's mask over `count` values: 1 bit each, 2 for relu6, none for identity."""
    return {"identity": 0, "relu6": (2 * count + 7) // 8}.get(name, (count + 7) // 8)


def rows_layout(where: str, name: str, array: Any) -> tuple[int, int, int]:
    """(outer, channels, inner) of a (rows, C) array, inner 1, or an (N, C, P) array; channel slices pass.

    Raises:
        ValueError: another number of dimensions, or gaps inside a row.
    """
    shape = array.shape
    if len(shape) not in (2, 3):
        raise ValueError(
            f"{where}: {name} must be (rows, channels) or (N, channels, pixels), not {tuple(shape)}: reshape it"
        )
    if not array.flags.c_contiguous and array.size:
        _only_rows_apart(where, name, array)
    return shape[0], shape[1], shape[2] if len(shape) == 3 else 1


def _only_rows_apart(where: str, name: str, array: Any) -> None:
    shape, size = array.shape, array.itemsize
    dense = [size] if len(shape) == 2 else [size * shape[2], size]
    # The stride of a dimension of one element means nothing.
    bad = [i for i, want in enumerate(dense, 1) if shape[i] > 1 and array.strides[i] != want]
    if bad or (shape[0] > 1 and (array.strides[0] < shape[1] * dense[0] or array.strides[0] % size)):
        raise ValueError(
            f"{where}: {name} of shape {tuple(shape)} has strides {tuple(array.strides)}: only its first dimension may "
            "have gaps: copy it, or slice channels only"
        )


def same_view(where: str, name: str, array: Any, shape: Sequence[int], dtype: Any) -> None:
    """`array` has this shape and dtype, and rows without gaps.

    Raises:
        TypeError: another dtype.
        ValueError: another shape or layout.
    """
    if array.dtype != dtype:
        of_type(where, name, array, name_of(dtype))
    if tuple(array.shape) != tuple(shape):
        raise ValueError(f"{where}: {name} has shape {tuple(array.shape)}, but values have {tuple(shape)}")
    rows_layout(where, name, array)


def vectors(where: str, channels: int, wide: bool, **named: Any) -> None:
    """Per-channel vectors: contiguous, float32 (`wide`: float64), one element a channel.

    Raises:
        TypeError: another dtype.
        ValueError: another length.
    """
    kind = "float64" if wide else "float32"
    for name, vector in named.items():
        if name_of(vector.dtype) != kind or vector.shape != (channels,) or not vector.flags.c_contiguous:
            buffer(where, name, vector, channels, kind)


def step_of(where: str, step: Any, channels: int) -> None:
    """A step size: a number >= 0, or one float32 a channel (whose values are not looked at).

    Raises:
        TypeError: neither.
        ValueError: negative, or of the wrong length.
    """
    if hasattr(step, "dtype") and getattr(step, "ndim", 0) > 0:
        buffer(where, "step", step, channels, "float32")
        return
    if isinstance(step, bool | str | bytes) or not hasattr(step, "__float__"):
        raise TypeError(f"{where}: step must be a number or a float32 array of one step a channel, not {step!r}")
    if channels != 1:
        raise ValueError(f"{where}: one step came for {channels} channels: pass an array of {channels}")
    if float(step) < 0:
        raise ValueError(f"{where}: step must not be negative, not {step!r}")


def packed_bytes(count: int, bits: int) -> int:
    """Bytes of `count` codes of `bits` bits."""
    return (count * bits + 7) // 8


def group_count(count: int, group: int) -> int:
    """Groups of a run of `count` values; the last may be short."""
    return -(-count // group)
