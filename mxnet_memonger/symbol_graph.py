"""A Symbol as plain values: nodes with shapes, work and what their backward passes read; and back to a Symbol."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mxnet_memonger.numpy_names import mx
from mxnet_memonger.operators import forward_flops, is_matrix_work, may_run_twice

Entry = tuple[int, int]  # a node's place in the graph and which of its outputs
MIRROR, STAGE = "__force_mirroring__", "__mirror_stage__"  # as MXNet stores force_mirroring and mirror_stage
BYTES_A_VALUE = 4  # what MXNet's planner counts, whatever the type
_UNITS = frozenset({"1", "True", "true"})


@dataclass(frozen=True)
class GraphNode:
    """One operator of a Symbol, or one of its variables.

    Args:
        index: its place in topological order.
        name, op: op is "" for a variable.
        attributes: operator settings and hints, as text.
        inputs: what it reads.
        shapes: of its visible outputs; empty if they were not asked for.
        flops: of one forward run.
    """

    index: int
    name: str
    op: str
    attributes: Mapping[str, str]
    inputs: tuple[Entry, ...]
    shapes: tuple[tuple[int, ...], ...] = ()
    flops: int = 0

    @property
    def is_variable(self) -> bool:
        """Whether it is an input, a parameter or an auxiliary state."""
        return not self.op

    @property
    def output_bytes(self) -> int:
        """Of all its visible outputs, four bytes a value."""
        return BYTES_A_VALUE * sum(math.prod(shape) for shape in self.shapes)

    @property
    def may_mirror(self) -> bool:
        """Whether it can be run again in the backward pass; False for variables and for what draws random numbers.

        Also for what reads nothing (zeros): its shape may follow from its readers alone, and its mirror has none.
        """
        return bool(self.inputs) and may_run_twice(self.op, self.attributes)

    @property
    def stage(self) -> str | None:
        """The user's `mirror_stage` mark, if there is one."""
        return self.attributes.get(STAGE)


@dataclass(frozen=True)
class SymbolGraph:
    """A Symbol's nodes in topological order, and its JSON form, from which changed Symbols are made.

    Args:
        nodes: every one, variables too.
        heads: the Symbol's outputs.
        template: the Symbol's JSON form, parsed; never changed.
    """

    nodes: tuple[GraphNode, ...]
    heads: tuple[Entry, ...]
    template: Mapping[str, Any]

    @classmethod
    def of(cls, sym: Any, shapes: Mapping[str, tuple[int, ...]] | None = None) -> SymbolGraph:
        """Read a Symbol; with the inputs' shapes, also every node's shapes and work.

        Example:
            >>> graph = SymbolGraph.of(mx.sym.FullyConnected(mx.sym.Variable("data"), num_hidden=3, name="fc"))
            >>> [node.name for node in graph.nodes]
            ['data', 'fc_weight', 'fc_bias', 'fc']
        """
        internals = sym.get_internals()
        template = json.loads(sym.tojson())
        entries: dict[Entry, tuple[int, ...]] = {}
        if shapes is not None:
            found = internals.infer_shape(**shapes)[1]
            heads = json.loads(internals.tojson())["heads"]
            entries = {(head[0], head[1]): tuple(shape) for head, shape in zip(heads, found, strict=True)}
        nodes: list[GraphNode] = []
        of_node: dict[int, list[tuple[int, ...]]] = {}
        for (index, _), shape in sorted(entries.items()):
            of_node.setdefault(index, []).append(shape)
        for index, raw in enumerate(template["nodes"]):
            op = "" if raw["op"] == "null" else raw["op"]
            inputs = tuple((entry[0], entry[1]) for entry in raw["inputs"])
            attributes = raw.get("attrs", {})
            own = tuple(of_node.get(index, ()))
            read = [entries[entry] for entry in inputs if entry in entries]
            known = bool(op) and bool(entries) and len(read) == len(inputs)
            flops = forward_flops(op, attributes, read, own) if known else 0
            nodes.append(GraphNode(index, raw["name"], op, attributes, inputs, own, flops))
        return cls(tuple(nodes), tuple((head[0], head[1]) for head in template["heads"]), template)

    def with_mirrored(self, mirrored: Collection[int]) -> Any:
        """The Symbol with exactly these nodes marked to be run again; marks it had are gone."""
        return mx.sym.load_json(self.json_with_mirrored(mirrored))

    def json_with_mirrored(self, mirrored: Collection[int]) -> str:
        """`with_mirrored` in JSON form."""
        return json.dumps(self.content_with_mirrored(mirrored))

    def content_with_mirrored(self, mirrored: Collection[int]) -> dict[str, Any]:
        """`json_with_mirrored`, not yet text."""
        chosen = frozenset(mirrored)
        raws = []
        for index, raw in enumerate(self.template["nodes"]):
            attributes = {key: value for key, value in raw.get("attrs", {}).items() if key != MIRROR}
            if index in chosen:
                attributes[MIRROR] = "True"
            rest = {key: value for key, value in raw.items() if key != "attrs"}
            raws.append({**rest, "attrs": attributes} if attributes else rest)
        return {**self.template, "nodes": raws}

    def mirrored(self) -> frozenset[int]:
        """Nodes that the Symbol's own marks say are run again."""
        return frozenset(node.index for node in self.nodes if node.attributes.get(MIRROR) in _UNITS)

    def consumers(self) -> list[list[int]]:
        """For each node, the nodes that read one of its outputs."""
        readers: list[list[int]] = [[] for _ in self.nodes]
        for node in self.nodes:
            for source in dict.fromkeys(index for index, _ in node.inputs):
                readers[source].append(node.index)
        return readers

    def recomputed_flops(self, mirrored: Iterable[int]) -> int:
        """Work of running these nodes once more: all of them run, whether their values are read or not."""
        return sum(self.nodes[index].flops for index in mirrored)

    def matrix_share(self, mirrored: Collection[int]) -> float:
        """Which share of the convolutions and matrix products is run again, 0 to 1, by number."""
        heavy = [node.index for node in self.nodes if is_matrix_work(node.op)]
        return sum(index in mirrored for index in heavy) / len(heavy) if heavy else 0.0


def backward_reads(graph: SymbolGraph, debug_text: str) -> tuple[frozenset[Entry], ...]:
    """For each node, what of its inputs and outputs its backward pass reads, from a bound executor's debug text.

    Variables are left out: they are there anyway. What is read by backward operators that belong to no forward
    operator counts for the node that made it.

    Args:
        graph: of the Symbol that was bound, no node mirrored.
        debug_text: the executor's `debug_str()`.
    """
    by_name: dict[str, int] = {}
    for node in graph.nodes:
        by_name.setdefault(node.name, node.index)
    found: list[set[Entry]] = [set() for _ in graph.nodes]
    for section in debug_text.split("--------------------\n"):
        title = re.match(r"(?:.*\n)*?Op:(\S+), Name=(.*)\n", section)
        if title is None or (title.group(2) in by_name and title.group(1) != "_backward_Custom"):
            continue
        owners = [by_name[name] for name in re.findall(r"\tcdep\[\d+\]=(.*)\n", section + "\n") if name in by_name]
        for name, output in re.findall(r"\targ\[\d+\]=(.*)\((\d+)\)", section):
            source = by_name.get(name)
            if source is not None and not graph.nodes[source].is_variable and not _flows(graph.nodes[source], output):
                for owner in owners or [source]:
                    found[owner].add((source, int(output)))
    return tuple(frozenset(reads) for reads in found)


def _flows(node: GraphNode, output: str) -> bool:
    """Whether an output is one of this package's zeros, which no backward pass reads. Gradients have their names."""
    kind = node.attributes.get("op_type", "")
    return node.op == "Custom" and output == "0" and kind.startswith("zoo_") and kind != "zoo_encode"
