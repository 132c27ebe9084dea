"""What a controller knows of the forward pass it is recording in each thread."""

from __future__ import annotations

import threading
import weakref
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pytorch_models.compressed import codes
from pytorch_models.compressed.codes import Kept
from pytorch_models.compressed.saved_by import OperatorWatch
from zoo import bits as bit_rules


@dataclass
class Coded:
    """How many values a forward pass coded, and in how many bits together."""

    values: int = 0
    bits: int = 0

    def add(self, values: int, bits: int) -> None:
        """So many values more, of so many bits each."""
        self.values, self.bits = self.values + values, self.bits + values * bits

    @property
    def average(self) -> float:
        """Mean bits a value; 0 of none.

        Example:
            >>> coded = Coded()
            >>> coded.add(100, 4), coded.add(100, 8), coded.average
            (None, None, 6.0)
        """
        return self.bits / max(self.values, 1)


@dataclass
class Recording:
    """One forward pass."""

    watch: OperatorWatch
    coded: Coded
    slots: int = 0
    packed: list[tuple[int, Kept]] = field(default_factory=list)  # by the operator that runs
    kept: list[weakref.ref[Any]] = field(default_factory=list)


@dataclass(frozen=True)
class SavedTensor:
    """What `Controller.quantize` gives: a kept tensor, and the view of it that was saved."""

    kept: Kept
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    whole: bool  # the view fills its storage
    device: torch.device


class ThreadState(threading.local):
    """What each thread is recording; and what it packed."""

    def __init__(self) -> None:
        self.recording: Recording | None = None
        self.kept: list[weakref.ref[Any]] = []
        self.coded = Coded()


def pack_with_own_statistics(tensor: Tensor, bits: int, seed: int) -> Kept:
    """A norm's input, normalised by its own statistics, as the norm will do."""
    values = tensor.detach()
    others = [dimension for dimension in range(values.dim()) if dimension != 1]
    variance, mean = torch.var_mean(values.float(), others, correction=0)
    # A channel that does not vary is coded as it is, around its mean.
    inv_std = torch.where(variance > 0, variance, torch.ones_like(variance)).rsqrt()
    return codes.pack_normalised(values, mean, inv_std, (bits,), seed)


def check_bits(bits: Any) -> int:
    """Bits of the group quantiser.

    Raises:
        TypeError, ValueError: they are not.
    """
    if isinstance(bits, bool) or not isinstance(bits, int):
        raise TypeError(f"gact: bits must be 1, 2, 4 or 8, not {bits!r}")
    if bits not in bit_rules.WIDTHS:
        near = min(bit_rules.WIDTHS, key=lambda width: abs(width - bits))
        raise ValueError(f"gact: bits must be 1, 2, 4 or 8, not {bits}: did you mean {near}?")
    return bits
