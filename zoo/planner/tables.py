"""The chain solver's tables: the least seconds of every stretch of a chain in every room."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from zoo.planner.graph import CostGraph, Option
from zoo.planner.smallest import rerun_peaks
from zoo.planner.walk import Keep, Split, Stretch


class OptionFacts(NamedTuple):
    """An option of a part, in slots: what it keeps, its output if that is apart, and what its two passes need."""

    kept: int
    apart: int
    forward: int
    backward: int
    seconds: float
    needs_input: bool
    keeps_output: bool


class Tables:
    """Least seconds of every stretch for every room, in slots.

    `held[s, t]` is a row over rooms for parts s..t whose input lies outside the room. `loose[s, t]`: the input lies
    inside and is dropped after the forward of s. `split[t, j]`: parts j..t as the later half, their input inside, plus
    the seconds of running everything before j once, so that halves add up to one minimum.
    """

    def __init__(self, chain: CostGraph, unit: int, slots: int) -> None:
        self.parts, self.unit, self.slots = chain.parts, unit, slots
        count = len(chain.parts)
        self.output = np.array([self._slots_of(part.output_bytes) for part in chain.parts])
        # Index -1 is the gradient of the chain's input.
        gradients = [part.gradient_bytes for part in chain.parts] + [chain.input_gradient_bytes]
        self.gradient = np.array([self._slots_of(size) for size in gradients])
        # What lies there while a stretch up to t runs forward: its gradient, and what later backward passes left.
        self.ahead = self.gradient[:-1] + np.array([self._slots_of(size) for size in chain.left_after])
        self.left = [self._slots_of(part.left_bytes) for part in chain.parts]
        self.furthest = chain.furthest_rerun
        self.rerun = rerun_peaks(
            self.output, np.array([self._slots_of(part.rerun.forward_bytes) for part in chain.parts])
        )
        self.before = np.concatenate([[0.0], np.cumsum([part.rerun.forward_seconds for part in chain.parts])])
        self.facts = [[self._facts(s, option) for option in part.options] for s, part in enumerate(chain.parts)]
        self.fastest = [min(facts, key=lambda one: one.seconds) for facts in self.facts]
        self.may_drop = any(not option.needs_input for part in chain.parts for option in part.options)
        shape = (count, count, slots + 1)
        # Reading the cells is what takes the time: four bytes each, and one place for the sums of halves. They are not
        # filled: of the half that is never read no page is ever made.
        self.sums = np.empty(count * (slots + 1), np.float32)
        self.held, self.split = np.empty(shape, np.float32), np.empty(shape, np.float32)
        self.loose = np.empty(shape if self.may_drop else (0,), np.float32)
        self.first_held = np.full((count, count), slots + 1)
        self.first_split = np.full((count, count), slots + 1)
        self.enough = np.full((count, count), slots + 1)  # the room from which on nothing is gained by more
        for t in range(count):  # by their last part: what is read of it again and again stays near
            for s in reversed(range(t + 1)):
                self._fill(s, t)
        self.least_room = int(self.first_held[0, count - 1])

    def _slots_of(self, size: int) -> int:
        return (2 * size + self.unit) // (2 * self.unit)

    def _fill(self, s: int, t: int) -> None:
        row = self.held[s, t]
        row.fill(np.inf)
        self._keeping(row, s, t, loose=False)
        enough = self.enough[s, t] = self._enough(s, t)
        if s < min(t, self.furthest[s]):
            self._lower_by_halves(row, s, t, enough)
        if self.may_drop:
            self.loose[s, t].fill(np.inf)
        if self.may_drop and s:
            self._keeping(self.loose[s, t], s, t, loose=True)
        self.first_held[s, t] = np.isfinite(row).argmax() if np.isfinite(row[-1]) else self.slots + 1
        if s:
            later = self.split[t, s]
            offset = self.output[s - 1]
            later[:offset] = np.inf
            later[offset:] = row[: len(row) - offset]
            if self.may_drop:
                np.minimum(later, self.loose[s, t], out=later)
            later += self.before[s]
            self.first_split[t, s] = np.isfinite(later).argmax() if np.isfinite(later[-1]) else self.slots + 1

    def _enough(self, s: int, t: int) -> int:
        """A room in which all of s..t are kept by their fastest options: no half is faster than that."""
        least, kept, apart = self._needs(self.fastest[s], s, t, loose=False)
        room = least if s == t else max(least, kept + apart + int(self.enough[s + 1, t]))
        return min(room, self.slots + 1)

    def _lower_by_halves(self, row: np.ndarray, s: int, t: int, enough: int) -> None:
        """Lower `row` to what running s..j-1 twice takes, for the best j, where room is short."""
        end = min(t, self.furthest[s])
        anyway = np.maximum(self.first_split[t, s + 1 : end + 1], self.first_held[s, s:end])
        low = int(anyway.min())
        if low >= enough:
            return
        # One too many `before[s]` in each.
        shape = (end - s, int(enough) - low)
        halves = self.sums[: shape[0] * shape[1]].reshape(shape)
        np.add(self.split[t, s + 1 : end + 1, low:enough], self.held[s, s:end, low:enough], out=halves)
        needed = self.ahead[t] + self.rerun[s, s + 1 : end + 1]
        for place in np.flatnonzero(needed > anyway):  # seldom: a forward pass needs more than any backward
            halves[place, : max(needed[place] - low, 0)] = np.inf
        found = halves.min(axis=0)
        found -= self.before[s]
        np.minimum(row[low:enough], found, out=row[low:enough])

    def _keeping(self, row: np.ndarray, s: int, t: int, loose: bool) -> None:
        """Lower `row` to what keeping part s first takes."""
        for one in self.facts[s]:
            if loose and one.needs_input:
                continue
            least, kept, apart = self._needs(one, s, t, loose)
            if least > self.slots:
                continue
            if s == t:
                np.minimum(row[least:], one.seconds, out=row[least:])
                continue
            rest = self.held[s + 1, t, least - kept - apart : len(row) - kept - apart]
            np.minimum(row[least:], rest + one.seconds, out=row[least:])
            if self.may_drop and not one.keeps_output:
                rest = self.loose[s + 1, t, least - kept : len(row) - kept]
                np.minimum(row[least:], rest + one.seconds, out=row[least:])

    def _facts(self, s: int, option: Option) -> OptionFacts:
        """What `_needs` knows of an option whatever the stretch."""
        kept = self._slots_of(option.resident_bytes)
        apart = 0 if option.keeps_output else int(self.output[s])
        backward = int(self.ahead[s] + self.gradient[s - 1]) + kept + self._slots_of(option.backward_bytes)
        return OptionFacts(
            kept,
            apart,
            kept + apart + self._slots_of(option.forward_bytes),
            backward + self.left[s],
            option.forward_seconds + option.backward_seconds,
            option.needs_input,
            option.keeps_output,
        )

    def _needs(self, one: OptionFacts, s: int, t: int, loose: bool) -> tuple[int, int, int]:
        """Slots: the least room for keeping s by an option; what it keeps; its output, if that is apart."""
        forward = int(self.ahead[t]) + one.forward + (int(self.output[s - 1]) if loose else 0)
        return max(forward, one.backward), one.kept, one.apart

    def decide(self, stretch: Stretch) -> Keep | Split:
        """The fastest decision for a stretch."""
        s, t, room = stretch.first, stretch.last, stretch.room
        seconds, decision = min(self._choices(stretch), key=lambda choice: choice[0])
        end = min(t, self.furthest[s])
        if stretch.loose or s >= end:
            return decision
        halves = self.split[t, s + 1 : end + 1, room] + self.held[s, s:end, room]
        halves[self.ahead[t] + self.rerun[s, s + 1 : end + 1] > room] = np.inf
        j = s + 1 + int(halves.argmin())
        if halves[j - s - 1] - self.before[s] >= seconds:
            return decision
        apart = room - int(self.output[j - 1])
        held = self.held[j, t, apart] if apart >= 0 else np.inf
        loose = self.may_drop and self.loose[j, t, room] < held
        later = Stretch(room, j, t, loose=True) if loose else Stretch(apart, j, t)
        return Split(later=later, earlier=Stretch(room, s, j - 1))

    def _choices(self, stretch: Stretch) -> Iterator[tuple[float, Keep]]:
        """Seconds of keeping the first part by each option that fits; (inf, the first option) at the least."""
        s, t, room = stretch.first, stretch.last, stretch.room
        yield math.inf, Keep(0, None)
        for index, one in enumerate(self.facts[s]):
            if stretch.loose and one.needs_input:
                continue
            least, kept, apart = self._needs(one, s, t, stretch.loose)
            if least > room:
                continue
            if s == t:
                yield one.seconds, Keep(index, None)
                continue
            rest = Stretch(room - kept - apart, s + 1, t)
            yield one.seconds + float(self.held[s + 1, t, rest.room]), Keep(index, rest)
            if self.may_drop and not one.keeps_output:
                rest = Stretch(room - kept, s + 1, t, loose=True)
                yield one.seconds + float(self.loose[s + 1, t, rest.room]), Keep(index, rest)
