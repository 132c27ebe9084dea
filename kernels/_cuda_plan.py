"""How many blocks a CUDA kernel is started with, and what each takes: arithmetic only, tested without a GPU.

Plans depend on sizes alone, never on the device, so that sums are added in the same order everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

THREADS = 256
WARPS = THREADS // 32
OCTET = 8
MAX_BLOCKS = 2**31 - 1
# So many blocks fill any GPU; beyond them blocks take more work instead.
ENOUGH_BLOCKS = 4096
MOST_GROUPS_PER_WARP = 8
# A block's values must stay below 2^32: the upper half of their index may change only once.
MOST_VALUES_PER_BLOCK = 2**31


def _ceil(count: int, by: int) -> int:
    return -(-count // by)


def _checked(where: str, blocks: int) -> int:
    if blocks > MAX_BLOCKS:
        raise ValueError(
            f"{where}: {blocks} thread blocks are more than the {MAX_BLOCKS} of one launch: split the array"
        )
    return blocks


@dataclass(frozen=True)
class GroupPlan:
    """Blocks of `groups_per_block` groups; `blocks` for each sample, `total` for all."""

    groups_per_block: int
    blocks: int
    total: int


def groups(where: str, samples: int, groups_per_sample: int, group: int) -> GroupPlan:
    """A warp takes one group after the other; a block never spans two samples.

    Example:
        >>> groups("here", 1, 1000, 256)
        GroupPlan(groups_per_block=8, blocks=125, total=125)
    """
    per_warp = min(max(samples * groups_per_sample // (WARPS * ENOUGH_BLOCKS), 1), MOST_GROUPS_PER_WARP)
    per_block = min(WARPS * per_warp, MOST_VALUES_PER_BLOCK // group)
    blocks = _ceil(groups_per_sample, per_block)
    return GroupPlan(per_block, blocks, _checked(where, samples * blocks))


def octets(where: str, count: int) -> int:
    """Blocks in which each thread owns 8 consecutive of `count` values.

    Example:
        >>> octets("here", 0), octets("here", 2048), octets("here", 2049)
        (0, 1, 2)
    """
    return _checked(where, _ceil(count, OCTET * THREADS))


def threads(where: str, count: int) -> int:
    """Blocks in which each thread owns one of `count` values."""
    return _checked(where, _ceil(count, THREADS))


def warps(where: str, count: int) -> int:
    """Blocks in which each warp owns one of `count` things."""
    return _checked(where, _ceil(count, WARPS))


@dataclass(frozen=True)
class ChannelPlan:
    """Blocks of `tile` channels and `chunk` positions; partial sums are 2 x channels x `chunks` doubles."""

    tile: int
    tiles: int
    chunk: int
    chunks: int
    total: int


def channels(where: str, outer: int, count: int, inner: int, last: bool) -> ChannelPlan:
    """Sums over the positions of `count` channels; with channels last neighbouring threads own neighbouring channels.

    Example:
        >>> channels("here", 64, 12, 1024, False)
        ChannelPlan(tile=1, tiles=12, chunk=2048, chunks=32, total=384)
        >>> channels("here", 65536, 12, 1, True)
        ChannelPlan(tile=16, tiles=1, chunk=128, chunks=512, total=512)
    """
    tile = min(32, 1 << max(count - 1, 0).bit_length()) if last else 1
    tiles = _ceil(count, tile)
    unit, positions = OCTET * THREADS // tile, outer * inner
    rounds = max(_ceil(_ceil(positions, unit) * tiles, ENOUGH_BLOCKS), 1)
    chunks = _ceil(positions, rounds * unit)
    return ChannelPlan(tile, tiles, rounds * unit, chunks, _checked(where, chunks * tiles))
