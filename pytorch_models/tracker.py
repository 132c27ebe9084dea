"""The one memory tracker: which storages operators bring into the world, when, and when they are gone.

It sees what the framework allocates, on any device and under FakeTensorMode (where nothing is computed); what an
operator allocates and frees inside itself is not seen.
"""

from __future__ import annotations

import contextlib
import functools
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pytorch_models.workspace import with_workspace


@dataclass
class Allocation:
    """One storage's life: its bytes, and the steps of the tracker's clock at which it came and went."""

    storage_bytes: int
    born: int
    died: int | None = None
    owner: str = ""  # the innermost module that saved it for the backward pass
    kept: str = ""  # how, in that module's words


class MemoryTracker(TorchDispatchMode):
    """Counts the storages that operators bring into the world while it is active.

    Args:
        external: tensors that exist already (parameters, buffers, inputs); views of them are not counted.
        device: only storages on devices of this type are counted, such as "cuda"; "" = all.

    Example:
        >>> import torch
        >>> with MemoryTracker() as tracker:
        ...     total = torch.ones(256, 1024).add(1).sum()
        >>> tracker.peak_bytes // 2**20
        2
    """

    def __init__(self, external: Iterable[Tensor] = (), device: str = "") -> None:
        super().__init__()
        self.device = device
        self.allocations: list[Allocation] = []
        self.live_bytes = 0
        self.peak_bytes = 0
        self.peak_clock = 0
        self.clock = 0
        self.operators: Counter[str] = Counter()  # how often operators of each namespace ran
        self._live: dict[int, Allocation] = {}
        self._watch: dict[int, weakref.ref[Any]] = {}
        # The storages themselves: an id alone could be given to another one when they are gone.
        self._external = {_key(tensor): tensor.untyped_storage() for tensor in external}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.prim.device.default:  # asked of fake tensors alone, in every operator
            return args[0].device
        results = with_workspace(function, args, function(*args, **(kwargs or {})))
        self.clock += 1
        self.operators[function.namespace] += 1
        given: set[int] | None = None
        for result in tree_leaves(results):
            if not isinstance(result, Tensor) or _key(result) in self._live:
                continue
            if given is None:
                given = {_key(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
            if _key(result) not in given:
                self._birth(result)
        return results

    def allocation_of(self, tensor: Tensor) -> Allocation | None:
        """The tracked allocation behind a tensor, or None if it existed before."""
        return self._live.get(_key(tensor))

    def alive_at_peak(self) -> list[Allocation]:
        """What was allocated at the moment of the peak; the bytes add up to `peak_bytes`."""
        when = self.peak_clock
        return [a for a in self.allocations if a.born <= when and (a.died is None or a.died > when)]

    def _birth(self, tensor: Tensor) -> None:
        key, storage = _key(tensor), tensor.untyped_storage()
        if key in self._external or storage.nbytes() == 0 or self.device not in ("", tensor.device.type):
            return
        allocation = Allocation(storage.nbytes(), self.clock)
        self.allocations.append(allocation)
        self._live[key] = allocation
        self._watch[key] = weakref.ref(storage, functools.partial(self._death, key))
        self.live_bytes += allocation.storage_bytes
        if self.live_bytes > self.peak_bytes:
            self.peak_bytes, self.peak_clock = self.live_bytes, self.clock

    def _death(self, key: int, _: Any) -> None:
        allocation = self._live.pop(key)
        del self._watch[key]
        self.clock += 1
        allocation.died = self.clock
        self.live_bytes -= allocation.storage_bytes


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


@dataclass
class Peak:
    """Filled in when `track_peak` ends: bytes."""

    bytes: int = 0


@contextlib.contextmanager
def track_peak(external: Iterable[Tensor] = ()) -> Iterator[Peak]:
    """Measure the most memory allocated by what runs inside, `external` tensors not counted."""
    peak = Peak()
    with MemoryTracker(external) as tracker:
        yield peak
    peak.bytes = tracker.peak_bytes
