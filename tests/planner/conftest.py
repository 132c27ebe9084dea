"""Oracles for the planner's tests: every order of operations of a small chain is tried; nothing in common with it."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest

from zoo.planner import CostGraph, Option, Part


@dataclass(frozen=True, order=True)
class State:
    """What lies in memory: separate values, kept parts with their options, the loose newest value, known gradient."""

    values: frozenset[int]
    kept: tuple[tuple[int, int], ...]
    newest: int | None  # a value that may still be dropped, because nobody has decided to keep it yet
    gradient: int


def search(chain: CostGraph, budget_bytes: int) -> float:
    """Least seconds among schedules that keep what they decided to keep until its backward; inf where none fits.

    Dijkstra's search over states; a value is loose when it was just computed, and can be dropped only then.
    """
    count = len(chain.parts)
    start = State(frozenset(), (), None, count - 1)
    ticket = itertools.count()
    queue: list[tuple[float, int, State]] = [(0.0, next(ticket), start)]
    done: set[State] = set()
    while queue:
        seconds, _, state = heapq.heappop(queue)
        if state in done:
            continue
        done.add(state)
        if state.gradient == -1:
            return seconds
        for more, peak, after in moves(chain, state):
            if peak <= budget_bytes and after not in done:
                heapq.heappush(queue, (seconds + more, next(ticket), after))
    return float("inf")


def held_bytes(chain: CostGraph, state: State) -> int:
    """Bytes of everything in memory, the chain's input not counted."""
    parts = chain.parts
    gradient = parts[state.gradient].gradient_bytes if state.gradient >= 0 else chain.input_gradient_bytes
    values = sum(parts[v].output_bytes for v in state.values)
    values += parts[state.newest].output_bytes if state.newest is not None else 0
    values += sum(part.left_bytes for part in parts[state.gradient + 1 :])
    return gradient + values + sum(parts[p].options[o].resident_bytes for p, o in state.kept)


def moves(chain: CostGraph, state: State) -> Iterator[tuple[float, int, State]]:
    """(seconds, peak bytes, state after) of every operation that is possible."""
    parts, held, kept = chain.parts, held_bytes(chain, state), dict(state.kept)
    if state.newest is not None:
        yield 0.0, held, State(state.values | {state.newest}, state.kept, None, state.gradient)
    sources = {-1, *state.values, *(p for p, o in kept.items() if parts[p].options[o].keeps_output)}
    if state.newest is not None:
        sources = {state.newest}  # either go on from it or keep it first
    for source in sources:
        index = source + 1
        if index > state.gradient or index in sources or index in kept:
            continue
        part, loose = parts[index], source == state.newest
        run = part.rerun
        if index < state.gradient and part.reruns and (part.joins or not loose):
            peak = held + part.output_bytes + run.forward_bytes
            yield run.forward_seconds, peak, State(state.values, state.kept, index, state.gradient)
        for number, option in enumerate(part.options):
            if loose and option.needs_input:
                continue
            apart = 0 if option.keeps_output else part.output_bytes
            peak = held + option.resident_bytes + apart + option.forward_bytes
            newest = index if not option.keeps_output and index < state.gradient else None
            more = (*state.kept, (index, number))
            yield option.forward_seconds, peak, State(state.values, tuple(sorted(more)), newest, state.gradient)
    if state.newest is None and state.gradient in kept:
        index, number = state.gradient, kept[state.gradient]
        option = parts[index].options[number]
        if option.needs_input and index - 1 not in sources:
            return
        before = parts[index - 1].gradient_bytes if index else chain.input_gradient_bytes
        left = tuple((p, o) for p, o in state.kept if p != index)
        after = State(state.values - {index, index - 1}, left, None, index - 1)
        yield option.backward_seconds, held + before + option.backward_bytes + parts[index].left_bytes, after


@pytest.fixture(scope="session")
def fastest_seconds() -> Callable[[CostGraph, int], float]:
    """Least seconds of a small chain under a budget, by brute force."""
    return search


@pytest.fixture(scope="session")
def random_chain() -> Callable[..., CostGraph]:
    """random_chain(seed, parts, options, drop=False, rigid=False): small whole sizes; `drop` = some options need no
    input; `rigid` = some parts leave bytes, cannot be run again, or not together with the part before."""

    def made(seed: int, parts: int, options: int, drop: bool = False, rigid: bool = False) -> CostGraph:
        rng = np.random.default_rng(seed)
        listed = []
        for index in range(parts):
            output = int(rng.integers(1, 6))
            made_of = tuple(option(rng, output, drop) for _ in range(options))
            listed.append(Part(f"part {index}", output, made_of))
            if rigid:
                left, reruns, joins = int(rng.integers(0, 5)), bool(rng.integers(4)), bool(rng.integers(3))
                early = min(left, output) * int(rng.integers(2))  # what it keeps goes before that comes
                made_of = tuple(replace(one, backward_bytes=one.backward_bytes - early) for one in made_of)
                listed[-1] = Part(f"part {index}", output, made_of, left_bytes=left, reruns=reruns, joins=joins)
        return CostGraph.chain(listed, input_gradient_bytes=int(rng.integers(0, 4)))

    def option(rng: np.random.Generator, output: int, drop: bool) -> Option:
        loose = drop and bool(rng.integers(2))
        resident = int(rng.integers(1, 12)) + (0 if loose else output)
        extra_forward, extra_backward = (int(extra) for extra in rng.choice([0, 1, 2, 4, 20], size=2))
        forward, backward = (float(seconds) for seconds in rng.integers(1, 9, size=2))
        return Option("kept", resident, forward, backward, extra_forward, extra_backward, not loose, not loose)

    return made
