"""Plans of the zoo for MXNet: a model's Symbol divided into the zoo's blocks, and what each keeps as mirror marks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from mxnet_memonger.binding import Binder
from mxnet_memonger.mirror_plan import MirrorPlan, PlanSpace
from mxnet_memonger.operators import is_matrix_work
from mxnet_memonger.shapes import infer
from mxnet_memonger.symbol_graph import Entry, SymbolGraph, backward_reads
from zoo.planner.kinds import KEEP
from zoo.planner.plan import Plan
from zoo.planner.steps import parts_of

LOSS = "(loss)"
BOTTLENECKS, EFFICIENT = "efficient, keep_bottleneck", "efficient"
OFFERED = (KEEP, BOTTLENECKS, EFFICIENT)
_BLOCK = re.compile(r"(layer\d+\.\d+|features\.(?:denseblock|transition|norm5|\d+)\d*|bn_last)(?=\.|$)")


@dataclass(frozen=True)
class BlockPart:
    """One block of a network.

    Args:
        name: the zoo's.
        nodes: its operators, in order; the last one's output is the block's.
    """

    name: str
    nodes: tuple[int, ...]

    @property
    def output(self) -> int:
        """The node that gives the block's output."""
        return self.nodes[-1]


@dataclass(frozen=True)
class PartSpace:
    """A network divided into blocks, for one shape of its input.

    Args:
        space: the network.
        binder: counts bytes of its Symbols.
        parts: stem, blocks and head, in the order they run; the last is the classifier with its loss.
    """

    space: PlanSpace
    binder: Binder
    parts: tuple[BlockPart, ...]

    @classmethod
    def of(cls, model: Any, shape: tuple[int, ...]) -> PartSpace:
        """Of a zoo model's training Symbol."""
        shapes = model.shapes(shape)
        unmarked = SymbolGraph.of(model.with_loss(shape)).with_mirrored(())
        bound = infer(unmarked, None, shapes, "plan")
        binder = Binder(unmarked, None, bound)
        graph = SymbolGraph.of(unmarked, bound.given)
        space = PlanSpace(graph, backward_reads(graph, binder.debug_text(unmarked)))
        return cls(space, binder, tuple(divide(graph)))

    def kept_of(self, part: BlockPart, kind: str) -> frozenset[int]:
        """The nodes of a block whose outputs are kept by a kind that does not keep all."""
        nodes = self.space.graph.nodes
        names = frozenset(nodes[index].name for index in part.nodes)
        products = (index for index in part.nodes if is_matrix_work(nodes[index].op))
        kept = (i for i in products if kind == BOTTLENECKS or not is_done_again(nodes[i].name, names))
        return frozenset({*kept, part.output})

    def mirror_plan(self, steps: Any, kinds: Sequence[str]) -> MirrorPlan:
        """What steps and kinds mean for nodes; a stretch in a stretch runs again with it, once."""
        outputs, whole = set[int](), set[int]()
        for step in steps:
            listed = [step] if isinstance(step, int) else parts_of(step)
            last = self.parts[listed[-1]]
            if not isinstance(step, int):
                outputs.add(last.output)
            elif kinds[step] == KEEP:
                whole |= set(last.nodes)
            else:
                outputs |= self.kept_of(last, kinds[step])
        return self.space.keeping(frozenset(outputs - whole), frozenset(whole))

    @cached_property
    def read_entries(self) -> frozenset[Entry]:
        """Everything that some backward pass reads."""
        return frozenset().union(*self.space.reads)


@dataclass(frozen=True)
class CarriedPlan:
    """A plan at work in a model: it makes the Symbol that is trained.

    Args:
        plan: of the model's own parts.
        made: Symbols by the shape of the input.
    """

    plan: Plan
    made: dict[tuple[int, ...], Any] = field(default_factory=dict)

    def symbol(self, model: Any, shape: tuple[int, ...]) -> Any:
        """The planned Symbol for batches of a shape."""
        if shape not in self.made:
            found = PartSpace.of(model, shape)
            chosen = found.mirror_plan(self.plan.steps, [part.choice for part in self.plan.parts])
            self.made[shape] = found.space.symbol(chosen)
        return self.made[shape]


def divide(graph: SymbolGraph) -> list[BlockPart]:
    """Stem, blocks by their canonical names, and what follows; a node without such a name belongs to what is before."""
    groups: list[tuple[str, list[int]]] = []
    for node in graph.nodes:
        if node.is_variable:
            continue
        found = _BLOCK.match(node.name)
        name = found.group(1) if found else ""
        if not groups:
            groups.append((name or node.name, []))
        elif name and name != groups[-1][0]:
            groups.append((name, []))
        elif node.name.endswith(".pool") and not name and len(groups) > 1:
            groups.append((LOSS, []))  # a classifier starts with its pool
        groups[-1][1].append(node.index)
    return [BlockPart(name, tuple(nodes)) for name, nodes in groups]


def is_done_again(name: str, names: frozenset[str]) -> bool:
    """Whether `efficient` computes a convolution's output again: dense layers' 1x1 ones, residual blocks' last ones,
    expansions.

    Args:
        name: of the convolution.
        names: of all nodes of its block.

    Example:
        >>> is_done_again("layer1.0.conv2", frozenset({"layer1.0.conv1", "layer1.0.conv2"}))
        True
    """
    if found := re.fullmatch(r"(.*denselayer\d+)\.conv1", name):
        return f"{found.group(1)}.conv2" in names
    if found := re.fullmatch(r"(layer\d+\.\d+)\.conv(\d)", name):
        return f"{found.group(1)}.conv{int(found.group(2)) + 1}" not in names
    found = re.fullmatch(r"(features\.\d+\.conv)\.0\.0", name)
    return found is not None and f"{found.group(1)}.1.0" in names
