"""A schedule: the operations of one training step on a chain, one after the other, and what they cost when replayed."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass

from zoo.planner.graph import CostGraph, Part


class Act(enum.Enum):
    """What an operation does with one part."""

    FORWARD_KEEP_ALL = "forward, keep all"  # what the option keeps stays; the part's backward can follow
    FORWARD_KEEP_INPUT = "forward, keep input"  # the output is new, the input stays for another run
    FORWARD_DISCARD = "forward, discard"  # the output replaces the input
    BACKWARD = "backward"


@dataclass(frozen=True)
class Operation:
    """One run of one part.

    Args:
        act: what is done.
        part: its place in the chain.
        option: which of the part's options, for FORWARD_KEEP_ALL; its BACKWARD uses the same.
        frees_input: FORWARD_KEEP_ALL only: the input is dropped afterwards (the option does not need it).
        frees_output: FORWARD_KEEP_ALL only: the output is dropped at once, where the option does not keep it: its
            backward follows, or nothing reads it again.
    """

    act: Act
    part: int
    option: int = 0
    frees_input: bool = False
    frees_output: bool = False

    def __str__(self) -> str:
        option = f" (option {self.option})" if self.act is Act.FORWARD_KEEP_ALL else ""
        return f"{self.act.value} {self.part}{option}"


@dataclass(frozen=True)
class Schedule:
    """Operations of one step, and what they cost by `replay`.

    Args:
        operations: in order.
        peak_bytes: the most that lies there at one moment, the chain's input not counted, what backward passes leave
            (`Part.left_bytes`) counted.
        seconds: of all of them.
    """

    operations: tuple[Operation, ...]
    peak_bytes: int
    seconds: float

    @classmethod
    def of(cls, chain: CostGraph, operations: Iterable[Operation]) -> Schedule:
        """The operations with their replayed cost.

        Raises:
            ValueError: as `replay`.
        """
        listed = tuple(operations)
        peak_bytes, seconds = replay(chain, listed)
        return cls(listed, peak_bytes, seconds)

    def options(self) -> dict[int, int]:
        """The option each part's backward uses, by the part's place."""
        return {step.part: step.option for step in self.operations if step.act is Act.FORWARD_KEEP_ALL}


def replay(chain: CostGraph, operations: Iterable[Operation]) -> tuple[int, float]:
    """Peak bytes and seconds of a step, found by doing what the operations say with sizes instead of tensors.

    The chain's input is held by the caller and not counted; the gradient of the chain's output is counted from the
    start. It knows nothing of how the operations were found.

    Raises:
        ValueError: an operation whose input, kept values or gradient are not there, or parts left without a backward.

    Example:
        >>> from zoo.planner import Option
        >>> chain = CostGraph.chain([Part("only", 4, (Option("keep", 10, 1.0, 2.0),))])
        >>> replay(chain, [Operation(Act.FORWARD_KEEP_ALL, 0), Operation(Act.BACKWARD, 0)])
        (14, 3.0)
    """
    player = _Player(chain)
    for number, operation in enumerate(operations):
        problem = player.play(operation)
        if problem:
            raise ValueError(f"operation {number}, {operation}: {problem}")
    if player.gradient != -1:
        raise ValueError(f"the schedule ends before the backward of part {player.gradient}")
    return player.peak, player.seconds


class _Player:
    """What lies in memory while a schedule is replayed. Value i is part i's output, value -1 the chain's input."""

    def __init__(self, chain: CostGraph) -> None:
        self.chain = chain
        self.values: dict[int, int] = {-1: 0}
        self.waiting: dict[int, int] = {}  # dropped values that somebody holds still in the forward pass -> their bytes
        self.has_turned = False  # the first backward has run
        self.kept: dict[int, int] = {}  # part -> the option whose resident bytes lie there
        self.gradient = len(chain.parts) - 1  # the part whose output's gradient is known
        self.held = chain.parts[-1].gradient_bytes if chain.parts else 0
        self.peak, self.seconds = self.held, 0.0

    def play(self, operation: Operation) -> str | None:
        """Do one operation; what forbids it, or None."""
        index = operation.part
        if not 0 <= index < len(self.chain.parts):
            return f"the chain has {len(self.chain.parts)} parts"
        part = self.chain.parts[index]
        if operation.act is Act.BACKWARD:
            return self._backward(index, part)
        if not self._has_value(index - 1):
            return "its input is not there"
        if operation.act is Act.FORWARD_KEEP_ALL:
            return self._keep_all(operation, part)
        if operation.act is Act.FORWARD_DISCARD and index - 1 not in self.values:
            return "its input belongs to the part before and cannot be dropped"
        if index in self.values:
            return "its output is there already"
        if not part.reruns:
            return f"part {part.name!r} cannot be run again"
        if operation.act is Act.FORWARD_DISCARD and not part.joins:
            return f"part {part.name!r} cannot be run again together with the part before"
        self._touch(part.output_bytes + part.rerun.forward_bytes)
        self.seconds += part.rerun.forward_seconds
        self._add_value(index)
        if operation.act is Act.FORWARD_DISCARD:
            self._drop_value(index - 1, index)
        self._let_go(index)
        return None

    def _keep_all(self, operation: Operation, part: Part) -> str | None:
        index = operation.part
        if not 0 <= operation.option < len(part.options):
            return f"part {part.name!r} has {len(part.options)} options"
        if index in self.kept:
            return "it is kept already"
        option = part.options[operation.option]
        if operation.frees_input and option.needs_input:
            return f"option {option.kind!r} needs its input in the backward"
        loose = 0 if option.keeps_output or index in self.values else part.output_bytes
        self._touch(option.resident_bytes + loose + option.forward_bytes)
        self.seconds += option.forward_seconds
        self.kept[index] = operation.option
        self.held += option.resident_bytes
        if not option.keeps_output and not operation.frees_output and index not in self.values:
            self._add_value(index)
        if operation.frees_input:
            self._drop_value(index - 1, index)
        self._let_go(index)
        return None

    def _backward(self, index: int, part: Part) -> str | None:
        if self.gradient != index:
            return f"the gradient that is known is that of part {self.gradient}'s output"
        if index not in self.kept:
            return "nothing of it is kept"
        option = part.options[self.kept[index]]
        if option.needs_input and not self._has_value(index - 1):
            return "its input is not there"
        self._let_go(len(self.chain.parts))
        self.has_turned = True
        before = self.chain.parts[index - 1].gradient_bytes if index else self.chain.input_gradient_bytes
        self._touch(before + option.backward_bytes + part.left_bytes)
        self.seconds += option.backward_seconds
        del self.kept[index]
        self.held += before - part.gradient_bytes - option.resident_bytes + part.left_bytes
        self._drop_value(index)
        if index:
            self._drop_value(index - 1)
        self.gradient -= 1
        return None

    def _has_value(self, index: int) -> bool:
        in_kept = index in self.kept and self.chain.parts[index].options[self.kept[index]].keeps_output
        return in_kept or index in self.values

    def _add_value(self, index: int) -> None:
        self.values[index] = self.chain.parts[index].output_bytes
        self.held += self.values[index]

    def _drop_value(self, index: int, running: int = 0) -> None:
        """Drop a value; what somebody still holds when part `running` has run stays until then."""
        if index < 0 or index not in self.values:
            return
        size = self.values.pop(index)
        if not self.has_turned and self.chain.parts[index].held_until > running > 0:
            self.waiting[index] = size
        else:
            self.held -= size

    def _let_go(self, index: int) -> None:
        """Drop what nobody holds once part `index` has run."""
        for value in [value for value in self.waiting if self.chain.parts[value].held_until <= index]:
            self.held -= self.waiting.pop(value)

    def _touch(self, transient: int) -> None:
        self.peak = max(self.peak, self.held + transient)
