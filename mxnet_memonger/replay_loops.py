"""The numba loops of `mxnet_memonger.replay`: which operators run again, in which order, and what memory they get."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

MATCH_RANGE = 16  # a block is given for what is at least this part of it
FORWARD, COPY, AGAIN, BACKWARD = 0, 1, 2, 3


@numba.njit(cache=True)  # type: ignore[misc]
def run_again(kept: Any, copied: Any, reader_starts: Any, readers: Any, read_starts: Any, reads: Any) -> Any:
    """As `PlanSpace.mirrored`: all that is not kept, less what nobody would miss."""
    again = np.zeros(len(kept), np.bool_)
    for i in range(len(kept) - 1, -1, -1):
        if kept[i]:
            continue
        needed = False
        if not copied[i]:
            for k in range(reader_starts[i], reader_starts[i + 1]):
                needed = needed or again[readers[k]]
        for k in range(read_starts[i], read_starts[i + 1]):
            source = reads[k]
            needed = needed or source == i or not (kept[source] or copied[source])
        again[i] = needed
    return again


@numba.njit(cache=True)  # type: ignore[misc]
def replay(
    mirrored: Any,
    copied: Any,
    base: Any,
    sizes: Any,
    heads: Any,
    input_starts: Any,
    inputs: Any,
    in_place: Any,
    owner: Any,
    read_starts: Any,
    reads: Any,
    made_starts: Any,
    gradient_bytes: Any,
    backward_in_place: Any,
) -> int:
    count, values = len(mirrored), base[-1]
    total = 3 * values + len(gradient_bytes)
    # Events: what runs (forward, copy, second run, backward), in order.
    kinds = np.empty(3 * count + len(owner), np.int64)
    which = np.empty(3 * count + len(owner), np.int64)
    events = 0
    for i in range(count):
        kinds[events], which[events] = 0, i
        events += 1
        if copied[i]:
            kinds[events], which[events] = 1, i
            events += 1
    done = np.zeros(count, np.bool_)
    stack = np.empty(count + 1, np.int64)
    for b in range(len(owner)):
        own = owner[b]
        again = own >= 0 and mirrored[own]
        for r in range(read_starts[b], read_starts[b + 1]):
            if reads[r, 0] == 1:
                continue
            i = reads[r, 1]
            wanted = i if (i == own or (own < 0 or again)) else -1
            if wanted < 0 or not mirrored[i] or done[i] or (copied[i] and i != own and reads[r, 2] == 0):
                continue
            depth = 0
            stack[0] = i
            while depth >= 0:
                at = stack[depth]
                deeper = False
                for k in range(input_starts[at], input_starts[at + 1]):
                    source = inputs[k, 0]
                    wanted = source if source >= 0 and mirrored[source] and not done[source] else -1
                    if wanted >= 0 and not (copied[wanted] and inputs[k, 1] == 0):
                        depth += 1
                        stack[depth] = wanted
                        deeper = True
                        break
                if not deeper:
                    if not done[at]:
                        done[at] = True
                        kinds[events], which[events] = 2, at
                        events += 1
                    depth -= 1
        kinds[events], which[events] = 3, b
        events += 1
    # Two rounds: first count how often each value is read, then hand out memory.
    readers = np.zeros(total, np.int64)
    for v in range(values):
        readers[v] += heads[v]
    block_of = np.full(total, -1, np.int64)
    block_bytes = np.zeros(total, np.int64)
    block_refs = np.zeros(total, np.int64)
    block_free = np.full(total, -1, np.int64)  # when it was freed; -1 = in use
    blocks = 0
    clock = 0
    entries = np.empty(4096, np.int64)
    for round in range(2):
        for e in range(events):
            kind, i = kinds[e], which[e]
            # What is read.
            n = 0
            if kind == 0 or kind == 2:
                for k in range(input_starts[i], input_starts[i + 1]):
                    source, output = inputs[k, 0], inputs[k, 1]
                    if source < 0:
                        continue
                    v = base[source] + output
                    if copied[source] and output == 0:
                        v = 2 * values + base[source]
                    elif kind == 2 and mirrored[source]:
                        v += values
                    entries[n] = v
                    n += 1
                first, last, offset, may = base[i], base[i + 1], (values if kind == 2 else 0), in_place[i]
            elif kind == 1:
                entries[0] = base[i]
                n = 1
                first, last, offset, may = base[i], base[i] + 1, 2 * values, True
            else:
                own = owner[i]
                again = own >= 0 and mirrored[own]
                for r in range(read_starts[i], read_starts[i + 1]):
                    if reads[r, 0] == 1:
                        entries[n] = 3 * values + reads[r, 1]
                    else:
                        source, output = reads[r, 1], reads[r, 2]
                        v = base[source] + output
                        if source == own:
                            v += values if again else 0
                        elif copied[source] and output == 0:
                            v = 2 * values + base[source]
                        elif (again or own < 0) and mirrored[source]:
                            v += values
                        entries[n] = v
                    n += 1
                first, last, offset, may = made_starts[i], made_starts[i + 1], 3 * values, backward_in_place[i]
            if round == 0:
                for k in range(n):
                    readers[entries[k]] += 1
                continue
            # Outputs: over an input that nobody else reads, or in the largest first of the free blocks.
            for v in range(first, last):
                size = gradient_bytes[v] if kind == 3 else sizes[v]
                if size == 0:
                    continue
                out = v + offset
                if may:
                    for k in range(n):
                        held = block_of[entries[k]]
                        same = held >= 0 and block_refs[held] == 1 and readers[out] > 0
                        if same and _size_of(entries[k], sizes, gradient_bytes, values) == size:
                            block_of[out] = held
                            block_refs[held] += readers[out]
                            break
                    if block_of[out] >= 0:
                        continue
                found = _find(block_bytes, block_free, blocks, size)
                if found < 0:
                    found = blocks
                    blocks += 1
                block_bytes[found] = max(block_bytes[found], size)
                block_free[found] = -1
                block_refs[found] = readers[out]
                block_of[out] = found
            for k in range(n):
                held = block_of[entries[k]]
                if held >= 0:
                    block_refs[held] -= 1
                    if block_refs[held] == 0:
                        clock += 1
                        block_free[held] = clock
            for v in range(first, last):
                held = block_of[v + offset]
                if held >= 0 and block_refs[held] == 0 and block_free[held] < 0:
                    clock += 1
                    block_free[held] = clock
    given = 0
    for b in range(blocks):
        given += block_bytes[b]
    return given


@numba.njit(cache=True)  # type: ignore[misc]
def _size_of(value: int, sizes: Any, gradient_bytes: Any, values: int) -> int:
    if value >= 3 * values:
        return gradient_bytes[value - 3 * values]
    return sizes[value % values]


@numba.njit(cache=True)  # type: ignore[misc]
def _find(block_bytes: Any, block_free: Any, blocks: int, size: int) -> int:
    """The smallest free block that is large enough, the one freed first among equals; else the largest smaller one."""
    larger, smaller = -1, -1
    for b in range(blocks):
        if block_free[b] < 0:
            continue
        own = block_bytes[b]
        if size <= own <= size * MATCH_RANGE:
            if larger < 0 or (own, block_free[b]) < (block_bytes[larger], block_free[larger]):
                larger = b
        elif size // MATCH_RANGE <= own < size and (
            smaller < 0 or (own, block_free[b]) > (block_bytes[smaller], block_free[smaller])
        ):
            smaller = b
    return larger if larger >= 0 else smaller
