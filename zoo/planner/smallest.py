"""The smallest budget a chain can be trained in, to the byte, and a schedule that needs no more."""

from __future__ import annotations

import numpy as np

from zoo.planner.graph import CostGraph
from zoo.planner.schedule import Schedule
from zoo.planner.walk import Keep, Split, Stretch, walk

NEVER = np.iinfo(np.int64).max // 4


def smallest_schedule(chain: CostGraph) -> Schedule:
    """The schedule with the lowest peak that keeping values until their backward allows.

    The recurrence of `zoo.planner.chain` with peaks in the place of times: the peak of a stretch is the larger of
    those of its two halves, what the first keeps added to the second's. Exact, in bytes.

    Raises:
        ValueError: the graph is not a chain.

    Example:
        >>> from zoo.planner import Option, Part
        >>> parts = [Part(str(i), 4, (Option("keep", 10, 1.0, 2.0),)) for i in range(4)]
        >>> smallest_schedule(CostGraph.chain(parts)).peak_bytes
        22
    """
    if not chain.is_chain or not chain.parts:
        raise ValueError("the graph is not a chain of at least one part: solve stretches between its cuts")
    table = _Peaks(chain)
    whole = Stretch(0, 0, len(chain.parts) - 1)
    return Schedule.of(chain, walk(whole, table.decide))


def rerun_peaks(output_bytes: np.ndarray, transient_bytes: np.ndarray) -> np.ndarray:
    """Entry (s, j): the most that lies there while parts s..j-1 run keeping nothing but the input of s, which is
    not counted; 0 where j <= s."""
    count = len(output_bytes)
    peaks = np.zeros((count, count + 1), dtype=np.int64)
    for s in range(count):
        alone = output_bytes[s:] + transient_bytes[s:]
        alone[1:] += output_bytes[s:-1]
        peaks[s, s + 1 :] = np.maximum.accumulate(alone)
    return peaks


class _Peaks:
    """Lowest peaks of every stretch, its input outside (`held`) or inside and loose (`loose`)."""

    def __init__(self, chain: CostGraph) -> None:
        self.parts = chain.parts
        count = len(chain.parts)
        self.output = np.array([part.output_bytes for part in chain.parts], dtype=np.int64)
        # Index -1 is the gradient of the chain's input.
        self.gradient = np.array([part.gradient_bytes for part in chain.parts] + [chain.input_gradient_bytes])
        self.left, self.after = [part.left_bytes for part in chain.parts], chain.left_after
        self.furthest = chain.furthest_rerun
        self.rerun = rerun_peaks(self.output, np.array([part.rerun.forward_bytes for part in chain.parts]))
        self.held = np.full((count, count), NEVER, dtype=np.int64)
        self.loose = np.full((count + 1, count), NEVER, dtype=np.int64)
        self.options = self._padded_options()
        for length in range(count):
            self._fill(length)

    def _padded_options(self) -> dict[str, np.ndarray]:
        """Facts of all options, (part, option); what a part has fewer of is filled up by its first."""
        most = max(len(part.options) for part in self.parts)
        rows = [(*part.options, *part.options[:1] * (most - len(part.options))) for part in self.parts]
        facts = {
            "kept": [[option.resident_bytes for option in row] for row in rows],
            "apart": [
                [0 if option.keeps_output else part.output_bytes for option in row]
                for part, row in zip(self.parts, rows, strict=True)
            ],
            "forward": [[option.forward_bytes for option in row] for row in rows],
            "backward": [[option.backward_bytes for option in row] for row in rows],
            "needs_input": [[option.needs_input for option in row] for row in rows],
        }
        return {name: np.array(values) for name, values in facts.items()}

    def _fill(self, length: int) -> None:
        """All stretches of `length` + 1 parts at once."""
        first = np.arange(len(self.parts) - length)
        held, loose = self._least_keeping(first, length)
        if length:
            held = np.minimum(held, self._least_splitting(first, length))
        self.held[first, first + length] = held
        self.loose[first[1:], first[1:] + length] = loose[1:]

    def _least_keeping(self, first: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
        """As `_keeping`, the least of each stretch, its input outside and loose."""
        facts = {name: values[: len(first)] for name, values in self.options.items()}
        last, after = first + length, np.array(self.after)
        ahead = (self.gradient[last] + after[last])[:, None] + facts["kept"] + facts["apart"] + facts["forward"]
        before = self.gradient[np.arange(len(first)) - 1]
        behind = (self.gradient[first] + before + after[first] + np.array(self.left)[first])[:, None]
        behind = behind + facts["kept"] + facts["backward"]
        rest = np.zeros_like(ahead)
        if length:
            rest = facts["kept"] + facts["apart"] + self.held[first + 1, last][:, None]
            dropped = facts["kept"] + self.loose[first + 1, last][:, None]
            rest = np.where(facts["apart"] > 0, np.minimum(rest, dropped), rest)
        held = np.maximum(np.maximum(ahead, behind), rest).min(1)
        extra = self.output[np.arange(len(first)) - 1][:, None]
        loose = np.maximum(np.maximum(ahead + extra, behind), rest)
        return held, np.where(facts["needs_input"], NEVER, loose).min(1)

    def _least_splitting(self, first: np.ndarray, length: int) -> np.ndarray:
        """As `_splitting`, the least of each stretch."""
        s, last = first[:, None], (first + length)[:, None]
        starts = s + 1 + np.arange(length)
        later = np.minimum(self.output[starts - 1] + self.held[starts, last], self.loose[starts, last])
        first_run = (self.gradient[:-1] + np.array(self.after))[last] + self.rerun[s, starts]
        peaks = np.maximum(np.maximum(first_run, later), self.held[s, starts - 1])
        peaks[starts > np.array(self.furthest)[s]] = NEVER
        return peaks.min(1)

    def _splitting(self, s: int, t: int) -> np.ndarray:
        """Peaks when the later half starts at s+1, ..., t, as far as the first can be run again."""
        end = min(t, self.furthest[s])
        later = np.minimum(self.output[s:end] + self.held[s + 1 : end + 1, t], self.loose[s + 1 : end + 1, t])
        first_run = self.gradient[t] + self.after[t] + self.rerun[s, s + 1 : end + 1]
        return np.maximum(np.maximum(first_run, later), self.held[s, s:end])

    def _keeping(self, s: int, t: int, loose: bool) -> list[tuple[int, Keep]]:
        found = []
        output, extra = int(self.output[s]), int(self.output[s - 1]) if loose else 0
        for index, option in enumerate(self.parts[s].options):
            if loose and option.needs_input:
                continue
            kept, apart = option.resident_bytes, 0 if option.keeps_output else output
            forward = int(self.gradient[t]) + self.after[t] + extra + kept + apart + option.forward_bytes
            backward = int(self.gradient[s] + self.gradient[s - 1]) + kept + option.backward_bytes
            backward += self.after[s] + self.left[s]
            own = max(forward, backward)
            if s == t:
                found.append((own, Keep(index, None)))
                continue
            found.append((max(own, kept + apart + int(self.held[s + 1, t])), Keep(index, Stretch(0, s + 1, t))))
            if not option.keeps_output:
                rest = Stretch(0, s + 1, t, loose=True)
                found.append((max(own, kept + int(self.loose[s + 1, t])), Keep(index, rest)))
        return found

    def decide(self, stretch: Stretch) -> Keep | Split:
        """The decision whose peak is lowest; keeping before splitting, which takes longer."""
        s, t = stretch.first, stretch.last
        best, decision = min(self._keeping(s, t, stretch.loose), key=lambda found: found[0])
        if stretch.loose or best <= self.held[s, t]:
            return decision
        j = s + 1 + int(self._splitting(s, t).argmin())
        loose = self.loose[j, t] < self.output[j - 1] + self.held[j, t]
        return Split(later=Stretch(0, j, t, bool(loose)), earlier=Stretch(0, s, j - 1))
