"""What no schedule of a chain can be below, part by part, and in words: why a budget is too small."""

from __future__ import annotations

from dataclasses import dataclass

from zoo.planner.graph import CostGraph, Option


@dataclass(frozen=True)
class Bound:
    """What must lie there at once while one part runs backward, whatever is done with all others.

    Args:
        part: its name.
        own_bytes: what it keeps by the option that needs least, its scratch, the gradients of its output and input.
        input_bytes: its input, where every option reads it again; the chain's own input is not counted.
        left_bytes: what backward passes have left by then, its own included: gradients of parameters.
    """

    part: str
    own_bytes: int
    input_bytes: int
    left_bytes: int

    @property
    def total_bytes(self) -> int:
        """All of it: no budget below is enough."""
        return self.own_bytes + self.input_bytes + self.left_bytes

    def __str__(self) -> str:
        listed = [f"{self.own_bytes:,} for the backward pass of {self.part!r} alone"]
        listed += [f"{self.input_bytes:,} for its input"] if self.input_bytes else []
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
    bounds = []
    for index, (part, after) in enumerate(zip(chain.parts, chain.left_after, strict=True)):
        before = chain.parts[index - 1] if index else None
        gradients = part.gradient_bytes + (before.gradient_bytes if before else chain.input_gradient_bytes)
        source = before.output_bytes if before else 0

        def needed(option: Option, source: int = source) -> tuple[int, int]:
            return option.resident_bytes + option.backward_bytes, source if option.needs_input else 0

        own, read = min((needed(option) for option in part.options), key=sum)
        bounds.append(Bound(part.name, own + gradients, read, after + part.left_bytes))
    return max(bounds, key=lambda bound: bound.total_bytes)
