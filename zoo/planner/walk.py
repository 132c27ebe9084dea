"""From decisions on stretches of a chain to the operations of a step: one walk for every solver of chains."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from zoo.planner.schedule import Act, Operation


@dataclass(frozen=True)
class Stretch:
    """Parts first..last are to be run forward and backward in so much room.

    `loose` says that their input may be dropped after the first part's forward and is counted in the room; otherwise
    the input stays, and lies outside the room. Room is in the solver's own units.
    """

    room: int
    first: int
    last: int
    loose: bool = False


@dataclass(frozen=True)
class Keep:
    """Run the first part keeping what `option` keeps, then solve `rest` (None: the first part is the last)."""

    option: int
    rest: Stretch | None


@dataclass(frozen=True)
class Split:
    """Run up to the start of `later` keeping nothing but the input; solve `later`, then `earlier` from the input."""

    later: Stretch
    earlier: Stretch


def walk(whole: Stretch, decide: Callable[[Stretch], Keep | Split]) -> Iterator[Operation]:
    """The operations that carry out what `decide` says about `whole` and every stretch it makes of it."""
    stack: list[Stretch | Operation] = [whole]
    while stack:
        item = stack.pop()
        if isinstance(item, Operation):
            yield item
            continue
        decision = decide(item)
        if isinstance(decision, Keep):
            yield Operation(
                Act.FORWARD_KEEP_ALL,
                item.first,
                decision.option,
                frees_input=item.loose,
                frees_output=decision.rest is None,
            )
            stack.append(Operation(Act.BACKWARD, item.first))
            if decision.rest is not None:
                stack.append(decision.rest)
        else:
            yield Operation(Act.FORWARD_KEEP_INPUT, item.first)
            for part in range(item.first + 1, decision.later.first):
                yield Operation(Act.FORWARD_DISCARD, part)
            stack += [decision.earlier, decision.later]
