"""The numba loops of `mxnet_memonger.replay`: which operators run again, in which order, and what memory they get."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

MATCH_RANGE = 16  # a block is given for what is at least this part of it
FORWARD, COPY, AGAIN, BACKWARD = 0, 1, 2, 3  # what an event runs
VALUE, GRADIENT = 0, 1  # what a backward operator reads
ALLOCATES, OVERWRITES, SHARES = 0, 1, 2  # what an operator does for its outputs


@numba.njit(cache=True)
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


@numba.njit(cache=True)
def replay(
    mirrored: Any,
    copied: Any,
    base: Any,
    heads: Any,
    input_starts: Any,
    inputs: Any,
    reuse: Any,
    owner: Any,
    read_starts: Any,
    reads: Any,
    made_starts: Any,
    backward_reuse: Any,
    rank: Any,
    sizes: Any,
    smallest: Any,
    largest: Any,
) -> int:
    """Bytes that MXNet would allocate for a plan; see `mxnet_memonger.replay` for the arrays."""
    values = base[-1]
    kinds, which = in_order(mirrored, copied, input_starts, inputs, owner, read_starts, reads)
    # All that is read, event by event; and what is made: first value, number of values, how.
    starts = np.zeros(len(kinds) + 1, np.int64)
    made = np.empty((len(kinds), 3), np.int64)
    read = np.empty(len(kinds) * 2 + 3 * len(inputs) + len(reads), np.int64)
    n = 0
    for e in range(len(kinds)):
        kind, i = kinds[e], which[e]
        if kind == COPY:
            read[n] = base[i]
            n += 1
            made[e] = (2 * values + base[i], 1, SHARES)
        elif kind == BACKWARD:
            again = owner[i] < 0 or mirrored[owner[i]]
            for r in range(read_starts[i], read_starts[i + 1]):
                source, output = reads[r, 1], reads[r, 2]
                if reads[r, 0] == GRADIENT:
                    read[n] = 3 * values + source
                elif copied[source] and source != owner[i] and output == 0:
                    read[n] = 2 * values + base[source]
                else:
                    read[n] = base[source] + output + (values if again and mirrored[source] else 0)
                n += 1
            made[e] = (3 * values + made_starts[i], made_starts[i + 1] - made_starts[i], backward_reuse[i])
        else:
            for k in range(input_starts[i], input_starts[i + 1]):
                source, output = inputs[k, 0], inputs[k, 1]
                if source >= 0:
                    read[n] = base[source] + output + (values if kind == AGAIN and mirrored[source] else 0)
                    if copied[source] and output == 0:
                        read[n] = 2 * values + base[source]
                    n += 1
            made[e] = (base[i] + (values if kind == AGAIN else 0), base[i + 1] - base[i], reuse[i])
        starts[e + 1] = n
    readers = np.bincount(read[:n], minlength=len(rank))
    readers[:values] += heads
    return hand_out(starts, read, made, kinds, readers, rank, sizes, smallest, largest)


@numba.njit(cache=True)
def in_order(
    mirrored: Any, copied: Any, input_starts: Any, inputs: Any, owner: Any, read_starts: Any, reads: Any
) -> tuple[Any, Any]:
    """What runs, in MXNet's order: the forward pass, then backward operators, each after the second runs it needs."""
    count = len(mirrored)
    kinds, which = np.empty(3 * count + len(owner), np.int64), np.empty(3 * count + len(owner), np.int64)
    events = 0
    for i in range(count):
        kinds[events], which[events] = FORWARD, i
        events += 1
        if copied[i]:
            kinds[events], which[events] = COPY, i
            events += 1
    done, stack = ~mirrored, np.empty(count + 1, np.int64)
    for b in range(len(owner)):
        own = owner[b]
        for r in range(read_starts[b], read_starts[b + 1] + 1):
            if r < read_starts[b + 1]:
                i, output = reads[r, 1], reads[r, 2]
                # A backward operator whose owner does not run again reads its inputs as they were.
                if reads[r, 0] == GRADIENT or done[i] or (own >= 0 and not mirrored[own]):
                    continue
                if copied[i] and i != own and output == 0:
                    continue
            elif own >= 0 and not done[own]:
                i = own  # runs again at last, whether anybody reads it or not
            else:
                continue
            depth, stack[0] = 0, i
            while depth >= 0:
                at, wanted = stack[depth], -1
                for k in range(input_starts[at], input_starts[at + 1]):
                    source = inputs[k, 0]
                    if source >= 0 and not done[source] and not (copied[source] and inputs[k, 1] == 0):
                        wanted = source
                        break
                if wanted >= 0:
                    depth += 1
                    stack[depth] = wanted
                    continue
                done[at] = True
                kinds[events], which[events] = AGAIN, at
                events, depth = events + 1, depth - 1
        kinds[events], which[events] = BACKWARD, b
        events += 1
    return kinds[:events], which[:events]


@numba.njit(cache=True)
def hand_out(
    starts: Any, read: Any, made: Any, kinds: Any, readers: Any, rank: Any, sizes: Any, smallest: Any, largest: Any
) -> int:
    """Bytes of all blocks that MXNet's planner would hand out to values, of which each event reads and makes some.

    Args:
        starts, read: what each event reads.
        made: what each event makes: the first value, how many, and how.
        kinds: of events.
        readers: how many read a value.
        rank: of each value's size among `sizes`, which rise; 0 is the size of what takes no memory.
        smallest, largest: ranks of the smallest and largest block that is given for a size.
    """
    block_of = np.full(len(rank), -1, np.int64)
    rank_of, refs = np.zeros(len(rank), np.int64), np.zeros(len(rank), np.int64)
    # Free blocks of each size in the order in which they were freed: the first and last, and of a block the next.
    ends = np.full((len(sizes), 2), -1, np.int64)
    beside = np.empty((len(rank), 2), np.int64)
    blocks = 0
    for e in range(len(kinds)):
        first, last = starts[e], starts[e + 1]
        candidates = min(last, first + 1) if kinds[e] == BACKWARD else last
        for out in range(made[e, 0], made[e, 0] + made[e, 1]):
            own = rank[out]
            if own == 0:
                continue
            if made[e, 2] != ALLOCATES and readers[out] > 0:
                for k in range(first, candidates):
                    held = block_of[read[k]]
                    if held >= 0 and rank[read[k]] == own and (made[e, 2] == SHARES or refs[held] == 1):
                        block_of[out] = held
                        refs[held] += readers[out]
                        break
            if block_of[out] >= 0:
                continue
            found = take(ends, beside, own, smallest[own], largest[own])
            if found < 0:
                found = blocks
                blocks += 1
            rank_of[found] = max(rank_of[found], own)
            refs[found], block_of[out] = readers[out], found
        for k in range(first, last):
            held = block_of[read[k]]
            if held >= 0:
                refs[held] -= 1
                if refs[held] == 0:
                    give_back(ends, beside, rank_of[held], held)
        for out in range(made[e, 0], made[e, 0] + made[e, 1]):
            held = block_of[out]
            if held >= 0 and readers[out] == 0:  # nobody reads it
                give_back(ends, beside, rank_of[held], held)
    total = 0
    for block in range(blocks):
        total += sizes[rank_of[block]]
    return total


@numba.njit(cache=True)
def take(ends: Any, beside: Any, own: int, smallest: int, largest: int) -> int:
    """The smallest free block that is large enough, the one freed first among equals; else the largest smaller one."""
    for rank in range(own, largest + 1):
        block = ends[rank, 0]
        if block >= 0:
            take_out(ends, beside, rank, block)
            return block
    for rank in range(own - 1, smallest - 1, -1):
        block = ends[rank, 1]
        if block >= 0:
            take_out(ends, beside, rank, block)
            return block
    return -1


@numba.njit(cache=True)
def take_out(ends: Any, beside: Any, rank: int, block: int) -> None:
    """Join what stands before and behind a block among the free ones of its size."""
    before, after = beside[block, 0], beside[block, 1]
    if before >= 0:
        beside[before, 1] = after
    else:
        ends[rank, 0] = after
    if after >= 0:
        beside[after, 0] = before
    else:
        ends[rank, 1] = before


@numba.njit(cache=True)
def give_back(ends: Any, beside: Any, rank: int, block: int) -> None:
    """Put a block behind the free ones of its size."""
    before = ends[rank, 1]
    beside[block, 0], beside[block, 1] = before, -1
    ends[rank, 1] = block
    if before >= 0:
        beside[before, 1] = block
    else:
        ends[rank, 0] = block
