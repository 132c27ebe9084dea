"""The cost graph: what each part of a network may keep for its backward pass, in bytes and seconds; no framework.

A part is a stretch of the network that is run as one (a block, a node of a symbol). An option is one way to run it so
that its backward pass is possible: keep everything, keep codes, keep one tensor a convolution. A graph is parts in an
order in which they can be run. Seconds may be any unit of work that adds up, such as FLOPs.
"""

from __future__ import annotations

import itertools
import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Option:
    """One way to run a part forward so that it can be run backward.

    Args:
        kind: its name, such as "keep", "efficient", "4 bits".
        resident_bytes: what stays from its forward until its backward, its input not counted.
        forward_seconds, backward_seconds: what it takes.
        forward_bytes, backward_bytes: what is allocated only while it runs, beside its input, its output, its resident
            bytes and (backward) the gradients of its output and input and what the part leaves; backward, less than 0
            where not all of that lies there at one moment.
        keeps_output: whether the part's output is among the resident bytes.
        needs_input: whether its backward reads the part's input again; False = what it needs of it is resident.
        noise: variance that it adds to the gradient, in any unit that adds up; 0 = exact.
        reruns: whether a part that runs again may be kept by it then; if not, the part's first option takes its place.

    Raises:
        TypeError, ValueError: naming the field, what came and what is needed.
    """

    kind: str
    resident_bytes: int
    forward_seconds: float
    backward_seconds: float
    forward_bytes: int = 0
    backward_bytes: int = 0
    keeps_output: bool = True
    needs_input: bool = True
    noise: float = 0.0
    reruns: bool = True

    def __post_init__(self) -> None:
        where = f"option {self.kind!r}"
        for name in ("resident_bytes", "forward_bytes"):
            check_bytes(f"{where}: {name}", getattr(self, name))
        check_bytes(f"{where}: backward_bytes", abs(self.backward_bytes))
        for name in ("forward_seconds", "backward_seconds", "noise"):
            check_amount(f"{where}: {name}", getattr(self, name))


@dataclass(frozen=True)
class Part:
    """A stretch of a network with its options.

    Args:
        name: what people call it.
        output_bytes: of its output.
        options: at least one.
        gradient_bytes: of the gradient of its output; None = as many as the output.
        inputs: which earlier parts' outputs it reads, by their place in the graph; () = the graph's own input.
        left_bytes: what its backward leaves lying until the end of the step, such as its parameters' gradients.
        reruns: whether its forward may be run a second time.
        joins: whether it may be run a second time together with the part before, from that part's input.
        held_until: the place of the last part before whose end, in the forward pass, somebody lets go of this part's
            output, though no part may need it; 0 = nobody holds it. Schedules are replayed with it; the chain solver
            knows nothing of it but what a replay says.

    Raises:
        TypeError, ValueError: naming the part and the field, what came and what is needed.

    Example:
        >>> part = Part("block1", 100, (Option("keep", 300, 1.0, 2.0), Option("efficient", 120, 1.0, 2.5)))
        >>> part.gradient_bytes, part.rerun.kind
        (100, 'keep')
    """

    name: str
    output_bytes: int
    options: tuple[Option, ...]
    gradient_bytes: int = field(default=None)  # type: ignore[assignment]
    inputs: tuple[int, ...] = ()
    left_bytes: int = 0
    reruns: bool = True
    joins: bool = True
    held_until: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", tuple(self.options))
        object.__setattr__(self, "inputs", tuple(self.inputs))
        if self.gradient_bytes is None:
            object.__setattr__(self, "gradient_bytes", self.output_bytes)
        check_bytes(f"part {self.name!r}: output_bytes", self.output_bytes)
        check_bytes(f"part {self.name!r}: gradient_bytes", self.gradient_bytes)
        check_bytes(f"part {self.name!r}: left_bytes", self.left_bytes)
        if not self.options:
            raise ValueError(f"part {self.name!r} has no options: give at least one way to run it")
        for option in self.options:
            if option.keeps_output and option.resident_bytes < self.output_bytes:
                raise ValueError(
                    f"part {self.name!r}, option {option.kind!r}: resident_bytes={option.resident_bytes} is less than "
                    f"its output of {self.output_bytes} bytes: count the output, or say keeps_output=False"
                )

    @property
    def rerun(self) -> Option:
        """The option whose forward is the cheapest: how the part runs when nothing of it is to be kept."""
        return min(self.options, key=lambda option: (option.forward_seconds, option.forward_bytes))


@dataclass(frozen=True)
class CostGraph:
    """Parts in an order in which they can be run.

    Args:
        parts: each reads only earlier ones.
        input_gradient_bytes: of the gradient of the graph's input; 0 = it needs none.

    Raises:
        ValueError: an input that does not come earlier; names the part.

    Example:
        >>> keep = Option("keep", 4, 1.0, 2.0)
        >>> CostGraph.chain([Part("first", 4, (keep,)), Part("second", 4, (keep,))]).parts[1].inputs
        (0,)
    """

    parts: tuple[Part, ...]
    input_gradient_bytes: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", tuple(self.parts))
        check_bytes("input_gradient_bytes", self.input_gradient_bytes)
        for index, part in enumerate(self.parts):
            for source in part.inputs:
                if not 0 <= source < index:
                    raise ValueError(
                        f"part {part.name!r} is number {index} and reads number {source}: "
                        "order the parts so that each reads only earlier ones"
                    )

    @classmethod
    def chain(cls, parts: Sequence[Part], input_gradient_bytes: int = 0) -> CostGraph:
        """Parts each of which reads the one before it, whatever their `inputs` say."""
        linked = (replace(part, inputs=(i - 1,) if i else ()) for i, part in enumerate(parts))
        return cls(tuple(linked), input_gradient_bytes)

    @property
    def left_after(self) -> tuple[int, ...]:
        """For each part, the bytes that the backward passes of all later parts leave lying."""
        later = itertools.accumulate((part.left_bytes for part in reversed(self.parts)), initial=0)
        return tuple(later)[-2::-1]

    @property
    def furthest_rerun(self) -> tuple[int, ...]:
        """For each part, where a stretch that is run again from that part's input must end at the latest (exclusive);
        its own place if it cannot be run again."""
        ends: list[int] = []
        for index in reversed(range(len(self.parts))):
            goes_on = bool(ends) and self.parts[index + 1].joins
            end = index + 1 if not goes_on else max(ends[-1], index + 1)
            ends.append(end if self.parts[index].reruns else index)
        return tuple(reversed(ends))

    @property
    def is_chain(self) -> bool:
        """Whether each part reads the one before it and nothing else."""
        return all(part.inputs == ((i - 1,) if i else ()) for i, part in enumerate(self.parts))


def check_bytes(name: str, value: object) -> None:
    """Raise unless `value` is an integer of at least 0; `name` says where it came from."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be a whole number of bytes, not {value!r}")
    if value < 0:
        raise ValueError(f"{name} must be at least 0, not {value}")


def check_amount(name: str, value: object) -> None:
    """Raise unless `value` is a finite number of at least 0; `name` says where it came from."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, not {value!r}")
    if not 0 <= float(value) < math.inf:
        raise ValueError(f"{name} must be finite and at least 0, not {value}")
