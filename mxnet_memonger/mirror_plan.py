"""A plan in MXNet's terms: which nodes are kept, which are kept through a copy, and what follows for all others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mxnet_memonger.numpy_names import mx
from mxnet_memonger.symbol_graph import Entry, SymbolGraph

COPY = "_copy"  # MXNet's name for identity; its backward reads nothing, and it works in place


@dataclass(frozen=True)
class Choice:
    """What a plan is changed by: nodes whose outputs are kept, and nodes kept as they would be without a plan."""

    outputs: frozenset[int]
    whole: frozenset[int] = frozenset()


@dataclass(frozen=True)
class MirrorPlan:
    """What is kept between the passes; whatever is not, and may run twice, is run again.

    Args:
        kept: nodes that keep their outputs, and all else that their backward reads, as unplanned nodes do.
        copied: nodes whose output alone is kept, through an identity behind them: they are run again themselves, so
            that what their backward reads is not held. Each has one output, which is no output of the network.
    """

    kept: frozenset[int]
    copied: frozenset[int] = frozenset()


@dataclass(frozen=True)
class PlanSpace:
    """One network, and what every plan of it follows from.

    Args:
        graph: with shapes.
        reads: for each node, what of its inputs and outputs its backward reads.
        copies: whether identities may be inserted; without, a node that is to be kept keeps its backward's inputs too.
    """

    graph: SymbolGraph
    reads: tuple[frozenset[Entry], ...]
    copies: bool = True

    @cached_property
    def consumers(self) -> list[list[int]]:
        """For each node, the nodes that read it."""
        return self.graph.consumers()

    @cached_property
    def operators(self) -> tuple[int, ...]:
        """Nodes that are no variables."""
        return tuple(node.index for node in self.graph.nodes if not node.is_variable)

    @cached_property
    def fixed(self) -> frozenset[int]:
        """Operators that must not run twice, and Dropout, which MXNet keeps whatever its mark says."""
        nodes = self.graph.nodes
        return frozenset(i for i in self.operators if not nodes[i].may_mirror or nodes[i].op == "Dropout")

    @cached_property
    def heads(self) -> frozenset[int]:
        """Nodes whose values are outputs of the network."""
        return frozenset(source for source, _ in self.graph.heads)

    @cached_property
    def everything_kept(self) -> MirrorPlan:
        """The unplanned network."""
        return MirrorPlan(frozenset(self.operators))

    def holds_inputs(self, index: int) -> bool:
        """Whether keeping this node keeps more than its own outputs."""
        return any(source != index for source, _ in self.reads[index])

    def can_copy(self, index: int) -> bool:
        """Whether an identity behind this node is possible."""
        node = self.graph.nodes[index]
        return self.copies and index not in self.fixed and len(node.shapes) == 1 and index not in self.heads

    @cached_property
    def copyable(self) -> frozenset[int]:
        """Nodes behind which an identity helps and is possible."""
        return frozenset(index for index in self.operators if self.holds_inputs(index) and self.can_copy(index))

    def keeping(self, outputs: frozenset[int], whole: frozenset[int] = frozenset()) -> MirrorPlan:
        """The plan that keeps the outputs of some nodes, and everything of others."""
        copied = (outputs - whole) & self.copyable
        return MirrorPlan((outputs | whole) - copied, copied)

    def mirrored(self, plan: MirrorPlan) -> frozenset[int]:
        """The nodes that run again: those not kept, less those whose second run nobody would read.

        A node that is not run again holds nothing if its backward reads only what is kept anyway, and if nothing that
        runs again reads it.
        """
        kept = plan.kept | self.fixed
        there = kept | plan.copied
        again: set[int] = set()
        for index in reversed(self.operators):
            if index in kept:
                continue
            read_again = index not in plan.copied and any(reader in again for reader in self.consumers[index])
            if read_again or any(source == index or source not in there for source, _ in self.reads[index]):
                again.add(index)
        return frozenset(again)

    def flops(self, plan: MirrorPlan) -> int:
        """Work that the backward pass does again."""
        return self.graph.recomputed_flops(self.mirrored(plan))

    def symbol(self, plan: MirrorPlan) -> Any:
        """The network with the plan's marks and identities."""
        return planned_symbol(self.graph, self.mirrored(plan), plan.copied)


def planned_symbol(graph: SymbolGraph, mirrored: frozenset[int], copied: frozenset[int]) -> Any:
    """The network with marks on `mirrored` and identities behind `copied`."""
    return mx.sym.load_json(planned_json(graph, mirrored, copied))


def planned_json(graph: SymbolGraph, mirrored: frozenset[int], copied: frozenset[int]) -> str:
    """`planned_symbol` in JSON form."""
    content = graph.content_with_mirrored(mirrored)
    return json.dumps(with_copies(content, copied) if copied else content)


def with_copies(content: Mapping[str, Any], copied: frozenset[int]) -> dict[str, Any]:
    """A Symbol's JSON form with an identity behind each of some nodes; everything that read the node reads it."""
    moved: dict[int, int] = {}  # where nodes are now
    behind: dict[int, int] = {}  # their identities
    raws: list[dict[str, Any]] = []
    for index, raw in enumerate(content["nodes"]):
        inputs = [_entry(entry, moved, behind) for entry in raw["inputs"]]
        changed = {**raw, "inputs": inputs}
        if "control_deps" in raw:
            changed["control_deps"] = [moved[source] for source in raw["control_deps"]]
        moved[index] = len(raws)
        raws.append(changed)
        if index in copied:
            behind[index] = len(raws)
            attributes = {key: value for key, value in raw.get("attrs", {}).items() if key.startswith("__ctx_group")}
            raws.append(
                {"op": COPY, "name": f"{raw['name']}_kept", "attrs": attributes, "inputs": [[moved[index], 0, 0]]}
            )
    return {
        **{key: value for key, value in content.items() if key != "node_row_ptr"},
        "nodes": raws,
        "arg_nodes": [moved[index] for index in content["arg_nodes"]],
        "heads": [[moved[head[0]], *head[1:]] for head in content["heads"]],
    }


def _entry(entry: list[int], moved: Mapping[int, int], behind: Mapping[int, int]) -> list[int]:
    source, output, *rest = entry
    return [behind.get(source, moved[source]) if output == 0 else moved[source], output, *rest]
