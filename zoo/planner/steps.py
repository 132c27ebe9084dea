"""What a schedule asks a framework to do in one forward pass: parts that run, and stretches that will run again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import TypeAlias

from zoo.planner.graph import CostGraph
from zoo.planner.schedule import Act, Operation

# A part's place, or steps that are run keeping their input alone, and once more, in this way, in the backward pass.
Steps: TypeAlias = "tuple[int | Steps, ...]"


def nested_steps(operations: Iterable[Operation]) -> Steps:
    """The forward pass of a chain's schedule.

    A number is a part that runs keeping what its option keeps. A tuple is a stretch that runs keeping only its input;
    when its backward pass comes, the steps inside are run.

    Example:
        >>> from zoo.planner import CostGraph, Option, Part, solve_chain
        >>> parts = [Part(str(i), 4, (Option("keep", 10, 1.0, 2.0),)) for i in range(4)]
        >>> nested_steps(solve_chain(CostGraph.chain(parts), 26).operations)
        ((0,), ((1,), 2), 3)
    """
    top: list[object] = []
    current = top
    waiting: dict[int, list[object]] = {}  # stretches that are still to be run again, by their first part
    for operation in operations:
        part = operation.part
        if operation.act is Act.BACKWARD:
            continue
        if part in waiting and operation.act is not Act.FORWARD_DISCARD:
            current = waiting.pop(part)
        if operation.act is Act.FORWARD_KEEP_ALL:
            current.append(part)
        elif operation.act is Act.FORWARD_KEEP_INPUT:
            waiting[part] = []
            current.append(waiting[part])
    return _frozen(top)


def parts_of(steps: Steps) -> list[int]:
    """Every part in the steps, in order."""
    found: list[int] = []
    for step in steps:
        found += [step] if isinstance(step, int) else parts_of(step)
    return found


def runs_of(steps: Steps, forward_runs: int = 1) -> dict[int, int]:
    """How often each part runs forward in one training step.

    Example:
        >>> runs_of(((0, (1, 2)), 3))
        {0: 2, 1: 3, 2: 3, 3: 1}
    """
    runs: dict[int, int] = {}
    for step in steps:
        runs |= {step: forward_runs} if isinstance(step, int) else runs_of(step, forward_runs + 1)
    return runs


def _frozen(steps: object) -> Steps:
    if not isinstance(steps, list):
        return steps  # type: ignore[return-value]
    return tuple(_frozen(step) for step in steps)


def operations_of(steps: Steps, graph: CostGraph, options: Mapping[int, int] = MappingProxyType({})) -> list[Operation]:
    """The schedule that steps on a chain stand for; each part by its option in `options`, else by its first.

    What a part does not need again is dropped, but for the input of a stretch that runs again.

    Example:
        >>> from zoo.planner.graph import Option, Part
        >>> chain = CostGraph.chain([Part(str(i), 4, (Option("keep", 10, 1.0, 2.0),)) for i in range(2)])
        >>> [str(operation) for operation in operations_of(((0,), 1), chain)][:2]
        ['forward, keep input 0', 'forward, keep all 1 (option 0)']
    """
    found: list[Operation] = []
    waiting: list[tuple[Steps, bool] | Operation] = [(steps, False)]
    last = len(graph.parts) - 1
    while waiting:
        item = waiting.pop()
        if isinstance(item, Operation):
            found.append(item)
            continue
        listed, is_rerun = item
        if not listed:
            continue
        first, rest = listed[0], listed[1:]
        if isinstance(first, int):
            option = options.get(first, 0)
            drops = not is_rerun and not graph.parts[first].options[option].needs_input
            frees = not rest or first == last
            found.append(Operation(Act.FORWARD_KEEP_ALL, first, option, frees_input=drops, frees_output=frees))
            waiting += [Operation(Act.BACKWARD, first), (rest, False)]
        else:
            again = parts_of(first)
            found.append(Operation(Act.FORWARD_KEEP_INPUT, again[0]))
            found += [Operation(Act.FORWARD_DISCARD, part) for part in again[1:]]
            waiting += [(first, True), (rest, False)]
    return found
