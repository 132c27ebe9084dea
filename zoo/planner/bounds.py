"""What no schedule of a chain can be below, part by part, and in words: why a budget is too small."""

from __future__ import annotations

from dataclasses import dataclass

from zoo.planner.graph import CostGraph, Part


@dataclass(frozen=True)
class Bound:
    """What must lie there at once while one part runs, whatever is done with all others.

    Args:
        part: its name.
        way: "backward", or "forward", the run that keeps what that needs.
        own_bytes: what it keeps by the option that needs least, its scratch, the gradients of its output and input; or
            forward, what it makes at the least.
        input_bytes: its input, where it must be there and no part before keeps it; the chain's own is not counted.
        kept_bytes: of the parts before that cannot run again, and keep what they need until their own backward pass.
        left_bytes: what backward passes have left by then, its own included: gradients of parameters.
    """

    part: str
    way: str
    own_bytes: int
    input_bytes: int
    kept_bytes: int
    left_bytes: int

    @property
    def total_bytes(self) -> int:
        """All of it: no budget below is enough."""
        return self.own_bytes + self.input_bytes + self.kept_bytes + self.left_bytes

    def __str__(self) -> str:
        listed = [f"{self.own_bytes:,} for the {self.way} pass of {self.part!r} alone"]
        listed += [f"{self.input_bytes:,} for its input"] if self.input_bytes else []
        listed += [f"{self.kept_bytes:,} of parts before it that can only be kept"] if self.kept_bytes else []
        listed += [f"{self.left_bytes:,} of parameters' gradients that lie there by then"] if self.left_bytes else []
        return f"whatever is done, {self.total_bytes:,} bytes are predicted to be needed: {', '.join(listed)}"


def lower_bound(chain: CostGraph) -> Bound:
    """The largest of all parts' bounds.

    Raises:
        ValueError: the graph is not a chain of at least one part.

    Example:
        >>> from zoo.planner import Option, Part
        >>> parts = [Part(str(i), 4, (Option("keep", 10, 1.0, 2.0),), left_bytes=3) for i in range(4)]
        >>> lower_bound(CostGraph.chain(parts)).total_bytes  # of part 1: 10 and two gradients, its input, 3 * 3
        31
    """
    if not chain.is_chain or not chain.parts:
        raise ValueError("the graph is not a chain of at least one part: there is no bound for it")
    bounds, kept = [], 0
    for index, (part, after) in enumerate(zip(chain.parts, chain.left_after, strict=True)):
        before = chain.parts[index - 1] if index else None
        bounds += [_backward(chain, part, before, kept, after), _forward(part, before, kept)]
        if before is not None:
            kept += sum(_source(before, needed=False))
    return max(bounds, key=lambda bound: bound.total_bytes)


def _backward(chain: CostGraph, part: Part, before: Part | None, kept: int, after: int) -> Bound:
    gradients = part.gradient_bytes + (before.gradient_bytes if before else chain.input_gradient_bytes)
    needs = [(o.resident_bytes + o.backward_bytes, *_source(before, o.needs_input)) for o in part.options]
    own, read, held = min(needs, key=sum)
    return Bound(part.name, "backward", own + gradients, read, kept + held, after + part.left_bytes)


def _forward(part: Part, before: Part | None, kept: int) -> Bound:
    read, held = _source(before, needed=True)
    made = [o.resident_bytes + o.forward_bytes + (0 if o.keeps_output else part.output_bytes) for o in part.options]
    return Bound(part.name, "forward", min(made), read, kept + held, 0)


def _source(before: Part | None, needed: bool) -> tuple[int, int]:
    """Bytes of the output of the part before, where that is needed and nobody keeps it; and what it keeps for good."""
    if before is None:
        return 0, 0
    if before.reruns:
        return (before.output_bytes if needed else 0), 0
    ways = [
        (before.output_bytes if needed and not option.keeps_output else 0, option.resident_bytes)
        for option in before.options
    ]
    return min(ways, key=sum)
