"""Codes in host memory: a codec that moves what another codec made off the GPU, and back before it is needed.

Copies run on a stream of their own beside the computation. Nothing is waited for by the processor: streams wait for one
another. Codes are expected back in the reverse of the order they left in, as a backward pass wants them.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, Protocol
from weakref import WeakValueDictionary

from kernels import _cuda_device
from kernels._cuda_transfers import CudaTransfers
from kernels.encoded import Codec, Encoded

AHEAD = 2


class Transfers(Protocol):
    """Copies between a device and host memory, on a stream beside the caller's current one."""

    def to_host(self, arrays: Sequence[Any]) -> tuple[list[Any], Any]:
        """Begin to copy; returns host arrays and the event after which they are filled."""

    def to_device(self, hosts: Sequence[Any]) -> tuple[list[Any], Any]:
        """Begin to copy into new device arrays; returns them and the event after which they are filled."""

    def wait(self, event: Any) -> None:
        """What the current stream does from now on comes after the event."""

    def done(self, event: Any) -> bool:
        """Whether the event has been reached."""


class Ticket:
    """Arrays in host memory; `arrays` are the same on the device, while they have not left or once they are fetched.

    Args:
        number: rises from one ticket of a lane to the next.
        hosts: where the arrays are, once they have left.
        arrays: the originals.
    """

    def __init__(self, number: int, hosts: list[Any], arrays: list[Any] | None) -> None:
        self.number, self.hosts, self.arrays = number, hosts, arrays
        self.arrived: Any = None  # the event of the copy back, after which `arrays` are filled


class Lane:
    """The traffic of one device: at most `ahead` sets of arrays are on their way in each direction.

    Memory that a copy reads or writes is held until the current stream comes after the copy; it may then be used again
    by whoever allocates for that stream.
    """

    def __init__(self, transfers: Transfers, ahead: int = AHEAD) -> None:
        self._transfers, self._ahead = transfers, ahead
        self._lock, self._numbers = threading.RLock(), count()
        self._away: WeakValueDictionary[int, Ticket] = WeakValueDictionary()
        self._leaving: deque[tuple[Any, Ticket]] = deque()
        self._arriving: deque[tuple[Any, list[Any]]] = deque()

    def send(self, arrays: Sequence[Any]) -> Ticket:
        """Begin to move arrays to host memory."""
        with self._lock:
            hosts, event = self._transfers.to_host(arrays)
            ticket = Ticket(next(self._numbers), hosts, list(arrays))
            self._away[ticket.number] = ticket
            self._leaving.append((event, ticket))
            self._let_go()
            return ticket

    def receive(self, ticket: Ticket) -> list[Any]:
        """The arrays, to be used by the current stream; those that left just before begin to come back too."""
        with self._lock:
            self._let_go()
            self._fetch(ticket)
            arrays = ticket.arrays
            if ticket.arrived is not None:
                self._transfers.wait(ticket.arrived)
                ticket.arrays = ticket.arrived = None  # the caller has them now
            earlier = sorted((number for number in self._away if number < ticket.number), reverse=True)
            for number in earlier[: self._ahead]:
                if before := self._away.get(number):
                    self._fetch(before)
            return arrays or []

    def _fetch(self, ticket: Ticket) -> None:
        if ticket.arrays is None:
            ticket.arrays, ticket.arrived = self._transfers.to_device(ticket.hosts)
            self._arriving.append((ticket.arrived, ticket.arrays))
            self._let_go()

    def _let_go(self) -> None:
        """Drop what copies have finished with, and what there is too much of, by making the current stream wait."""
        while self._leaving and (len(self._leaving) > self._ahead or self._transfers.done(self._leaving[0][0])):
            event, ticket = self._leaving.popleft()
            self._transfers.wait(event)
            ticket.arrays = None
        # One more than may come early: the one that is asked for.
        while self._arriving and (len(self._arriving) > self._ahead + 1 or self._transfers.done(self._arriving[0][0])):
            self._transfers.wait(self._arriving.popleft()[0])


class Lanes:
    """A lane for every GPU that arrays come from."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_device: dict[int, Lane] = {}

    def of(self, array: Any) -> Lane | None:
        """The lane of an array's GPU; None if it lies in host memory."""
        if not _cuda_device.on_gpu(array):
            return None
        device, _ = _cuda_device.opened("HostSwap", array=array)
        with self._lock:
            if device.number not in self._by_device:
                self._by_device[device.number] = Lane(CudaTransfers(device))
            return self._by_device[device.number]

    def __reduce__(self) -> tuple[type[Lanes], tuple[()]]:
        """A copy, of a model that has the codec for example, has streams of its own."""
        return Lanes, ()


@dataclass(frozen=True)
class HostSwap:
    """What `inner` makes, moved to pinned host memory where it lies on a GPU, and fetched back for the backward pass.

    Arrays that are in host memory already (NumPy's) are encoded by `inner` and stay where they are.

    Args:
        inner: the codec whose codes are moved.

    Source:
        vDNN (Rhu et al. 2016); ActNN (Chen et al. 2021), level L4.

    Example:
        >>> import numpy as np
        >>> from kernels.codecs import GroupQuantizer
        >>> HostSwap(GroupQuantizer(2)).encode(np.ones(1024, np.float32), seed=3).nbytes
        272
    """

    inner: Codec
    lanes: Any = field(default_factory=Lanes, repr=False, compare=False)

    def encode(self, array: Any, seed: int, dtype: str | None = None) -> Encoded:
        encoded = self.inner.encode(array, seed, dtype)
        arrays = list(encoded.arrays)
        lane = self.lanes.of(arrays[0])
        if lane is None:
            return encoded
        ticket = lane.send(arrays)
        return replace(encoded.with_arrays(ticket.hosts), ticket=(lane, ticket))

    def decode(self, encoded: Encoded) -> Any:
        if encoded.ticket is None:
            return self.inner.decode(encoded)
        lane, ticket = encoded.ticket
        return self.inner.decode(replace(encoded.with_arrays(lane.receive(ticket)), ticket=None))

    def nbytes(self, count: int, dtype: str = "float32") -> int:
        """Bytes that `count` values take at most, in host memory; none stay on the GPU."""
        return self.inner.nbytes(count, dtype)

    def __str__(self) -> str:
        return f"swap:{self.inner}"
