"""What codecs make of arrays, and what a codec is.

A codec that wraps another (as ZeroValue does) calls the other's three methods and puts its result into `Encoded.inner`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np

from kernels import checks
from kernels.formats import STORAGE


@dataclass(frozen=True)
class Encoded:
    """What a codec made of an array: keep it, and give it back to the codec to have the array again.

    Args:
        parts: arrays that hold the content.
        shape: of the array that was encoded.
        dtype: name of its format; "bfloat16" means uint16 bits.
        inner: what the wrapped codec made, for a codec that wraps another.
        signed: whether fixed-point codes are signed.
        energy: float32, the variance that rounding added to all values together; None where nothing was rounded so.
        ticket: what HostSwap fetches the parts back with.
    """

    parts: tuple[Any, ...]
    shape: tuple[int, ...]
    dtype: str
    inner: Encoded | None = None
    signed: bool = False
    energy: Any = None
    ticket: Any = None

    @property
    def arrays(self) -> Iterator[Any]:
        """All arrays that hold the content, the wrapped codec's too."""
        yield from self.parts
        if self.inner is not None:
            yield from self.inner.arrays

    @property
    def nbytes(self) -> int:
        """Bytes kept."""
        return sum(int(array.nbytes) for array in self.arrays)

    def with_arrays(self, arrays: Iterable[Any]) -> Encoded:
        """The same with other arrays, in the order of `arrays`."""
        given = iter(arrays)
        parts = tuple(next(given) for _ in self.parts)
        return replace(self, parts=parts, inner=None if self.inner is None else self.inner.with_arrays(given))


@runtime_checkable
class Codec(Protocol):
    """A way to keep an array in fewer bytes."""

    def encode(self, array: Any, seed: int, dtype: str | None = None) -> Encoded:
        """Encode a C-contiguous floating-point array; `seed` is of the rounding noise, `dtype` as in the kernels."""

    def decode(self, encoded: Encoded) -> Any:
        """An array of the shape and dtype that was encoded."""

    def nbytes(self, count: int, dtype: str = "float32") -> int:
        """Bytes that `count` values take at most."""


def item_bytes(dtype: str) -> int:
    """Bytes of one value of a format."""
    return np.dtype(STORAGE[checks.format_name("item_bytes", dtype)]).itemsize


def plain(where: str, array: Any, dtype: str | None) -> tuple[Any, str]:
    """The array, bfloat16 as uint16 bits, and the name of its format."""
    name = checks.float_format(where, array.dtype, dtype, "array")
    return (array.view(np.uint16) if name == "bfloat16" else array), name
