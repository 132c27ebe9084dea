"""HostSwap on a GPU: what left comes back, whatever the streams are doing, and its memory is free meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from gpu_here import why_not

from kernels.codecs import Codec, FixedPoint, GroupQuantizer, HostSwap, Identity, ZeroValue

if WHY_NOT := why_not():
    pytest.skip(f"needs a GPU: {WHY_NOT}", allow_module_level=True)

cupy = pytest.importorskip("cupy")
MIB = 2**20


@pytest.fixture(autouse=True)
def _own_pool() -> Iterator[Any]:
    pool = cupy.cuda.MemoryPool()
    before = cupy.cuda.get_allocator()
    cupy.cuda.set_allocator(pool.malloc)
    yield
    cupy.cuda.set_allocator(before)


@pytest.mark.parametrize("codec", [Identity(), GroupQuantizer(2), ZeroValue(FixedPoint(4))], ids=str)
def test_what_left_comes_back_on_a_busy_stream(codec: Codec) -> None:
    swap = HostSwap(codec)
    expected, kept = [], []
    with cupy.cuda.Stream(non_blocking=True):
        busy = cupy.ones((2048, 2048), cupy.float32)
        for number in range(8):
            for _ in range(5):
                busy = busy @ busy / 2048
            array = cupy.full(MIB, number, cupy.float32) + cupy.arange(MIB, dtype=cupy.float32) % 7 * busy[0, 0]
            expected.append(codec.decode(codec.encode(array, 5)).get())
            kept.append(swap.encode(array, 5))
            del array
            cupy.full(MIB, -1, cupy.float32)  # takes memory that has just been given back
        assert all(isinstance(part, np.ndarray) for one in kept for part in one.arrays)
        for number in reversed(range(8)):
            decoded = swap.decode(kept.pop())
            cupy.full(MIB, -2, cupy.float32)
            assert np.array_equal(decoded.get(), expected[number])


def test_the_gpu_holds_few_of_what_left() -> None:
    pool_bytes = cupy.cuda.get_allocator().__self__.used_bytes
    swap = HostSwap(Identity())
    kept = []
    for number in range(20):
        kept.append(swap.encode(cupy.full(4 * MIB, number, cupy.float32), 0))
        assert pool_bytes() <= 4 * 16 * MIB
    assert sum(one.nbytes for one in kept) == 20 * 16 * MIB
    while kept:
        assert float(swap.decode(kept.pop())[0]) == len(kept)
        assert pool_bytes() <= 5 * 16 * MIB
