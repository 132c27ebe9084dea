"""How codes lie in MXNet's arrays: bytes of any kind, four to a float32, so that its planner counts what is kept."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from kernels.codec_names import parse_codec
from kernels.encoded import Encoded

WORD = 4  # bytes of the float32 values that carry the bytes


def sizes(text: str) -> tuple[int, ...]:
    """A tuple as MXNet writes it.

    Example:
        >>> sizes("(3, 3)"), sizes("[7,]")
        ((3, 3), (7,))
    """
    return tuple(int(number) for number in re.findall(r"\d+", text))


def words(size: int) -> int:
    """How many float32 values carry so many bytes.

    Example:
        >>> words(8), words(9)
        (2, 3)
    """
    return -(-size // WORD)


def as_words(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Bytes of arrays, one behind the other, as float32 values that mean nothing as numbers."""
    content = b"".join(np.ascontiguousarray(part).tobytes() for part in parts)
    return np.frombuffer(content.ljust(WORD * words(len(content)), b"\0"), np.float32)


@dataclass(frozen=True)
class CodeLayout:
    """Where a codec's parts lie for an array of so many values.

    Args:
        codec: by its name, as `kernels.codec_names` reads it.
        count: values of the array.

    Example:
        >>> layout = CodeLayout("8", 1000)
        >>> values = np.linspace(-1, 1, 1000, dtype=np.float32)
        >>> found = layout.decode(layout.encode(values, seed=3))
        >>> layout.words, bool(np.abs(found - values).max() < 0.01)
        (255, True)
    """

    codec: str
    count: int

    @cached_property
    def _codec(self) -> Any:
        return parse_codec(self.codec)

    @cached_property
    def _parts(self) -> list[tuple[Any, tuple[int, ...]]]:
        made = self._codec.encode(np.zeros(self.count, np.float32), 0)
        return [(part.dtype, part.shape) for part in made.parts]

    @cached_property
    def words(self) -> int:
        """Float32 values that carry the codes, and one number that says whether they are signed."""
        return words(sum(int(np.prod(shape)) * kind.itemsize for kind, shape in self._parts)) + 1

    def encode(self, values: np.ndarray, seed: int) -> np.ndarray:
        """Codes of `count` values as float32 values."""
        made = self._codec.encode(np.ascontiguousarray(values).reshape(-1), seed)
        return np.concatenate([as_words(made.parts), np.array([made.signed], np.float32)])

    def decode(self, carried: np.ndarray) -> np.ndarray:
        """The values, (count,)."""
        content, offset, parts = carried.view(np.uint8), 0, []
        for kind, shape in self._parts:
            size = int(np.prod(shape)) * kind.itemsize
            parts.append(content[offset : offset + size].copy().view(kind).reshape(shape))
            offset += size
        signed = bool(carried[-1])
        found: np.ndarray = self._codec.decode(Encoded(tuple(parts), (self.count,), "float32", signed=signed))
        return found


@dataclass(frozen=True)
class ConvolutionShape:
    """A convolution's attributes, as MXNet's operator takes them."""

    attributes: Mapping[str, str]

    @classmethod
    def of(cls, attributes: Mapping[str, str]) -> ConvolutionShape:
        """From a node's attributes."""
        known = ("kernel", "stride", "pad", "dilate", "num_filter", "num_group", "no_bias")
        return cls({name: attributes[name] for name in known if name in attributes})

    @property
    def has_bias(self) -> bool:
        """Whether it adds one."""
        return self.attributes.get("no_bias", "False") not in ("True", "1")

    def parameters(self, shape: Sequence[int]) -> list[list[int]]:
        """(N, C, H, W) -> the shapes of the weight and, if there is one, of the bias."""
        channels = int(self.attributes["num_filter"])
        inputs = shape[1] // int(self.attributes.get("num_group", 1))
        weight = [channels, inputs, *sizes(self.attributes["kernel"])]
        return [weight, [channels]] if self.has_bias else [weight]

    def outputs(self, shape: Sequence[int]) -> list[int]:
        """(N, C, H, W) -> the outputs' shape."""
        kernel, stride, pad, dilate = (
            sizes(self.attributes.get(name, default))
            for name, default in (("kernel", ""), ("stride", "(1,1)"), ("pad", "(0,0)"), ("dilate", "(1,1)"))
        )
        found = [
            (size + 2 * around - apart * (window - 1) - 1) // step + 1
            for size, window, step, around, apart in zip(shape[2:], kernel, stride, pad, dilate, strict=True)
        ]
        return [shape[0], int(self.attributes["num_filter"]), *found]
