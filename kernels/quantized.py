"""What the group quantiser returns, whichever backend made it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Quantized:
    """Values in few bits.

    Args:
        codes: uint8; value i lies in bits [i*b, (i+1)*b) of its run, low bits first.
        minima: the groups' minima Z, uint16 (bfloat16 bits) or float32.
        steps: the groups' steps D, uint16 (bfloat16 bits).
        energy: float32, one sum of D^2 f(1-f) per sample: the variance that rounding added to all its values together.
        offsets: int64, first byte of every sample and the end; None where there is one run.
        mask: uint8, packed mask of the activation; None where none was asked for.
    """

    codes: Any
    minima: Any
    steps: Any
    energy: Any
    offsets: Any = None
    mask: Any = None

    @property
    def nbytes(self) -> int:
        """Bytes of what has to be kept to decode: codes, minima, steps and mask."""
        kept = (self.codes, self.minima, self.steps, self.mask)
        return sum(int(array.nbytes) for array in kept if array is not None)
