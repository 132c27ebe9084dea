"""HostSwap's traffic without a GPU: copies happen as late as events allow, and find their memory alive."""

from __future__ import annotations

import copy
import pickle
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from kernels.codecs import Codec, FixedPoint, GroupQuantizer, HostSwap, Identity, ZeroValue
from kernels.host_swap import Lane


class LateTransfers:
    """Copies that run only when an event is waited for, in their order; they hold no memory, as a GPU's hold none.

    Args:
        eager: copies run at once, so that events are done when they are asked for.
    """

    def __init__(self, eager: bool = False) -> None:
        self.eager = eager
        self.copies: list[Callable[[], None]] = []
        self.ran = self.sent = self.fetched = 0
        self.most_on_device = 0
        self.on_device: list[weakref.ref[np.ndarray]] = []

    def to_host(self, arrays: Sequence[np.ndarray]) -> tuple[list[np.ndarray], int]:
        self.sent += 1
        hosts = [np.full_like(array, 77) for array in arrays]
        return hosts, self._copy(arrays, hosts, 0)

    def to_device(self, hosts: Sequence[np.ndarray]) -> tuple[list[np.ndarray], int]:
        self.fetched += 1
        arrays = [np.full_like(host, 88) for host in hosts]
        self.on_device += [weakref.ref(array) for array in arrays]
        self.most_on_device = max(self.most_on_device, sum(one() is not None for one in self.on_device))
        return arrays, self._copy(hosts, arrays, 1)

    def _copy(self, sources: Sequence[np.ndarray], targets: Sequence[np.ndarray], on_device: int) -> int:
        pairs = [(weakref.ref(source), weakref.ref(target)) for source, target in zip(sources, targets, strict=True)]

        def run() -> None:
            for pair in pairs:
                assert pair[on_device]() is not None, "device memory was given back before the copy"
                # Host memory may be: it goes back to a pool that only this stream uses.
                source, target = pair[0](), pair[1]()
                if source is not None and target is not None:
                    target[...] = source

        self.copies.append(run)
        if self.eager:
            self.wait(len(self.copies))
        return len(self.copies)

    def wait(self, event: int) -> None:
        while self.ran < event:
            self.ran += 1
            self.copies[self.ran - 1]()

    def done(self, event: int) -> bool:
        return self.ran >= event


class OneLane:
    """Takes every array for one of a GPU."""

    def __init__(self, transfers: LateTransfers, ahead: int = 2) -> None:
        self.lane = Lane(transfers, ahead)

    def of(self, array: Any) -> Lane:
        return self.lane


def arrays_of(count: int) -> list[np.ndarray]:
    return [np.random.default_rng(number).normal(size=(3, 40)).astype(np.float32) for number in range(count)]


ORDERS = {
    "backward": lambda n: range(n)[::-1],
    "forward": range,
    "odd first": lambda n: [*range(1, n, 2), *range(0, n, 2)],
}


@pytest.mark.quick
@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("inner", [Identity(), GroupQuantizer(2), ZeroValue(FixedPoint(4))], ids=str)
def test_what_left_comes_back(inner: Codec, order: str, eager: bool, same: Any) -> None:
    transfers = LateTransfers(eager)
    codec = HostSwap(inner, OneLane(transfers))
    expected = [inner.decode(inner.encode(array, 7)) for array in arrays_of(9)]
    kept = [codec.encode(array, 7) for array in arrays_of(9)]
    assert [one.nbytes for one in kept] == [inner.encode(array, 7).nbytes for array in arrays_of(9)]
    for number in ORDERS[order](9):
        same(codec.decode(kept[number]), expected[number])
        same(codec.decode(kept[number]), expected[number])  # once more, as with retain_graph
    transfers.wait(len(transfers.copies))
    assert transfers.sent == 9


@pytest.mark.parametrize("ahead", [1, 2, 4])
def test_the_device_holds_no_more_than_it_was_told(ahead: int) -> None:
    transfers = LateTransfers()
    codec = HostSwap(Identity(), OneLane(transfers, ahead))
    alive, kept = [], []
    for number in range(12):
        array = np.full(50, number, np.float32)
        alive.append(weakref.ref(array))
        kept.append(codec.encode(array, 0))
        del array
        assert sum(one() is not None for one in alive) <= ahead
    for one in reversed(kept):
        codec.decode(one)
    # What was asked for, those that come early, and one that has been used and not let go of.
    assert transfers.most_on_device <= ahead + 2


def test_what_left_before_is_on_its_way_when_it_is_asked_for() -> None:
    transfers = LateTransfers()
    codec = HostSwap(Identity(), OneLane(transfers))
    kept = [codec.encode(array, 0) for array in arrays_of(8)]
    codec.decode(kept[7])  # has not left yet
    assert transfers.fetched == 1  # nor has number 6: number 5 is fetched
    codec.decode(kept[5])
    assert transfers.fetched == 3
    codec.decode(kept[4])
    assert transfers.fetched == 4


def test_codes_that_nobody_wants_are_not_fetched_and_their_copies_still_find_memory() -> None:
    transfers = LateTransfers()
    codec = HostSwap(Identity(), OneLane(transfers))
    kept = [codec.encode(array, 0) for array in arrays_of(6)]
    codec.decode(kept[4])
    fetched = transfers.fetched
    del kept[0:4]
    codec.decode(kept[1])
    assert transfers.fetched == fetched
    kept.clear()
    codec.encode(arrays_of(1)[0], 0)
    transfers.wait(len(transfers.copies))


def test_arrays_in_host_memory_stay_where_they_are(same: Any) -> None:
    array = arrays_of(1)[0]
    codec = HostSwap(Identity())
    encoded = codec.encode(array, 0)
    assert encoded.parts[0] is array
    assert codec.decode(encoded) is array
    coded, plain = HostSwap(GroupQuantizer(4)).encode(array, 3), GroupQuantizer(4).encode(array, 3)
    same(coded.parts[0], plain.parts[0])


def test_a_copy_of_the_codec_is_the_same_codec() -> None:
    codec = HostSwap(GroupQuantizer(2))
    for other in (copy.deepcopy(codec), pickle.loads(pickle.dumps(codec))):
        assert other == codec
        assert other.lanes is not codec.lanes
        assert hash(other) == hash(codec)
