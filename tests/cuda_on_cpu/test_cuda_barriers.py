"""The CPU that stands in for a GPU notices what a GPU would not forgive: the sources are broken to see that."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kernels
from kernels import reference
from kernels._reference_noise import GOLDEN64, mix64

SYNC = "    __syncthreads();\n"
SYNC_WARP = "    __syncwarp();\n"


def statistics_right(cuda: Any, device: Any) -> bool:
    x = np.random.default_rng(0).normal(size=(700, 40)).astype(np.float32)
    pairs = zip(cuda.channel_statistics(x), reference.channel_statistics(x), strict=True)
    return all(np.allclose(made, expected, rtol=1e-5, atol=1e-6) for made, expected in pairs)


def integers_right(cuda: Any, device: Any) -> bool:
    x = np.random.default_rng(0).integers(0, 2**16, 3000).astype(np.uint16)
    return bool((cuda.pack_integers(x, 13) == reference.pack_integers(x, 13)).all())


def compression_right(cuda: Any, device: Any) -> bool:
    x = np.random.default_rng(0).integers(0, 3, 9000).astype(np.float32)
    return bool((cuda.zero_compress(x)[1] == reference.zero_compress(x)[1]).all())


def scan_right(cuda: Any, device: Any) -> bool:
    counts = np.random.default_rng(0).integers(0, 2049, 5000)
    begins = np.concatenate([counts, [-1]]).astype(np.int64)
    device.run("begin_blocks", (), 1, begins, np.int64(counts.size))
    return bool((begins == np.concatenate([[0], np.cumsum(counts)])).all())


def far_index_right(cuda: Any, device: Any) -> bool:
    """The last block of noise for 2^32 + 100 elements writes where its elements are: only that block is run."""
    count, kept = 2**32 + 100, np.empty(512, np.float32)
    blocks = -(-count // 256)
    device.only_last_block = True
    start_of_all = np.uint64(kept.ctypes.data - 4 * (count - kept.size))
    device.launch("noise", blocks, (start_of_all, np.int64(count), np.uint64(mix64(GOLDEN64)), np.uint64(0)))
    device.only_last_block = False
    return bool((kept[-100:] == reference.noise(0, count - 100, 100)).all())


def quantiser_right(cuda: Any, device: Any) -> bool:
    x = np.random.default_rng(0).normal(size=3000).astype(np.float32)
    made, expected = (backend.quantize(x, 4, seed=1) for backend in (cuda, reference))
    return bool((made.codes == expected.codes).all() and np.allclose(made.energy, expected.energy, rtol=1e-5))


def activation_right(cuda: Any, device: Any) -> bool:
    x = np.random.default_rng(0).normal(size=601).astype(np.float32)[1:].reshape(50, 12)
    ones, out = np.ones(12, np.float32), np.empty_like(x)
    return bool((cuda.affine_activation(x, ones, ones, out) == np.maximum(x + 1, 0)).all())


# What is taken away or moved, in which kernel, and what then goes wrong.
BREAKS = {
    "no barrier between the threads' sums and their addition": (
        statistics_right,
        {"channel_statistics<float, true>": {"        __syncthreads();\n": ""}},
    ),
    "a barrier that not all threads reach": (
        statistics_right,
        {
            "channel_statistics<float, true>": {
                "__syncthreads();\n        if (threadIdx.x < half) {": "if (threadIdx.x < half) { __syncthreads();"
            }
        },
    ),
    "no warp barrier between packing and copying": (integers_right, {"pack_integers<u16>": {SYNC_WARP: ""}}),
    "no barrier in the scan": (compression_right, {"move_nonzeros<u32, false>": {SYNC: ""}}),
    "no second barrier before the scratch is used again": (
        scan_right,
        {"begin_blocks": {SYNC + "    return before": "    return before"}},
    ),
    "no barrier in a block's sum": (quantiser_right, {"quantize<float, 4>": {SYNC: ""}}),
    "too few lanes in a shuffle": (
        quantiser_right,
        {"quantize<float, 4>": {"__shfl_xor_sync(kAllLanes, lowest": "__shfl_xor_sync(0xffffu, lowest"}},
    ),
    "a shuffle that only some lanes reach": (
        activation_right,
        {"affine_activation<float, true>": {"partner_whole = __shfl": "partner_whole = whole && __shfl"}},
    ),
    "a vector access that is not aligned": (
        activation_right,
        {"affine_activation<float, true>": {"u64(pointer) % bytes == 0": "u64(pointer) % 4 == 0"}},
    ),
    "an index of 32 bits": (
        far_index_right,
        {"noise": {"const i64 i = i64(blockIdx.x) * kThreads": "const int i = int(blockIdx.x) * kThreads"}},
    ),
}


@pytest.mark.parametrize("what", BREAKS)
def test_broken_sources_are_noticed(what: str, mutant: Callable[..., Any], cuda_of: Callable[[Any], Any]) -> None:
    right, changes = BREAKS[what]
    device = mutant(changes)
    for order in (1, 2, 3):
        device.order = order
        try:
            if not right(cuda_of(device), device):
                return
        except RuntimeError:
            return
    pytest.fail(f"{what}: nothing was noticed")


@pytest.mark.parametrize("right", list(dict.fromkeys(right for right, _ in BREAKS.values())))
def test_sound_sources_pass(cuda_of: Callable[[Any], Any], device: Any, right: Callable[..., bool]) -> None:
    for order in (0, 1, 2, 3):
        device.order = order
        assert right(cuda_of(device), device)


def test_every_barrier_is_broken_above() -> None:
    """A new barrier in a source needs a line in BREAKS."""
    sources = [path.read_text(encoding="utf-8") for path in Path(kernels.__file__).parent.glob("*.cu*")]
    assert len(sources) == 9
    assert sum(len(re.findall(r"__sync\w+\(\)", text)) for text in sources) == 5
