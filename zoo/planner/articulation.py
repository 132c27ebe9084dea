"""Where a graph can be cut: single parts that everything passes through, and small sets of values alive at a moment.

Both are found in time linear in the graph's size and without recursion, because symbols have thousands of nodes.
Leave weights out of the graph: a part that only reads weights hangs on the side and cuts nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


def articulation_points(inputs: Sequence[Sequence[int]]) -> list[int]:
    """Nodes without which the graph falls apart, in ascending order; the direction of the edges does not matter.

    A single source or sink is none. On a network whose only source is its input, the part before and the part after
    such a node meet in it alone, so keeping its output separates them.

    Args:
        inputs: for each node, the nodes it reads.

    Source: Hopcroft and Tarjan, "Algorithm 447: efficient algorithms for graph manipulation" (1973).

    Example:
        >>> articulation_points([(), (0,), (0,), (1, 2), (3,)])  # a diamond with a tail
        [3]
    """
    neighbours = _neighbours(inputs)
    order = [-1] * len(inputs)  # when a node was first seen
    low = [0] * len(inputs)  # the earliest node that its subtree reaches by one edge back
    found: set[int] = set()
    clock = 0
    for root in range(len(inputs)):
        if order[root] >= 0:
            continue
        order[root] = low[root] = clock
        clock += 1
        subtrees = 0
        stack = [(root, -1, iter(neighbours[root]))]
        while stack:
            node, parent, rest = stack[-1]
            other = next(rest, None)
            if other is None:
                stack.pop()
                if parent >= 0:
                    low[parent] = min(low[parent], low[node])
                    if parent == root:
                        subtrees += 1
                    elif low[node] >= order[parent]:
                        found.add(parent)
            elif order[other] < 0:
                order[other] = low[other] = clock
                clock += 1
                stack.append((other, node, iter(neighbours[other])))
            elif other != parent:
                low[node] = min(low[node], order[other])
        if subtrees > 1:
            found.add(root)
    return sorted(found)


def _neighbours(inputs: Sequence[Sequence[int]]) -> list[set[int]]:
    neighbours: list[set[int]] = [set() for _ in inputs]
    for node, sources in enumerate(inputs):
        for source in sources:
            if source != node:
                neighbours[node].add(source)
                neighbours[source].add(node)
    return neighbours


@dataclass(frozen=True)
class CutSet:
    """What is alive between two moments of a run.

    Args:
        position: after this node has run, and before the next.
        nodes: those whose outputs are read later, in ascending order.
        bytes: of these outputs together.
    """

    position: int
    nodes: tuple[int, ...]
    bytes: int


def cut_sets(
    inputs: Sequence[Sequence[int]], output_bytes: Sequence[int], *, only_minima: bool = True, most_nodes: int = 64
) -> list[CutSet]:
    """What is alive after each node, where that is least: for a recurrent net, one set of states per time step.

    Keeping the outputs of a cut set separates everything before its position from everything after.

    Args:
        inputs: for each node, the nodes it reads, all of them earlier.
        output_bytes: of each node.
        only_minima: leave out positions beside which fewer bytes are alive.
        most_nodes: leave out sets of more.

    Raises:
        ValueError: a node that reads a later one.

    Example:
        >>> two_steps = [(), (0,), (0,), (1, 2), (3,), (3,), (4, 5)]
        >>> [cut.nodes for cut in cut_sets(two_steps, [4] * 7)]
        [(0,), (3,)]
    """
    last_read = [-1] * len(inputs)
    for node, sources in enumerate(inputs):
        for source in sources:
            if not 0 <= source < node:
                raise ValueError(
                    f"node {node} reads node {source}: order the nodes so that each reads only earlier ones"
                )
            last_read[source] = node
    alive_bytes = _alive_bytes(last_read, output_bytes)
    between = alive_bytes[:-1]  # after the last node nothing comes
    wanted = {place for place in range(len(between)) if not only_minima or _is_least_nearby(between, place)}
    found, alive = [], dict[int, None]()  # ordered, so that a set is read off in ascending order
    leaves: list[list[int]] = [[] for _ in inputs]
    for node, last in enumerate(last_read):
        if last >= 0:
            leaves[last].append(node)
    for position in range(len(inputs)):
        if last_read[position] >= 0:
            alive[position] = None
        for node in leaves[position]:
            del alive[node]
        if position in wanted and 0 < len(alive) <= most_nodes:
            found.append(CutSet(position, tuple(alive), alive_bytes[position]))
    return found


def _alive_bytes(last_read: Sequence[int], output_bytes: Sequence[int]) -> list[int]:
    """Bytes that are read later, after each node."""
    change = [0] * (len(last_read) + 1)
    for node, last in enumerate(last_read):
        if last >= 0:
            change[node] += output_bytes[node]
            change[last] -= output_bytes[node]
    alive, total = [], 0
    for node in range(len(last_read)):
        total += change[node]
        alive.append(total)
    return alive


def _is_least_nearby(alive: Sequence[int], position: int) -> bool:
    """Whether a position is a local minimum; of equal neighbours the first counts."""
    if position and alive[position - 1] <= alive[position]:
        return False
    after = position + 1
    while after < len(alive) and alive[after] == alive[position]:
        after += 1
    return after == len(alive) or alive[after] > alive[position]
