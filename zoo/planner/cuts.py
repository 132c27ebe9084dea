"""The one-level planner: keep these cuts, redo everything between two of them when the backward pass comes there.

What frameworks can do that only mark what is to be redone, such as MXNet's mirroring. After Chen, Xu, Zhang, Guestrin,
"Training deep nets with sublinear memory cost" (arXiv:1604.06174), with an exact search in the place of its heuristic.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from zoo.planner.graph import check_amount, check_bytes

MOST_CAPS = 160  # sizes of the largest stretch that are tried
WHOLE = -2  # in the place of the last cut before an end: that cut is its neighbour, and the gap between is kept


@dataclass(frozen=True)
class CutChain:
    """n candidates in a row, with n + 1 gaps before, between and after them.

    Args:
        cut_bytes: of each candidate, if its output is kept. If it is not, they count as inside its stretch.
        gap_bytes: of everything inside each gap, which lies there while the gap is redone and run backward.
        gap_work: of redoing each gap, in any unit that adds up (FLOPs).
        cut_work: of redoing each candidate itself; () = counted in the gaps.

    Raises:
        TypeError, ValueError: naming the field, what came and what is needed.
    """

    cut_bytes: tuple[int, ...]
    gap_bytes: tuple[int, ...]
    gap_work: tuple[float, ...]
    cut_work: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        count = len(self.cut_bytes)
        object.__setattr__(self, "cut_work", tuple(self.cut_work) or (0.0,) * count)
        for name, length in (
            ("cut_bytes", count),
            ("gap_bytes", count + 1),
            ("gap_work", count + 1),
            ("cut_work", count),
        ):
            values = tuple(getattr(self, name))
            object.__setattr__(self, name, values)
            if len(values) != length:
                raise ValueError(f"{name} must hold {length} values for {count} candidates, not {len(values)}")
            check = check_bytes if name.endswith("bytes") else check_amount
            for index, value in enumerate(values):
                check(f"{name}[{index}]", value)


@dataclass(frozen=True)
class CutPlan:
    """What is kept, and what that costs.

    Args:
        cuts: candidates whose outputs are kept, ascending.
        whole: gaps that are kept whole and not redone, ascending; both their ends are cuts (or ends of the chain).
        kept_bytes: of the cuts and the whole gaps.
        inside_bytes: of the largest stretch that is redone.
        work: of redoing everything that is not kept.
    """

    cuts: tuple[int, ...]
    whole: tuple[int, ...]
    kept_bytes: int
    inside_bytes: int
    work: float

    @property
    def peak_bytes(self) -> int:
        """Kept bytes and the largest stretch."""
        return self.kept_bytes + self.inside_bytes

    @classmethod
    def of(cls, chain: CutChain, cuts: Sequence[int], whole: Sequence[int] = ()) -> CutPlan:
        """What keeping `cuts` and the gaps `whole` costs, counted from scratch.

        Raises:
            ValueError: a whole gap whose ends are not both cuts.

        Example:
            >>> chain = CutChain(cut_bytes=(1, 1, 1), gap_bytes=(5, 5, 5, 5), gap_work=(1, 1, 1, 1))
            >>> plan = CutPlan.of(chain, cuts=[1])
            >>> plan.kept_bytes, plan.inside_bytes, plan.work
            (1, 11, 4.0)
        """
        count = len(chain.cut_bytes)
        ends = [-1, *sorted(cuts), count]
        kept = sum(chain.cut_bytes[cut] for cut in cuts) + sum(chain.gap_bytes[gap] for gap in whole)
        inside, work, left = 0, 0.0, set(whole)
        for start, end in itertools.pairwise(ends):
            if end == start + 1 and end in left:
                left.remove(end)
                continue
            inside = max(inside, sum(chain.gap_bytes[start + 1 : end + 1]) + sum(chain.cut_bytes[start + 1 : end]))
            work += sum(chain.gap_work[start + 1 : end + 1]) + sum(chain.cut_work[start + 1 : end])
        if left:
            raise ValueError(f"gaps {sorted(left)} cannot be kept whole: the candidates at their ends are not kept")
        return cls(tuple(sorted(cuts)), tuple(sorted(whole)), kept, inside, float(work))


def least_memory_cuts(chain: CutChain) -> CutPlan:
    """The cuts with the least peak, everything between them redone.

    Every size of the largest stretch is tried while there are no more than 160; of more, so many and then those
    between the best one's neighbours.

    Example:
        >>> least_memory_cuts(CutChain((1,) * 8, (4,) * 9, (1.0,) * 9)).peak_bytes
        12
    """
    tried = caps(chain)
    plans = [cheapest_cuts(chain, cap)[0] for cap in tried]
    place = min(range(len(tried)), key=lambda index: (plans[index].peak_bytes, plans[index].work))
    nearby = caps(chain, tried[max(place - 1, 0)], tried[min(place + 1, len(tried) - 1)])
    plans += [cheapest_cuts(chain, cap)[0] for cap in nearby]
    return min(plans, key=lambda plan: (plan.peak_bytes, plan.work))


def stretch_starts(chain: CutChain, cap: int) -> list[int]:
    """For each end e of a stretch (n = the chain's end), the first cut (-1 = its start) from which it is within cap."""
    starts, inside, start = [], 0, -1
    for end in range(len(chain.cut_bytes) + 1):
        inside += chain.gap_bytes[end] + (chain.cut_bytes[end - 1] if end else 0)
        # `inside` counts the cut at `start` too, which is no part of a stretch from there.
        while start < end and inside - (chain.cut_bytes[start] if start >= 0 else 0) > cap:
            inside -= chain.gap_bytes[start + 1] + (chain.cut_bytes[start] if start >= 0 else 0)
            start += 1
        starts.append(start)
    return starts


def caps(chain: CutChain, low: int = 0, high: int | None = None) -> list[int]:
    """Sizes of stretches from `low` to `high`: all, or `MOST_CAPS` of them, evenly spread over their logarithms."""
    ends = np.cumsum([*map(sum, zip(chain.gap_bytes, (*chain.cut_bytes, 0), strict=True))])
    starts = np.concatenate([[0], ends[:-1]])
    sizes = np.subtract.outer(ends - np.array([*chain.cut_bytes, 0]), starts)[np.tril_indices(len(ends))]
    every = np.unique(sizes[(sizes >= low) & (sizes <= (sizes.max() if high is None else high))])
    if len(every) > MOST_CAPS:
        wanted = np.geomspace(max(every[0], 1), every[-1], MOST_CAPS)
        every = every[np.unique(np.searchsorted(every, wanted).clip(0, len(every) - 1))]
    return [int(size) for size in every]


def cheapest_cuts(chain: CutChain, cap: int, prices: Sequence[float] = (0.0,)) -> list[CutPlan]:
    """For each price, the plan of least kept bytes + price * work such that no stretch is larger than `cap`.

    Exact. A gap larger than the cap is kept whole.
    """
    count, starts, price = len(chain.cut_bytes), stretch_starts(chain, cap), np.array(prices)
    done = work_before(chain)
    least = np.zeros((count + 2, len(price)))  # row c + 1: with c the last cut, less price * done[c + 1]
    back = np.full((count + 1, len(price)), WHOLE)
    for end in range(count + 1):
        size, own = (chain.cut_bytes[end], chain.cut_work[end]) if end < count else (0, 0.0)
        row = least[end] + price * done[end] + chain.gap_bytes[end]
        if starts[end] < end:
            window = least[starts[end] + 1 : end + 1]
            redone = window.min(axis=0) + price * (done[end + 1] - own)
            back[end] = np.where(redone < row, starts[end] + window.argmin(axis=0), WHOLE)
            row = np.minimum(row, redone)
        least[end + 1] = row + size - price * done[end + 1]
    return [_read_off(chain, back[:, column]) for column in range(len(price))]


def _read_off(chain: CutChain, back: np.ndarray) -> CutPlan:
    cuts: list[int] = []
    whole: list[int] = []
    end = len(chain.cut_bytes)
    while end >= 0:
        if end < len(chain.cut_bytes):
            cuts.append(end)
        if back[end] == WHOLE:
            whole.append(end)
            end -= 1
        else:
            end = int(back[end])
    return CutPlan.of(chain, cuts, whole)


def work_before(chain: CutChain) -> np.ndarray:
    """Work of redoing everything up to and with cut c, at place c + 1; a stretch's is a difference of two, less the
    work of the cut at its end."""
    return np.concatenate([[0.0], np.cumsum(np.array(chain.gap_work) + np.array([*chain.cut_work, 0.0]))])
