"""The arguments of the kernels around normalisation and of pooling, checked before any work, for all backends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kernels import arguments, checks


@dataclass(frozen=True)
class Rows:
    """Layout of an array of channels: `inner` is 1 for (rows, C), P for (N, C, P); `activation` is checked."""

    name: str
    outer: int
    channels: int
    inner: int
    activation: str = "identity"

    @property
    def wide(self) -> bool:
        """Whether arithmetic is done in float64."""
        return self.name == "float64"


def rows(
    where: str, label: str, array: Any, dtype: str | None, others: dict[str, Any] | None = None, **vectors: Any
) -> Rows:
    """An array of channels, other arrays of its shape and dtype (None passes), and vectors of one element a channel."""
    name = checks.float_format(where, array.dtype, dtype, label)
    outer, channels, inner = checks.rows_layout(where, label, array)
    for other, came in (others or {}).items():
        if came is not None:
            checks.same_view(where, other, came, array.shape, array.dtype)
    for written, came in {label: array, **(others or {})}.items():
        if written in ("out", "target") and came is not None:
            checks.writable(where, written, came)
    checks.vectors(where, channels, name == "float64", **vectors)
    return Rows(name, outer, channels, inner)


def statistics(where: str, values: Any, dtype: str | None) -> Rows:
    """Arguments of `channel_statistics`.

    Raises:
        ValueError: channels without a value.
    """
    found = rows(where, "values", values, dtype)
    if found.outer * found.inner == 0:
        raise ValueError(f"{where}: values of shape {tuple(values.shape)} have no mean: a channel needs a value")
    return found


def mask(where: str, activation: Any, array: Any, count: int, *, needed: bool) -> str:
    """The activation's name, and that its mask, where there is one, has the right size."""
    name = checks.activation(where, activation, array, mask_needed=needed)
    if array is not None:
        checks.buffer(where, "mask", array, checks.mask_bytes(name, count), "uint8")
    return name


def coded(where: str, like: Any, codes: Any, minima: Any, steps: Any, bits: Any, group: Any) -> arguments.GroupRun:
    """Codes of an array of channels like `like`."""
    return arguments.coded_run(where, codes, minima, steps, bits, like.size, group)


@dataclass(frozen=True)
class Pooling:
    """A pooling window over planes of (height, width); all pairs are (height, width)."""

    height: int
    width: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the output."""
        return self._outputs(0, self.height), self._outputs(1, self.width)

    def _outputs(self, axis: int, length: int) -> int:
        reach = self.dilation[axis] * (self.kernel[axis] - 1) + 1
        return (length + 2 * self.padding[axis] - reach) // self.stride[axis] + 1

    @property
    def bits(self) -> int:
        """Bits of a position in the window: ceil(log2(window)), at least 1."""
        return max(1, (self.kernel[0] * self.kernel[1] - 1).bit_length())


def pooling(where: str, shape: Sequence[int], kernel: Any, stride: Any, padding: Any, dilation: Any) -> Pooling:
    """A window that fits (N, C, H, W).

    Raises:
        TypeError: not pairs of integers.
        ValueError: a window that does not fit, or padding above half of it.

    Example:
        >>> pooling("here", (1, 1, 5, 4), (3, 2), (2, 2), (1, 0), (1, 1)).size
        (3, 2)
    """
    if len(shape) != 4:
        raise ValueError(f"{where}: values must be (N, C, H, W), not of shape {tuple(shape)}")
    window = Pooling(
        shape[2],
        shape[3],
        _pair(where, "kernel", kernel, 1),
        _pair(where, "stride", stride, 1),
        _pair(where, "padding", padding, 0),
        _pair(where, "dilation", dilation, 1),
    )
    if window.bits > checks.MAX_WIDTH:
        raise ValueError(f"{where}: a window of {window.kernel} has more than 65536 positions")
    if any(2 * pad > side for pad, side in zip(window.padding, window.kernel, strict=True)):
        raise ValueError(f"{where}: padding {window.padding} is more than half of kernel {window.kernel}")
    if any(pad and step > side for pad, step, side in zip(window.padding, window.dilation, shape[2:], strict=True)):
        raise ValueError(
            f"{where}: dilation {window.dilation} steps over {tuple(shape[2:])}: a window would be all padding"
        )
    if min(window.size) < 1:
        raise ValueError(
            f"{where}: the window {window.kernel}, dilated by {window.dilation}, is larger than {tuple(shape[2:])}"
        )
    return window


def _pair(where: str, name: str, value: Any, low: int) -> tuple[int, int]:
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:
        raise TypeError(f"{where}: {name} must be a pair (height, width), not {value!r}")
    first, second = (checks.integer(where, name, part, low, 2**15) for part in value)
    return first, second


def pool_gradient(
    where: str, d_out: Any, codes: Any, shape: Sequence[int], window: Pooling, dtype: str | None, out: Any
) -> str:
    """Arguments of `max_pool_gradient`: the name of the format."""
    name = checks.float_format(where, d_out.dtype, dtype, "d_out")
    checks.contiguous(where, "d_out", d_out)
    expected = (shape[0], shape[1], *window.size)
    if tuple(d_out.shape) != expected:
        raise ValueError(f"{where}: d_out has shape {tuple(d_out.shape)}, but pooling {tuple(shape)} gives {expected}")
    checks.buffer(where, "codes", codes, checks.packed_bytes(d_out.size, window.bits), "uint8")
    if out is not None:
        checks.buffer(where, "out", out, shape[0] * shape[1] * shape[2] * shape[3], checks.name_of(d_out.dtype))
        checks.writable(where, "out", out)
    return name
