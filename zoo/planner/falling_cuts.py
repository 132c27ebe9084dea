"""The one-level planner for a backward pass that frees cuts as it goes back: only what is kept before counts.

When the backward pass redoes a stretch, every cut behind it is gone. So the first stretches may be large, and the last
ones, which run backward while all cuts are still there, must be small. `zoo.planner.cuts` counts all cuts with every
stretch, which is right where memory is given to each cut for the whole step.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from zoo.planner.cuts import CutChain, CutPlan

SLOTS = 200
PEAKS = 8  # between the smallest peak and everything kept


def falling_peak(chain: CutChain, plan: CutPlan) -> int:
    """The most that lies at one moment: what is kept before a stretch, and the stretch; or everything kept.

    Example:
        >>> chain = CutChain((1, 1, 1), (4, 4, 4, 4), (1.0,) * 4)
        >>> plan = CutPlan.of(chain, cuts=[1, 2])
        >>> plan.peak_bytes, falling_peak(chain, plan)
        (11, 9)
    """
    kept = most = 0
    start, whole = -1, set(plan.whole)
    for end in (*plan.cuts, len(chain.cut_bytes)):
        inside = sum(chain.gap_bytes[start + 1 : end + 1]) + sum(chain.cut_bytes[start + 1 : end])
        most = max(most, kept + inside)
        if end == start + 1 and end in whole:
            kept += chain.gap_bytes[end]
        kept += chain.cut_bytes[end] if end < len(chain.cut_bytes) else 0
        start = end
    return max(most, kept)


def least_falling_cuts(chain: CutChain) -> CutPlan:
    """The cuts with the least `falling_peak`, everything between them redone. Exact.

    Example:
        >>> chain = CutChain((1,) * 8, (4,) * 9, (1.0,) * 9)
        >>> plan = least_falling_cuts(chain)
        >>> falling_peak(chain, plan), plan.cuts
        (10, (1, 3, 4, 5, 6, 7))
    """
    low, high = 0, sum(chain.gap_bytes) + sum(chain.cut_bytes)
    while low < high:
        middle = (low + high) // 2
        if _fits(chain, middle) is None:
            low = middle + 1
        else:
            high = middle
    cuts = _fits(chain, high)
    assert cuts is not None, "everything in one stretch fits the largest peak"
    return CutPlan.of(chain, cuts)


def falling_frontier(chain: CutChain, peaks: int = PEAKS) -> Iterator[CutPlan]:
    """The least peak, and plans of least work for peaks between it and everything kept; kept bytes in slots."""
    smallest = least_falling_cuts(chain)
    yield smallest
    low, high = falling_peak(chain, smallest), sum(chain.gap_bytes) + sum(chain.cut_bytes)
    for peak in np.geomspace(max(low, 1), max(high, 1), peaks + 1)[1:-1]:
        found = _least_work(chain, int(peak))
        if found is not None:
            yield found


def _ends(chain: CutChain) -> np.ndarray:
    """Bytes of all gaps and candidates before each place."""
    return np.concatenate([[0], np.cumsum(np.add(chain.gap_bytes, (*chain.cut_bytes, 0)))])


def _fits(chain: CutChain, peak: int) -> list[int] | None:
    """The cuts of least bytes before every stretch, none of which exceeds the peak with them; or None."""
    count = len(chain.cut_bytes)
    kept: list[float] = [0.0]  # at place c + 1: least bytes of cuts up to and with c, where c is one
    back = [-1]
    ends = _ends(chain)
    for end in range(count + 1):
        own = chain.cut_bytes[end] if end < count else 0
        before = np.array(kept)
        inside = ends[end + 1] - own - ends[: end + 1]
        allowed = np.where(before + inside <= peak, before, np.inf)
        place = int(allowed.argmin())
        kept.append(float(allowed[place]) + own)
        back.append(place)
    if not np.isfinite(kept[-1]):
        return None
    cuts: list[int] = []
    place = back[count + 1]
    while place > 0:
        cuts.append(place - 1)
        place = back[place]
    return cuts[::-1]


def _least_work(chain: CutChain, peak: int) -> CutPlan | None:
    """The plan of least work within a peak; gaps may be kept whole. Kept bytes are counted in slots."""
    count, unit = len(chain.cut_bytes), max(1, -(-peak // SLOTS))
    columns = peak // unit + 1
    cuts = [-(-size // unit) for size in (*chain.cut_bytes, 0)]
    gaps = [-(-size // unit) for size in chain.gap_bytes]
    own = (*chain.cut_work, 0.0)
    ends = _ends(chain)
    done = np.concatenate([[0.0], np.cumsum(np.array(chain.gap_work) + np.array(own))])
    least = np.full((count + 2, columns), np.inf)
    least[0, 0] = 0.0
    back = np.full((count + 2, columns, 2), -1)  # where from: place and slots
    for end in range(count + 1):
        row, origin = np.full(columns, np.inf), np.full((columns, 2), -1)
        for start in range(end, -1, -1):
            inside = ends[end + 1] - (chain.cut_bytes[end] if end < count else 0) - ends[start]
            room = (peak - inside) // unit
            if room < 0:
                break
            found = least[start, : room + 1] + (done[end + 1] - own[end] - done[start])
            better = np.flatnonzero(found < row[: room + 1])
            row[better], origin[better, 0], origin[better, 1] = found[better], start, better
        _keep_whole(row, origin, least[end], gaps[end], end)
        room = columns - cuts[end]
        if room > 0:
            least[end + 1, cuts[end] :], back[end + 1, cuts[end] :] = row[:room], origin[:room]
    if not np.isfinite(least[-1]).any():
        return None
    return _read_off(chain, back, int(least[-1].argmin()), gaps)


def _keep_whole(row: np.ndarray, origin: np.ndarray, before: np.ndarray, gap: int, place: int) -> None:
    """Keep the gap behind the last cut, where that is less work."""
    kept = before[: max(len(before) - gap, 0)]
    better = np.flatnonzero(kept < row[gap:])
    row[gap + better] = kept[better]
    origin[gap + better, 0], origin[gap + better, 1] = -2 - place, better


def _read_off(chain: CutChain, back: np.ndarray, slots: int, gaps: list[int]) -> CutPlan:
    cuts: list[int] = []
    whole: list[int] = []
    place = len(chain.cut_bytes) + 1
    while place > 0:
        if place <= len(chain.cut_bytes):
            cuts.append(place - 1)
        origin, slots = (int(number) for number in back[place, slots])
        if origin <= -2:
            whole.append(place - 1)
            origin = -2 - origin
        place = origin
    return CutPlan.of(chain, cuts, whole)
